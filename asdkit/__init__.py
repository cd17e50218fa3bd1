"""Adversarial score distillation on PyTorch Lightning: a generator is pulled by a difference of score fields."""

__version__ = "0.1.0"
