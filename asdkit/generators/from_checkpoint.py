"""What checkpoints hold of generators, and the base of the module that writes them.

A checkpoint comes from anywhere: nothing in it is executed.
"""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.errors import unwrapped
from asdkit.core.randomness import generator_for
from asdkit.core.text import local
from asdkit.core.trust import refusal, trusting
from asdkit.generators.base import Generator, Render
from asdkit.rendering.cameras import Batch, Views
from asdkit.rendering.settings import Rendering

INSTANTIATOR = "pytorch_lightning.cli.instantiate_module"  # how Lightning builds a module from its arguments
_NEEDED = {"prompt", "prior", "generator", "guidance"}


class Saved(NamedTuple):
    """A checkpoint's file, the arguments of its `Distillation` (parts are specs), and its generator's weights."""

    file: Path
    arguments: dict[str, Any]
    weights: dict[str, Tensor]


def read(path: Path) -> Saved:
    """What a checkpoint, or the last one of a run folder, holds; a ValueError if it is missing or no good."""
    path = local(path)
    file = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"There is no checkpoint {file}; name a folder that asdkit fit made, or a checkpoint in it.")
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True) if is_whole(file) else {}
        arguments, weights = dict(saved["hyper_parameters"]), dict(saved["state_dict"])
    except OSError:
        raise
    except Exception:  # torch's reader raises whatever a broken file makes it stumble over
        raise ValueError(f"{file} is broken, or no checkpoint of asdkit.") from None
    if arguments.pop("_instantiator", INSTANTIATOR) != INSTANTIATOR or not arguments.keys() >= _NEEDED:
        raise ValueError(f"{file} is the checkpoint of something else than a distillation.")
    parts = {name.partition("."): value for name, value in weights.items()}
    return Saved(file, arguments, {name: value for (part, _, name), value in parts.items() if part == "generator"})


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is all there, every byte as it was written, and none that unpacks to more."""
    try:
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()
            plain = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
            return plain and sum(part.file_size for part in parts) <= path.stat().st_size and file.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, EOFError):
        return False


def restore(generator: Generator, saved: Saved) -> None:
    """Give a generator the weights that were saved, which must be its own and finite."""
    try:
        generator.load_state_dict(saved.weights)
    except (RuntimeError, KeyError):
        raise ValueError(f"{saved.file} does not hold the weights of the generator that it names.") from None
    if not all(isinstance(value, Tensor) and bool(value.isfinite().all()) for value in saved.weights.values()):
        raise ValueError(f"{saved.file} holds weights that are not finite.")


def generator_of(path: Path) -> Generator:
    """The generator of a run folder or a checkpoint."""
    return built(read(path))


def built(saved: Saved) -> Generator:
    """The generator that was saved; a ValueError if it can't be built, or its weights are another's."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Generator, "generator")
    try:
        with trusting():
            parsed = parser.parse_object({"generator": started_anyhow(saved.arguments["generator"])})
            generator = parser.instantiate_classes(parsed).generator
    except Exception as error:  # of jsonargparse, or of a part that does not like its arguments
        raise cannot_build(saved.file, error) from None
    restore(generator, saved)
    return generator


def started_anyhow(spec: dict[str, Any]) -> dict[str, Any]:
    """A generator's class path and arguments, without the file that it started from, which may be gone by now."""
    arguments = {name: value for name, value in spec.get("init_args", {}).items() if name not in ("init", "start")}
    return {"class_path": spec.get("class_path"), "init_args": arguments}


def cannot_build(file: Path, error: Exception) -> ValueError:
    """The sentence for a checkpoint that names a part which can't be built."""
    if refused := refusal(str(error), str(file)):
        return ValueError(refused)
    lines = [line.strip(" -") for line in str(unwrapped(error)).splitlines()]
    reason = [type(error).__name__, *(line for line in lines if line and not line.startswith("Given value"))][-1]
    return ValueError(f"{file} names a part that can't be built: {reason}")


class GeneratorModule(pl.LightningModule):
    """Base of a module that has a generator, a frozen prior, settings of its rendering and a seed.

    Its checkpoints hold all that learns, and what it takes to build it again.
    """

    generator: Generator
    rendering: Rendering
    seed: int

    def backdrop(self, step: int) -> Float[Tensor, " 3"] | None:
        """The colour behind the object in this step; None for the generator's own background."""
        random = generator_for(self.seed, step, "background", self.global_rank)
        share, grey = torch.rand(2, generator=random).tolist()
        if share < self.rendering.random_background:
            return torch.full((3,), 0.5 + 0.5 * grey, device=self.device)
        return None if self.generator.owns_background else self.plain_background

    @property
    def plain_background(self) -> Float[Tensor, " 3"]:
        """The colour behind the object in metrics and pictures."""
        return torch.full((3,), self.rendering.background, device=self.device)

    def show(self, views: Views | None) -> Render:
        """The generator's views on the plain background, which metrics and pictures are made of."""
        return self.generator.render(views, self.plain_background)

    def validation_step(self, batch: Batch, batch_idx: int) -> Render:  # type: ignore[override]
        return self.show(batch.views)

    test_step = predict_step = validation_step  # type: ignore[assignment]

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, **options: Any
    ) -> "GeneratorModule":
        """Lightning's, for files of this machine: nothing in them is executed, see `core.trust`.

        A file that is missing, broken, of something else, or names a class that is not trusted, is a ValueError.
        """
        file = read(Path(checkpoint_path)).file
        try:
            with trusting():
                return super().load_from_checkpoint(file, **options | {"weights_only": True})
        except Exception as error:
            if refused := refusal(str(error), str(file)):
                raise ValueError(refused) from None
            raise

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Everything that learns; never the frozen prior."""
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if not k.startswith("prior.")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has its own weights: it does not name the file that the generator once started from."""
        checkpoint["hyper_parameters"]["generator"] = started_anyhow(self.generator.spec)
