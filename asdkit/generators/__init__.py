"""What is optimised: Gaussians, radiance fields, images and latents."""
