"""Frozen diffusion models: their families, their files and their calls.

What can't be had, or is torn, hostile or of an unknown kind, is a PriorUnavailable of one sentence.
"""
