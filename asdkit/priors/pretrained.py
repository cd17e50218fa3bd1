"""Pretrained text-to-image models as priors, through diffusers."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from asdkit.core.errors import PriorUnavailable
from asdkit.priors.families import Embedded, Family, Flux, family_of
from asdkit.priors.finetune import add_lora
from asdkit.priors.folder import ModelFolder
from asdkit.priors.hub import finetune_file
from asdkit.priors.locate import EMBEDDED, Alone, SingleFile, source
from asdkit.priors.prompt_cache import EmbeddingCache, blended
from asdkit.priors.required_files import fingerprint
from asdkit.scores.camera_embedding import CameraEmbedding
from asdkit.scores.conditions import DREAMFUSION, Condition, ViewWords
from asdkit.scores.prior import Noised, Prior, Switch

CHANNELS_LAST_ON = ("cuda",)  # devices on which convolutions are faster that way


class Pretrained(Prior):
    """A frozen text-to-image model: Stable Diffusion 1 to 3.5, XL, FLUX.1, PixArt, or the first stage of DeepFloyd IF.

    Args:
        path: `toybox` for the small model that asdkit ships, a folder in diffusers' layout, a .safetensors file with
            a whole model, an id of the hub (`owner/name` or `owner/name@revision`), or its alias such as `sd21-base`;
            `random:sd21` and the like are random weights of that architecture, for measuring.
        revision: of an id: a branch, a tag or a commit; what the alias pins, or the main branch, when empty.
        variant: weights whose files' names say so are preferred, such as `fp16`.
        config: of a single file: the model whose settings and vocabularies it shares, named as in `path`.
        finetune: a LoRA that is added to the frozen weights: a .safetensors file, its folder, or an id.
        finetune_scale: how much of it.
        use_camera: give the camera itself to a model that takes it (a folder `camera/`), beside the view words.
        image_size: images of another height and width, in pixels, are resized to this before they are encoded, so that
            early iterations can render small ones (`data.size`); 0 for encoding all as they are.
        dtype: what the frozen networks compute in; schedule, phi and generator stay in single precision or better.
        distilled_guidance: the guidance scale that a guidance-distilled network (FLUX.1 dev) is told.
        checkpointing: compute what lies within the networks' blocks again in the backward pass, instead of keeping it:
            less memory for about one more forward pass of what learns, and of the autoencoder.
        compile: compile the network with torch.compile, at the first iterations; not what pictures are made of.
        tiny_vae: a folder, or an id of the hub, with an `AutoencoderTiny` (TAESD and its kin) that takes the place of
            the model's own autoencoder, of which it is an approximation; empty for none.

    Raises:
        ValueError: a negative size, an empty path, or two revisions.
        PriorUnavailable: (in `setup`) it is missing, torn, gated, withdrawn, of an unknown kind, or out of reach.
    """

    def __init__(
        self,
        path: str = EMBEDDED,
        revision: str = "",
        variant: str = "",
        config: str = "",
        finetune: str = "",
        finetune_scale: float = 1.0,
        use_camera: bool = True,
        image_size: int = 0,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        distilled_guidance: float = 3.5,
        checkpointing: bool = False,
        compile: bool = False,
        tiny_vae: str = "",
    ) -> None:
        super().__init__()
        if image_size < 0:
            raise ValueError(f"The prior's image_size can't be negative; got {image_size}.")
        if not path:
            raise ValueError("The prior's path is empty; name a folder in diffusers' layout, or toybox.")
        self._source, self._finetune, self._finetune_scale = (path, revision, variant, config), finetune, finetune_scale
        self.path, self._use_camera, self.image_size = path, use_camera, image_size
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
        self._distilled_guidance, self.tiny_vae = distilled_guidance, tiny_vae
        self.checkpointing, self.compile_network = checkpointing, compile
        self.view_words: ViewWords | None = DREAMFUSION
        self.known_words: frozenset[str] | None = None
        self.camera: CameraEmbedding | None = None
        self.vae: nn.Module | None = None
        self._files: ModelFolder | None = None
        self._finetune_file: Path | None = None
        self._unavailable: PriorUnavailable | None = None
        self._digest = ""
        self._embeddings: dict[str, Embedded] = {}
        self._offset: Tensor | None = None
        self._again: Callable[[], AbstractContextManager] = nullcontext  # what a block is computed again in
        self._compiled_region = False

    @property
    def files(self) -> ModelFolder:
        """Where the weights are; an id that is not in the hub's cache is fetched when this is first asked for.

        Raises:
            PriorUnavailable: it can't be had; the hub isn't asked a second time.
        """
        if self._unavailable is not None:
            raise self._unavailable
        if self._files is None:
            try:
                self._finetune_file = finetune_file(self._finetune) if self._finetune else None
                self._files = source(*self._source)
            except PriorUnavailable as error:
                self._unavailable = error
                raise
        return self._files

    @property
    def folder(self) -> Path:
        """Their folder; that of the settings, if the weights are in a single file."""
        return self.files.path

    @property
    def digest(self) -> str:
        """A fingerprint of 12 hex digits of the weights, and of the LoRA that is added to them; with a tiny autoencoder
        its own after them.
        """
        if not self._digest:
            digest = self.files.digest()
            if self._finetune_file:
                lora = {"lora": self._finetune_file}
                digest = fingerprint(lora, lora, f"{digest} {self._finetune_scale}")
            self._digest = f"{digest}+{Alone(self.tiny_vae).digest()}" if self.tiny_vae else digest
        return self._digest

    def setup(self) -> None:
        if "network" in self._modules:
            return
        folder = self.files
        index = folder.json("model_index.json")
        self.family = self._family(index)
        if self.family.has_vae:
            self.vae = self._load_vae(folder, index)
            self.channels = self.vae.config.latent_channels
        self.network = folder.model(self.family.network_class(), self.family.network_part, self.dtype)
        self._add_lora(self.family.network_part, self.network)
        self.channels = self.channels or self.network.config.in_channels
        self.adapter_targets = self.family.targets
        self.family.time_module(self.network).register_forward_hook(self._add_offset)
        self.time_width = self.family.time_width(self.network)
        size = self.image_size or 8 * (self.network.config.get("sample_size") or 128)
        self.schedule = self.family.schedule(folder.json("scheduler/scheduler_config.json"), (size // 16) ** 2)
        self._load_extras(folder)
        self.requires_grad_(False).eval()
        self._speed_up(self.network)
        if self.checkpointing and self.vae is not None:
            self.vae.enable_gradient_checkpointing(self._checkpointed)

    def _add_lora(self, part: str, model: nn.Module | None) -> None:
        if self._finetune_file and model is not None:
            pipeline = self.files.json("model_index.json")["_class_name"]
            add_lora(self._finetune_file, pipeline, part, model, self.network.config, self._finetune_scale)

    def _family(self, index: dict[str, Any]) -> Family:
        kind = family_of(str(index.get("_class_name")))
        return kind(self._distilled_guidance) if kind is Flux else kind()

    def _load_vae(self, folder: ModelFolder, index: dict[str, Any]) -> nn.Module:
        from diffusers import AutoencoderKL, AutoencoderTiny

        if self.tiny_vae:
            vae = Alone(self.tiny_vae).model(AutoencoderTiny, ".", self.dtype)
            mine, its = folder.json("vae/config.json")["latent_channels"], vae.config.latent_channels
            if mine != its:
                raise ValueError(f"tiny_vae has {its} channels and the prior's latents {mine}; name one of its family.")
            return vae
        tiny = index.get("vae", ["", ""])[1] == "AutoencoderTiny"
        overflows = folder.json("vae/config.json").get("force_upcast", False) and self.dtype == torch.float16
        dtype = torch.float32 if overflows else self.dtype
        return folder.model(AutoencoderTiny if tiny else AutoencoderKL, "vae", dtype)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "Pretrained":
        """Prompt embeddings move with the weights; convolutions take the order of axes that is fast there."""
        super()._apply(function, recurse)
        device = function(torch.zeros(1)).device
        if device.type in CHANNELS_LAST_ON:
            for part in filter(None, (self._modules.get("network"), self.vae)):
                part.to(memory_format=torch.channels_last)
        self._embeddings = {
            text: {name: value.to(device) for name, value in embedded.items()}
            for text, embedded in self._embeddings.items()
        }
        return self

    def _load_extras(self, folder: ModelFolder) -> None:
        """What asdkit's own priors tell beside diffusers' files: view words, vocabulary, a camera network."""
        if folder.has("asdkit.json"):
            facts = folder.json("asdkit.json")
            self.view_words = ViewWords(tuple(facts["view_words"]), facts["overhead_word"], facts["overhead_above_deg"])
            self.known_words = frozenset(facts["words"])
        if self._use_camera and folder.has("camera/model.safetensors"):
            from safetensors.torch import load_file

            self.camera = CameraEmbedding(self.time_width)
            with folder.reading("camera"):
                self.camera.load_state_dict(load_file(folder.path / "camera" / "model.safetensors"))

    # ------------------------------------------------------------------------------------------------ images

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Images in [0,1] to x0: (z - shift) scale of the autoencoder's mean z, or the images within [-1,1]."""
        side = self.image_size or (0 if self.vae else self.network.config.sample_size)
        if side and images.shape[-2:] != (side, side):
            images = nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
        if self.vae is None:
            return images * 2 - 1
        encoded = self.vae.encode((images * 2 - 1).to(self.vae.dtype))
        latents = encoded.latent_dist.mean if "latent_dist" in encoded else encoded.latents
        return (_to_float32(latents) - self._shift()) * self.vae.config.scaling_factor

    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        images = x0.detach()
        if self.vae is not None:
            latents = images / self.vae.config.scaling_factor + self._shift()
            with torch.no_grad():
                images = self.vae.decode(latents.to(self.vae.dtype)).sample
        return (_to_float32(images) / 2 + 0.5).clamp(0, 1)

    def _shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the x0 of an image of this many pixels."""
        if self.vae is None:
            return self.channels, height, width
        factor = 2 ** (len(self.vae.config.get("block_out_channels") or self.vae.config.encoder_block_out_channels) - 1)
        return self.channels, height // factor, width // factor

    # ------------------------------------------------------------------------------------------------ prompts

    def prepare(self, conditions: Sequence[Condition]) -> None:
        texts = [text for condition in conditions for text in self._texts(condition)]
        missing = [text for text in dict.fromkeys(texts) if text not in self._embeddings]
        if not missing:
            return
        device = self.schedule.alphas.device
        for text, embedded in self._embed(missing).items():
            self._embeddings[text] = {name: _to_float32(value).to(device) for name, value in embedded.items()}
        self.condition_shape = tuple(self._embeddings[missing[0]]["text"].shape)

    def _embed(self, texts: list[str]) -> dict[str, Embedded]:
        """Prompts, each embedded; those of other models than the embedded one are remembered on disk."""
        if self.path == EMBEDDED:
            return self._encode_texts(texts)
        given = {text: self.files.embedded(text) for text in texts}
        if None not in given.values():
            return given
        beyond = self._finetune_file is not None or isinstance(self.files, SingleFile)  # more than the folder's files
        also = [str(self.dtype), self.files.variant, self.digest if beyond else ""]
        cache = EmbeddingCache(self.folder, type(self.family).__name__, ", ".join(filter(None, also)))
        return cache.recall(texts, self._encode_texts)

    @torch.no_grad()
    def _encode_texts(self, texts: list[str]) -> dict[str, Embedded]:
        """Prompts through the text encoders, which are loaded for that, onto a GPU with room for them, and let go."""
        parts = {self.family.network_part: self.network, "vae": self.vae}
        pipeline = self.files.text_pipeline(parts, self.dtype)
        encoders = {
            name: part for name, part in pipeline.components.items() if part and name.startswith("text_encoder")
        }
        for name in encoders.keys() & {"text_encoder", "text_encoder_2"}:
            self._add_lora(name, encoders[name])
        size = sum(weights.nbytes for encoder in encoders.values() for weights in encoder.parameters())
        if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 1.5 * size:
            for encoder in encoders.values():
                encoder.to("cuda")
        embedded = {name: value.cpu() for name, value in self.family.embed(pipeline, texts).items()}
        return {text: {name: value[row] for name, value in embedded.items()} for row, text in enumerate(texts)}

    def _texts(self, condition: Condition) -> list[str]:
        """What is embedded for a condition: its text, and if it depends on the view that of each direction."""
        if condition.view_dependent and self.view_words is not None and condition.text:
            named = self.view_prompts.get(condition.text)
            return [condition.text, *self.view_words.prompts(condition.text, named)]
        return [condition.text]

    def unknown_words(self, text: str) -> list[str]:
        """The words of a prompt that this prior has never seen; none where it does not say what it knows."""
        words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
        return [] if self.known_words is None else [word for word in words if word not in self.known_words]

    # ------------------------------------------------------------------------------------------------ predictions

    def predict(
        self, x: Noised, conditions: Sequence[Condition], adapter: Switch | None = None
    ) -> list[Float[Tensor, "B C h w"]]:
        self.prepare(conditions)
        copies = len(conditions)
        rows = [self._rows(x, condition) for condition in conditions]
        prompts = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        x_t, t = x.x_t.repeat(copies, 1, 1, 1), x.t.repeat(copies)
        adapted = nullcontext() if adapter is None else adapter.switched_on(x.views, copies)
        with self.offset_time(self._camera_rows(x, conditions)), adapted, self._graphs(adapter):
            dtype = next(self.network.parameters()).dtype
            prompts["text"] = self.moved(prompts["text"])
            prompts = {name: value.to(dtype) for name, value in prompts.items()}
            output = self.family.call(self.network, x_t.to(dtype), self.schedule.times[t], prompts)
        return list(self.schedule.to_eps(_to_float32(output), x_t, t).chunk(copies))

    def _rows(self, x: Noised, condition: Condition) -> Embedded:
        """A condition's embedding for each sample of x."""
        texts = self._texts(condition)
        if len(texts) == 1 or x.views is None:
            return {name: value.expand(len(x.t), *value.shape) for name, value in self._embeddings[texts[0]].items()}
        rows = [self._embeddings[text] for text in texts[1:]]
        directions = {name: torch.stack([embedded[name] for embedded in rows]) for name in rows[0]}
        azimuth, elevation = x.views.azimuth, x.views.elevation
        if condition.words == "blended":
            first, second, share = self.view_words.neighbours(azimuth, elevation)
            return {name: blended(value[first], value[second], share) for name, value in directions.items()}
        if condition.words == "nearest":
            chosen = self.view_words.index(azimuth, elevation)
        else:
            chosen = self.view_words.opposed(azimuth, condition.words)
        return {name: value[chosen] for name, value in directions.items()}

    def _camera_rows(self, x: Noised, conditions: Sequence[Condition]) -> Float[Tensor, "N width"] | None:
        if self.camera is None or x.views is None:
            return None
        offset = self.camera(x.views)
        return torch.cat([offset if c.sees_camera else torch.zeros_like(offset) for c in conditions])

    @contextmanager
    def offset_time(self, offset: Float[Tensor, "N width"] | None) -> Iterator[None]:
        """Add to the time embedding of each row within this context; contexts add up."""
        before = self._offset
        if offset is not None:
            self._offset = offset if before is None else before + offset
        try:
            yield
        finally:
            self._offset = before

    def _add_offset(self, module: nn.Module, args: tuple, embedding: Tensor) -> Tensor:
        return embedding if self._offset is None else embedding + self._offset.to(embedding)

    def copy_network(self) -> nn.Module:
        """A copy of the network in single precision; its hooks, like the original's, are methods of this prior."""
        copied = copy.deepcopy(self.network, {id(self): self}).float()
        self._speed_up(copied)
        return copied

    # ------------------------------------------------------------------------------------------------ speed and memory

    def _speed_up(self, network: nn.Module) -> None:
        if self.checkpointing:
            network.enable_gradient_checkpointing(self._checkpointed)
        if self.compile_network:
            network.compile(dynamic=False)

    def _checkpointed(self, block: nn.Module, *args: Any) -> Any:
        """A block's output, which is computed again in the backward pass, with the adapter that is on now."""
        if torch.compiler.is_compiling():  # the graph holds the adapter
            return checkpoint(block, *args, use_reentrant=False)
        contexts = partial(_checkpoint_contexts, self._again)
        return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)

    @contextmanager
    def _graphs(self, adapter: Switch | None) -> Iterator[None]:
        """Compiled graphs are for training steps alone; what is computed again there has this adapter on."""
        eager = self.compile_network and not self._compiled_region
        self._again = nullcontext if adapter is None else partial(adapter.switched_on, None, 1)
        with torch.compiler.set_stance("force_eager") if eager else nullcontext():
            try:
                yield
            finally:
                self._again = nullcontext

    @contextmanager
    def in_step(self) -> Iterator[None]:
        self._compiled_region = True
        try:
            yield
        finally:
            self._compiled_region = False


def _to_float32(values: Tensor) -> Tensor:
    """In single precision, if they are in half."""
    return values.float() if values.itemsize < 4 else values


def _checkpoint_contexts(
    again: Callable[[], AbstractContextManager],
) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of a block's first and second computation."""
    return nullcontext(), again()
