"""Pretrained text-to-image models as priors, through diffusers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.core.bounds import AtLeast, Whole, Within
from asdkit.core.parts import require
from asdkit.priors import autoencoder
from asdkit.priors.families import Embedded, Family, Model, family_of
from asdkit.priors.folder import ModelFolder, one_sentence
from asdkit.priors.locate import EMBEDDED, ModelSource, RandomModel
from asdkit.priors.network_runner import Compile, NetworkRunner, fastest_dtype, halve, to_float32
from asdkit.priors.prompt_embedder import KnownWords, PromptEmbedder, ViewKeepingTokenizer, encode_texts, recall
from asdkit.rendering.view_words import DREAMFUSION, ViewWords
from asdkit.scores.camera_embedding import CameraEmbedding
from asdkit.scores.prior import Adapter, Condition, Noised, Prior

CHANNELS_LAST_ON = ("cuda",)  # devices on which convolutions are faster that way


class Pretrained(Prior):
    """A frozen text-to-image model: Stable Diffusion 1 to 3.5, XL, FLUX.1, PixArt, or the first stage of DeepFloyd IF.

    Args:
        path: the model. `toybox` is the small model that asdkit ships. It may also be a folder in diffusers' layout, a
            .safetensors file with a whole model, or an id of the hub (`owner/name`) or its alias such as `sd21-base`,
            with or without `@` and a branch, tag or commit after it. `random:sd21` gives random weights of that
            architecture, for measuring.
        variant: prefer files of weights whose names contain this word, such as `fp16`.
        config: only for a single file: the model whose settings and vocabularies it shares, named as in `path`.
        finetune: a LoRA (or LoHa, LoKr, DoRA) that is added to the frozen weights: a .safetensors file, its folder, or
            an id. It may also be a textual inversion, whose word prompts can then use.
        finetune_scale: the strength of the fine-tune; 1 is the whole of it.
        use_camera: whether a model that takes cameras (with a folder `camera/`) gets the camera beside the view words.
        image_size: images of another height and width, in pixels, are resized to this before they are encoded, so that
            early iterations can render small ones (`data.size`). 0 encodes all as they are.
        dtype: the precision in which the frozen networks compute; schedule, phi and generator stay in single precision
            or better. `mixed` is float32, except for convolutions and linear layers, which multiply in bfloat16 on a
            CPU. `auto` is `mixed` where this CPU multiplies bfloat16 faster, and float32 elsewhere. Checkpoints and
            `spec` record which of the two it was.
        distilled_guidance: the guidance scale that is given to a guidance-distilled network (FLUX.1 dev, LCM).
        checkpointing: whether to compute intermediate results of the networks' blocks again in the backward pass,
            instead of keeping them. It saves memory for about one more forward pass of what learns, and of the
            autoencoder.
        compile: whether to compile the network with torch.compile, at the first iterations; pictures are made without
            it. `blocks` compiles only the repeated kind of transformer block, once for all (UNets, FLUX.1).
        tiny_vae: a folder, or an id of the hub, with an `AutoencoderTiny` (such as TAESD). It approximates the model's
            own autoencoder and replaces it, for speed; empty for none.

    Raises:
        PriorUnavailable: (in `setup`) it is missing, torn, gated, withdrawn, of an unknown kind, or out of reach.
    """

    network: Model

    def __init__(
        self,
        path: str = EMBEDDED,
        variant: str = "",
        config: str = "",
        finetune: str = "",
        finetune_scale: Annotated[float, Within(-1e6, 1e6)] = 1.0,
        use_camera: bool = True,
        image_size: Whole = 0,
        dtype: Literal["auto", "mixed", "float32", "bfloat16", "float16"] = "auto",
        distilled_guidance: Annotated[float, AtLeast(0)] = 3.5,
        checkpointing: bool = False,
        compile: Compile = False,
        tiny_vae: str = "",
    ) -> None:
        super().__init__()
        require(bool(path), "The prior's path is empty; name a folder in diffusers' layout, or toybox.")
        self.source = ModelSource(path, variant, config, finetune, finetune_scale, tiny_vae)
        self.path, self._use_camera, self.image_size = path, use_camera, image_size
        if dtype == "auto":
            dtype = self.spec["init_args"]["dtype"] = fastest_dtype()
        self._mixed = dtype == "mixed"
        self.dtype: torch.dtype = torch.float32 if self._mixed else getattr(torch, dtype)
        self._distilled_guidance = distilled_guidance
        self.runner = NetworkRunner(checkpointing, compile)
        self.prompts = PromptEmbedder(self, self._embed)
        self.view_words: ViewWords | None = DREAMFUSION
        self.words = KnownWords()
        self._cut_prompts: set[str] = set()
        self.camera: CameraEmbedding | None = None
        self.vae: Model | None = None

    @property
    def folder(self) -> Path:
        """The folder of the weights; that of the settings, if the weights are in a single file."""
        return self.source.files.path

    @property
    def digest(self) -> str:
        return self.source.digest

    def setup(self) -> None:
        if "network" in self._modules:
            return
        import diffusers

        files = self.source.files
        kind = family_of(str(files.json("model_index.json").get("_class_name")))
        self.family: Family = kind(self._distilled_guidance)
        if self.family.has_vae:
            self.vae = autoencoder.load_autoencoder(files, self.dtype, self.source.tiny_vae)
            if self.runner.checkpointing:
                autoencoder.checkpoint(self.vae, self.runner.checkpointed)
        self.network = files.model(getattr(diffusers, self.family.network), self.family.network_part, self.dtype)
        self.source.add_lora(self.family.network_part, self.network, self.network.config)
        self.channels = self.vae.config.latent_channels if self.vae else 3
        self.adapter_targets = self.family.targets
        self.time_width = self.family.time_width(self.network)
        self.family.check(self.network.config, self.channels, self.path)
        with one_sentence(self.path):
            height, width = [self.image_size] * 2 if self.image_size else (8 * side for side in self._native_size())
            tokens = (height // 16) * (width // 16)
            self.schedule = self.family.schedule(files.json("scheduler/scheduler_config.json"), tokens, self.path)
            self._load_extras(files)
        self.requires_grad_(False).eval()
        self.runner.prepare(self.network, self.family)
        if self.agreed(self._mixed):
            halve(self.network)
            if self.vae:  # what it decodes is for looking at
                halve(self.vae.encoder)

    def _native_size(self) -> Sequence[int]:
        """Height and width of the x0 that the network was trained on."""
        size = self.network.config.get("sample_size") or 128
        return size if isinstance(size, Sequence) else (size, size)

    def _load_extras(self, files: ModelFolder) -> None:
        """What asdkit's own priors tell beside diffusers' files: view words, vocabulary, a camera network."""
        if "asdkit.json" in files.names:
            facts = files.json("asdkit.json")
            self.view_words = ViewWords(tuple(facts["view_words"]), facts["overhead_word"], facts["overhead_above_deg"])
            self.words = KnownWords(facts["words"], facts.get("related", {}))
        if self._use_camera and "camera/model.safetensors" in files.names:
            from safetensors.torch import load_file

            self.camera = CameraEmbedding(self.time_width)
            with one_sentence(files.path / "camera"):
                self.camera.load_state_dict(load_file(files.path / "camera" / "model.safetensors"))

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "Pretrained":
        """Prompt embeddings move with the weights; convolutions take the order of axes that is fast there."""
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        device = function(torch.zeros(1)).device
        if device.type in CHANNELS_LAST_ON:
            for part in filter(None, (self._modules.get("network"), self.vae)):
                part.to(memory_format=torch.channels_last)
        self.prompts.to(device)
        return self

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        size = (self.image_size,) * 2 if self.image_size else () if self.vae else tuple(self._native_size())
        if size and images.shape[-2:] != size:
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        return images * 2 - 1 if self.vae is None else autoencoder.encode(self.vae, images)

    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        images = x0.detach() if self.vae is None else autoencoder.decode(self.vae, x0)
        return (to_float32(images) / 2 + 0.5).clamp(0, 1)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the x0 of an image of this many pixels."""
        size = (height, width) if self.vae is None else autoencoder.latent_shape(self.vae, height, width)
        return self.channels, *size

    def prepare(self, conditions: Sequence[Condition]) -> None:
        self.prompts.prepare(conditions)
        self.condition_shape = next((tuple(rows["text"].shape) for rows in self.prompts.embedded.values()), ())

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """The mean of a text's embedding over its tokens."""
        self.prepare([Condition(text, view_dependent=False) for text in texts])
        return torch.stack([self.prompts.embedded[text]["text"].mean(0) for text in texts])

    def write_with(self, network: nn.Module, folder: Path) -> None:
        self.source.files.write_with({self.family.network_part: network}, folder)

    def _embed(self, texts: list[str]) -> dict[str, Embedded]:
        """Prompts, each embedded; those of other models than the embedded one are kept on disk."""
        files = self.source.files
        if isinstance(files, RandomModel):
            return {text: files.embedded(text) for text in texts}
        if self.path == EMBEDDED:
            return self._encode_texts(texts)
        model = f"{type(self.family).__name__} {self.digest} {files.settings_digest()} {self.dtype}"
        return recall(model, texts, self._encode_texts, self._cut_prompts)

    def _encode_texts(self, texts: list[str]) -> dict[str, Embedded]:
        """Prompts through the text encoders, which are loaded for that and let go."""
        parts = {self.family.network_part: self.network, "vae": self.vae}
        pipeline = self.source.files.text_pipeline(parts, self.dtype)
        self.source.add_words(pipeline, texts)
        words = self.view_words.all if self.view_words else ()
        for name, part in pipeline.components.items():
            if part is not None and name.startswith("tokenizer"):
                setattr(pipeline, name, ViewKeepingTokenizer(part, words, self._cut_prompts))
        for name in ("text_encoder", "text_encoder_2"):
            self.source.add_lora(name, pipeline.components.get(name), self.network.config)
        with one_sentence(f"{self.path}'s text"):
            embedded = encode_texts(self.family, pipeline, texts)
            expected = self.family.widths(self.network.config)
            widths = {name: embedded[texts[0]][name].shape[-1] for name in expected}
            require(widths == expected, f"its encoders give {widths} numbers, and the network takes {expected}")
        return embedded

    def doubt(self, prompt: str) -> str:
        return self.words.doubt(prompt)

    def predict(self, x: Noised, conditions: Sequence[Condition], adapter: Adapter | None = None) -> list[Tensor]:
        return self._predict({x: conditions}, adapter)

    def predict_all(self, asked: Mapping[Noised, Sequence[Condition]]) -> list[Tensor]:
        return self._predict(asked)

    def _predict(self, asked: Mapping[Noised, Sequence[Condition]], adapter: Adapter | None = None) -> list[Tensor]:
        """With an adapter, of a single draw."""
        pairs = [(x, condition) for x, conditions in asked.items() for condition in conditions]
        self.prepare([own for x, condition in pairs for own in x.own(condition)])
        rows = [self.prompts.rows(x, condition) for x, condition in pairs]
        prompts = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        x_t, t = torch.cat([x.x_t for x, _ in pairs]), torch.cat([x.t for x, _ in pairs])
        adapted = nullcontext() if adapter is None else adapter.switched_on(pairs[0][0].views, len(pairs))
        with self.offset_time(self._camera_rows(asked)), adapted, self.runner.graphs(adapter):
            prompts["text"] = self.moved(prompts["text"])
            output = self.runner(self.family, self.network, x_t, self.schedule.times[t], prompts)
        return list(self.schedule.to_eps(output, x_t, t).split([len(x.t) for x, _ in pairs]))

    def _camera_rows(self, asked: Mapping[Noised, Sequence[Condition]]) -> Float[Tensor, "N width"] | None:
        if self.camera is None:
            return None
        offsets = {x: self.camera(x.views) for x in asked if x.views is not None}
        rows = [offset * condition.sees_camera for x, offset in offsets.items() for condition in asked[x]]
        return torch.cat(rows) if rows else None

    def offset_time(self, offset: Float[Tensor, "N width"] | None) -> AbstractContextManager[None]:
        return self.runner.time_offset(offset)

    def copy_network(self) -> Model:
        return self.runner.copy(self.network)

    def in_step(self) -> AbstractContextManager[None]:
        return self.runner.in_step()
