"""A Trainer that is silent and leaves nothing behind."""

from typing import Any

import pytorch_lightning as pl

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def quiet_trainer(steps: int = 1, **options: Any) -> pl.Trainer:
    """Of one process on the CPU, unless the options say otherwise."""
    return pl.Trainer(**{"max_steps": steps, "accelerator": "cpu", "devices": 1, **QUIET, **options})
