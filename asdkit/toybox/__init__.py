"""The embedded world with known ground truth: its objects, its diffusion model and its judges."""
