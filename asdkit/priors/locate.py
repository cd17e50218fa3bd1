"""Where a prior comes from: a folder, a single file, the hub, or random numbers; and what is added to its files."""

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from asdkit.core.errors import PriorUnavailable
from asdkit.core.text import local
from asdkit.priors.families import Embedded, Model, StableDiffusion, family_of
from asdkit.priors.finetune import add_lora, add_words, finetune_file, word_of
from asdkit.priors.folder import ModelFolder, check_complete, digest_of, one_sentence, shapes_of
from asdkit.priors.hub import ALIASES, KNOWN, folder_of
from asdkit.priors.hub import EMBEDDED as EMBEDDED
from asdkit.priors.required_files import files_of_component, files_of_model, named_parts

_INSIDE: dict[str, tuple[str, ...]] = {part: tuple(starts) for part, starts in KNOWN["inside"].items()}
RANDOM = "random:"
_NOISE = 1_048_573  # a prime, so that no two rows of a matrix get the same numbers


# What published models' configurations say beyond diffusers' defaults, and the shapes of an embedded prompt's parts.
ARCHITECTURES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("random_models.json").read_text())


class RandomModel(ModelFolder):
    """Stands for a folder: a named architecture, whose weights and embedded prompts are random and always the same."""

    def __init__(self, name: str) -> None:
        if name not in ARCHITECTURES:
            raise ValueError(f"There is no architecture {name!r}; random: is followed by {', '.join(ARCHITECTURES)}.")
        self.path, self.variant, self.names = Path(f"{RANDOM}{name}"), "", []
        self.architecture = ARCHITECTURES[name]

    def json(self, name: str) -> dict[str, Any]:
        vae = ["diffusers", self.architecture["vae"].get("_class_name")]
        index = {"_class_name": self.architecture["pipeline"], "vae": vae}
        return (self.architecture | {"model_index.json": index})[name.partition("/")[0]]

    def digest(self) -> str:
        return str(self.path)

    def model(self, model_class: Any, part: str, dtype: torch.dtype = torch.float32) -> Model:
        """A component whose layers keep the size of what goes through them, so that deep networks stay finite."""
        from diffusers.models.modeling_utils import no_init_weights  # drawing them takes minutes for real sizes

        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with no_init_weights():
                model = model_class.from_config(self.architecture["vae" if part == "vae" else "network"])
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
        return {
            name: torch.ones(shape) if name == "mask" else torch.randn(shape, generator=random, device="cpu")
            for name, shape in self.architecture["embeds"].items()
        }


def locate(path: str, variant: str = "", config: str = "") -> ModelFolder:
    """The files of a prior, named as for `Pretrained`; fetched from the hub if its cache does not hold them."""
    if path == EMBEDDED:
        return ModelFolder(*folder_of(str(Path(__file__).parents[1] / "toybox" / "weights"), files_of_model()))
    if path.startswith(RANDOM):
        return RandomModel(path.removeprefix(RANDOM))
    file = local(path)
    if file.is_file():
        return SingleFile(file, config)
    return ModelFolder(*folder_of(path, files_of_model(variant)), variant)


def component(path: str) -> ModelFolder:
    """A folder, or an id of the hub, that holds a single component and no index: an autoencoder."""
    return ModelFolder(*folder_of(path, files_of_component))


class SingleFile(ModelFolder):
    """A .safetensors file in the layout that a model was trained in; the model `config` has all that it lacks."""

    def __init__(self, file: Path, config: str) -> None:
        shapes = _shapes(file)
        self._holds = [part for part, starts in _INSIDE.items() if any(name.startswith(starts) for name in shapes)]
        super().__init__(*folder_of(config or base_of_file(file), files_of_model(without=self._holds)))
        self.file = file

    def digest(self) -> str:
        return digest_of(self.weights | {"": self.file})

    def model(self, model_class: Any, part: str, dtype: torch.dtype = torch.float32) -> Model:
        """A component with weights, all of which must be there."""
        if part not in self._holds:
            return super().model(model_class, part, dtype)
        from diffusers.loaders.single_file import load_single_file_sub_model
        from safetensors.torch import load_file

        kind = model_class.__module__.partition(".")[0], model_class.__name__
        how: dict[str, Any] = {"pipelines": None, "is_pipeline_module": False, "local_files_only": True}
        how |= {"cached_model_config_path": str(self.seen), "torch_dtype": dtype}
        with one_sentence(f"{self.file}'s {part}"):
            model = load_single_file_sub_model(*kind, part, load_file(self.file), **how)
            check_complete(name for name, value in model.named_parameters() if value.is_meta)
        return model.requires_grad_(False).eval()


def _shapes(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix != ".safetensors":
        advice = "look for a safetensors copy, or convert it"
        raise PriorUnavailable(f"{file} is no .safetensors file, and asdkit opens no pickles; {advice}.")
    shapes = {name: torch.empty(shape, device="meta") for name, shape in shapes_of(file).items()}
    if any("lora" in name for name in shapes):
        raise PriorUnavailable(f"{file} is a LoRA; name it with prior.finetune, and its model with prior.path.")
    return shapes


def base_of_file(file: Path) -> str:
    """The alias of the model whose kind a file is of."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    shapes = _shapes(file)
    kind = infer_diffusers_model_type(shapes)
    if kind == "v2":
        unsaid = f"{file} is a Stable Diffusion 2, and the file doesn't say whether it predicts noise or velocity"
        choices = "prior.config=sd21-base (noise, 512 pixels) or prior.config=sd21 (velocity, 768 pixels)"
        raise PriorUnavailable(f"{unsaid}; say {choices}.")
    if kind == "v1" and not any(name.startswith("model.diffusion_model.") for name in shapes):
        kind = "unknown"  # what diffusers says of everything that it doesn't know is v1
    base = next((alias for alias, known in ALIASES.items() if known.single_file == kind), "")
    if not base:
        other = "in prior.config the model whose settings, vocabularies and missing parts it shares"
        advice = f"name {other}, or name a folder in diffusers' layout"
        raise PriorUnavailable(f"{file} is not known as a whole model; {advice}.")
    return base


def overlay_of(path: str, config: str = "") -> str:
    """The name of a model's overlay, such as `sdxl`; empty for asdkit's own models. No weights are fetched for it."""
    name = path.removeprefix(RANDOM).partition("@")[0]
    if name in ALIASES:
        return ALIASES[name].overlay
    if name == EMBEDDED or path.startswith(RANDOM):
        return ""
    file = local(path)
    if file.is_file():
        return overlay_of(config or base_of_file(file))
    files = ModelFolder(*folder_of(path, files_of_model(without=_INSIDE)))
    if "asdkit.json" in files.names:
        return ""
    family = family_of(str(files.json("model_index.json").get("_class_name")))
    wide = family is StableDiffusion and files.json("unet/config.json").get("cross_attention_dim") == 1024
    return "sd21" if wide else family.overlay


@dataclass
class ModelSource:
    """Files of a `Pretrained`, which are found, and fetched where the hub's cache lacks them, when first needed."""

    path: str
    variant: str
    config: str
    finetune: str
    finetune_scale: float
    tiny_vae: str

    @cached_property
    def _located(self) -> tuple[ModelFolder, Path | None] | PriorUnavailable:
        """The model's files and the LoRA's; or why they can't be had, so that the hub isn't asked a second time."""
        try:
            lora = finetune_file(self.finetune) if self.finetune else None
            if lora:
                shapes_of(lora)  # refuses a torn one
            return locate(self.path, self.variant, self.config), lora
        except PriorUnavailable as error:
            return error

    def _files_and_lora(self) -> tuple[ModelFolder, Path | None]:
        if isinstance(self._located, PriorUnavailable):
            raise self._located
        return self._located

    @property
    def files(self) -> ModelFolder:
        """The model's files."""
        return self._files_and_lora()[0]

    @cached_property
    def digest(self) -> str:
        """12 hex digits that stand for the weights, the LoRA and its scale; those of a tiny autoencoder after them."""
        files, lora = self._files_and_lora()
        digest = files.digest()
        if lora:
            digest = digest_of({"lora": lora}, f"{digest} {self.finetune_scale} {word_of(lora)}".rstrip())
        return f"{digest}+{digest_of(component(self.tiny_vae).weights)}" if self.tiny_vae else digest

    def add_lora(self, part: str, model: Model | None, network: Any) -> None:
        """Add the LoRA, where there is one, to a component; `network` are the settings of the network."""
        files, lora = self._files_and_lora()
        if lora and model is not None and not word_of(lora):
            index = files.json("model_index.json")
            parts = named_parts(index, "unet", "transformer", "text_encoder")
            add_lora(lora, index["_class_name"], part, model, network, self.finetune_scale, parts)

    def add_words(self, pipeline: Any, texts: list[str]) -> None:
        """Teach a pipeline the word of a textual inversion, where there is one in the place of a LoRA."""
        lora = self._files_and_lora()[1]
        if lora and word_of(lora):
            add_words(lora, pipeline, texts)
