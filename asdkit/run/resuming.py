"""Whether a checkpoint fits the run that goes on from it, which is known before anything in the run folder changes."""

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from asdkit.core.yaml_text import at, settings_of
from asdkit.distillation import Distillation
from asdkit.generators.from_checkpoint import started_anyhow
from asdkit.run.grid import option_values

_log = logging.getLogger(__name__)


def check_generator(run: Path, options: Iterable[str]) -> None:
    """Refuse, by a ValueError, options that name another generator than a run has; the run's own would not parse."""
    part = at(settings_of(run / "config.yaml"), "model.generator")
    generator = part.get("class_path") if isinstance(part, dict) else None
    for given in option_values(options, "--model.generator"):
        if generator and given.rpartition(".")[2] != str(generator).rpartition(".")[2]:
            raise ValueError(
                f"The checkpoint does not fit: --model.generator is {generator} in {run}, and {given} here."
            )


def fit_to(module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint whose tensors are others than a run's, once that is set up; take out what another method had.

    It is a ValueError if the generator, or the same method's discriminator, is another than the checkpoint's.
    """
    saved, own = checkpoint["state_dict"], module.state_dict()
    shapes = [{name: list(getattr(value, "shape", ())) for name, value in state.items()} for state in (saved, own)]
    unlike = [name for name in {**saved, **own} if shapes[0].get(name) != shapes[1].get(name)]
    if not unlike:
        return
    arguments = checkpoint.get("hyper_parameters", {})
    if not (isinstance(module, Distillation) and {"generator", "guidance"} <= arguments.keys()):
        raise ValueError(f"The checkpoint does not fit: {_reason(unlike[0], shapes, ())}.")
    before, now = _arguments(arguments), _arguments(module.hparams)
    methods = [spec["guidance"].get("class_path") for spec in (before, now)]
    if methods[0] == methods[1] or any(name.startswith("generator.") for name in unlike):
        raise ValueError(f"The checkpoint does not fit: {_reason(unlike[0], shapes, _differences(before, now))}.")
    for name in unlike:
        saved.pop(name, None)
    checkpoint["optimizer_states"] = checkpoint.get("optimizer_states", [])[:1]  # the generator's
    parts = ", ".join(dict.fromkeys(re.sub(r"(\.adapter)\..*", r"\1", name) for name in unlike))
    _log.warning("The checkpoint is of %s, the run is of %s: %s can't be loaded, or starts anew.", *methods, parts)


def _reason(name: str, shapes: list[dict[str, list[int]]], differences: Iterable[tuple[str, Any, Any]]) -> str:
    """The options that make the tensor of this name another one."""
    parts = ("generator",) if name.startswith("generator.") else ("guidance", "prior")
    said = [
        f"--model.{option} is {'left out' if before is None else before} in the checkpoint, and {now} here"
        for option, before, now in differences
        if option.startswith(parts)
    ]
    before, now = (shape.get(name, "missing") for shape in shapes)
    return "; ".join(said) or f"{name} is {before} in the checkpoint, and {now} here"


def _arguments(arguments: Any) -> dict[str, Any]:
    """What a module was built with, without the file that its generator started from."""
    return dict(arguments) | {"generator": started_anyhow(arguments["generator"])}


def _differences(before: Any, now: Any, option: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The options in which two specs differ, with both values."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            first, second = (value.get("class_path") if isinstance(value, dict) else value for value in (before, now))
            yield option, first, second
    elif before.get("class_path") != now.get("class_path"):
        yield option, before.get("class_path"), now.get("class_path")
    else:
        before, now = (spec.get("init_args", spec) for spec in (before, now))
        for name in {**before, **now}:
            yield from _differences(before.get(name), now.get(name), f"{option}.{name}".strip("."))
