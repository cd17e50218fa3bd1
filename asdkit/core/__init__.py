"""What every room stands on and what knows nothing of the field: parts, ranges, ramps, randomness, trust and files."""
