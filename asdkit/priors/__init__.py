"""Frozen diffusion models; one that can't be had, is torn, hostile or unknown, is a PriorUnavailable of a sentence."""
