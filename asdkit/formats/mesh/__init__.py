"""Meshes out of densities, their textures and their files."""
