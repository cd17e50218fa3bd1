"""Pictures from geometry: cameras, rays and rasterisers."""
