"""What happens around the training step: progress, pictures, checkpoints, reports and guards."""
