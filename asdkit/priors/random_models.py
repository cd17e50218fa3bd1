"""Named architectures with random weights (`random:sd21`), which take the time and memory of the real models."""

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch

from asdkit.priors.families import Embedded, Model
from asdkit.priors.folder import ModelFolder

RANDOM = "random:"
_NOISE = 1_048_573  # a prime, so that no two rows of a matrix get the same numbers


class Architecture(NamedTuple):
    """What a published model's configuration says beyond diffusers' defaults; shapes of an embedded prompt's parts."""

    model: str
    pipeline: str
    network: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    embeds: dict[str, list[int]]


ARCHITECTURES = {
    name: Architecture(**settings)
    for name, settings in json.loads(Path(__file__).with_suffix(".json").read_text()).items()
}


class RandomModel(ModelFolder):
    """Stands for a folder: a named architecture, whose weights and embedded prompts are random and always the same."""

    def __init__(self, name: str) -> None:
        if name not in ARCHITECTURES:
            raise ValueError(f"There is no architecture {name!r}; random: is followed by {', '.join(ARCHITECTURES)}.")
        self.path, self.variant, self.names = Path(f"{RANDOM}{name}"), "", []
        self.architecture = ARCHITECTURES[name]

    def has(self, name: str) -> bool:
        return False

    def json(self, name: str) -> dict[str, Any]:
        pipeline, vae, scheduler = self.architecture.pipeline, self.architecture.vae, self.architecture.scheduler
        index = {"_class_name": pipeline, "vae": ["diffusers", vae.get("_class_name")]}
        return {"model_index.json": index, "vae": vae, "scheduler": scheduler}[name.partition("/")[0]]

    def digest(self) -> str:
        return str(self.path)

    def model(self, model_class: Any, part: str, dtype: torch.dtype = torch.float32) -> Model:
        """A component whose layers keep the size of what goes through them, so that deep networks stay finite."""
        from diffusers.models.modeling_utils import no_init_weights  # drawing them takes minutes for real sizes

        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with no_init_weights():
                model = model_class.from_config(self.architecture.vae if part == "vae" else self.architecture.network)
        finally:
            torch.set_default_dtype(default)
        model.requires_grad_(False).eval()
        noise = torch.randn(_NOISE, generator=torch.Generator("cpu").manual_seed(0), device="cpu").to(model.device)
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.ndim < 2:
                parameter.fill_(float(name.endswith("weight")))
                continue
            values = (noise.roll(-index) / parameter[0].numel() ** 0.5).to(parameter)
            for piece in parameter.view(-1).split(_NOISE):
                piece.copy_(values[: len(piece)])
        return model

    def embedded(self, text: str) -> Embedded:
        """Normal numbers of a prompt's true shapes, and a mask of ones; the same text has the same ones."""
        random = torch.Generator("cpu").manual_seed(zlib.crc32(text.encode()))
        shapes = self.architecture.embeds
        return {
            name: torch.ones(shape) if name == "mask" else torch.randn(shape, generator=random, device="cpu")
            for name, shape in shapes.items()
        }
