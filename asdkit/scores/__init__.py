"""The paper's mathematics: equations, noise schedules, priors and fields of scores."""
