"""Frozen diffusion models: their families, their files and their calls."""
