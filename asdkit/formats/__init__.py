"""Files in and out: Gaussians, meshes, pictures and pages. Reading `names` alone loads no numpy."""
