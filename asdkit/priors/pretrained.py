"""Any Stable-Diffusion-format folder as a prior, through diffusers."""

import copy
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.camera import CameraEmbedding
from asdkit.prior import Noised, Prior, Switch
from asdkit.prompts import DREAMFUSION, Condition, ViewWords
from asdkit.schedules import Schedule

EMBEDDED = "toybox"


class Pretrained(Prior):
    """A frozen text-to-image model in Stable Diffusion's folder format.

    Args:
        path: the folder (`model_index.json`, `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`), or
            `toybox` for the small model that asdkit ships.
        use_camera: give the camera itself to a model that takes it (a folder `camera/`), beside the view words.
        image_size: images of another height and width, in pixels, are resized to this before they are encoded, so that
            early iterations can render small ones (`data.size`); 0 for encoding all as they are.

    Raises:
        ValueError: a negative size, or the folder or a part of it is missing or torn (in `setup`).
    """

    def __init__(self, path: str = EMBEDDED, use_camera: bool = True, image_size: int = 0) -> None:
        super().__init__()
        if image_size < 0:
            raise ValueError(f"The prior's image_size can't be negative; got {image_size}.")
        if not path:
            raise ValueError("The prior's path is empty; name a Stable-Diffusion-format folder, or toybox.")
        self.path, self._use_camera, self.image_size = path, use_camera, image_size
        self.view_words: ViewWords | None = DREAMFUSION
        self.known_words: frozenset[str] | None = None
        self.camera: CameraEmbedding | None = None
        self._digest = ""
        self._embeddings: dict[str, Tensor] = {}
        self._offset: Tensor | None = None

    @property
    def folder(self) -> Path:
        """Where the weights are."""
        if self.path == EMBEDDED:
            return Path(__file__).parents[1] / "toybox" / "weights"
        return Path(self.path).expanduser()

    @property
    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 over the names and contents of all weight files."""
        if not self._digest:
            sha = hashlib.sha256()
            for file in sorted(self.folder.rglob("*.safetensors")):
                sha.update(file.relative_to(self.folder).as_posix().encode() + file.read_bytes())
            self._digest = sha.hexdigest()[:12]
        return self._digest

    def setup(self) -> None:
        if "network" in self._modules:
            return
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

        index = self._read_json("model_index.json")
        vae_class = AutoencoderTiny if index.get("vae", ["", ""])[1] == "AutoencoderTiny" else AutoencoderKL
        self.vae = self._load(vae_class, "vae")
        self.network = self._load(UNet2DConditionModel, "unet")
        self.network.time_embedding.register_forward_hook(self._add_offset)
        self.time_width = self.network.time_embedding.linear_2.out_features
        self.channels = self.vae.config.latent_channels
        self.schedule = self._load_schedule()
        self._load_extras()
        self.requires_grad_(False).eval()

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "Pretrained":
        """Prompt embeddings move with the weights."""
        super()._apply(function, recurse)
        self._embeddings = {text: function(row) for text, row in self._embeddings.items()}
        return self

    def _load_schedule(self) -> Schedule:
        from diffusers import DDPMScheduler

        self._read_json("scheduler/scheduler_config.json")
        scheduler = DDPMScheduler.from_pretrained(self.folder, subfolder="scheduler", local_files_only=True)
        return Schedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)

    def _load_extras(self) -> None:
        """What asdkit's own priors tell beside Stable Diffusion's files: view words, vocabulary, a camera network."""
        if (self.folder / "asdkit.json").is_file():
            facts = self._read_json("asdkit.json")
            self.view_words = ViewWords(tuple(facts["view_words"]), facts["overhead_word"], facts["overhead_above_deg"])
            self.known_words = frozenset(facts["words"])
        weights = self.folder / "camera" / "model.safetensors"
        if self._use_camera and weights.is_file():
            from safetensors.torch import load_file

            self.camera = CameraEmbedding(self.time_width)
            with self._reading("camera"):
                self.camera.load_state_dict(load_file(weights))

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        size = (self.image_size, self.image_size)
        if self.image_size and images.shape[-2:] != size:
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        encoded = self.vae.encode(images * 2 - 1)
        latents = encoded.latent_dist.mean if "latent_dist" in encoded else encoded.latents
        return latents * self.vae.config.scaling_factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of this many pixels."""
        factor = 2 ** (len(self.vae.config.get("block_out_channels") or self.vae.config.encoder_block_out_channels) - 1)
        return self.vae.config.latent_channels, height // factor, width // factor

    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        with torch.no_grad():
            images = self.vae.decode(x0 / self.vae.config.scaling_factor).sample
        return (images / 2 + 0.5).clamp(0, 1)

    def prepare(self, conditions: Sequence[Condition]) -> None:
        texts = [text for condition in conditions for text in self._texts(condition)]
        missing = [text for text in dict.fromkeys(texts) if text not in self._embeddings]
        if not missing:
            return
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()

        self._read_json("text_encoder/config.json")
        with self._reading("tokenizer"):
            tokenizer = CLIPTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)
        encoder = self._load(CLIPTextModel, "text_encoder").eval()
        tokens = tokenizer(missing, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            embedded = encoder(tokens).last_hidden_state
        self.condition_shape = tuple(embedded.shape[1:])
        device = self.schedule.alphas.device
        self._embeddings |= {text: row.to(device) for text, row in zip(missing, embedded, strict=True)}

    def _texts(self, condition: Condition) -> list[str]:
        if condition.view_dependent and self.view_words is not None and condition.text:
            return [condition.text, *self.view_words.suffixes(condition.text)]
        return [condition.text]

    def copy_network(self) -> nn.Module:
        """A copy of the network, hooked like the original, whose hook would drag this whole prior along."""
        hooks, self.network.time_embedding._forward_hooks = self.network.time_embedding._forward_hooks, OrderedDict()
        try:
            copied = copy.deepcopy(self.network)
        finally:
            self.network.time_embedding._forward_hooks = hooks
        copied.time_embedding.register_forward_hook(self._add_offset)
        return copied

    def unknown_words(self, text: str) -> list[str]:
        """The words of a prompt that this prior has never seen; none where it does not say what it knows."""
        words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
        return [] if self.known_words is None else [word for word in words if word not in self.known_words]

    def predict(
        self, x: Noised, conditions: Sequence[Condition], adapter: Switch | None = None
    ) -> list[Float[Tensor, "B C h w"]]:
        self.prepare(conditions)
        copies = len(conditions)
        text = torch.cat([self._text_rows(x, condition) for condition in conditions])
        x_t, t = x.x_t.repeat(copies, 1, 1, 1), x.t.repeat(copies)
        adapted = nullcontext() if adapter is None else adapter.switched_on(x.views, copies)
        with self.offset_time(self._camera_rows(x, conditions)), adapted:
            output = self.network(x_t, t, self.moved(text)).sample
        return list(self.schedule.to_eps(output, x_t, t).chunk(copies))

    def _text_rows(self, x: Noised, condition: Condition) -> Float[Tensor, "B L D"]:
        texts = self._texts(condition)
        if len(texts) == 1 or x.views is None:
            return self._embeddings[texts[0]].expand(len(x.t), -1, -1)
        rows = torch.stack([self._embeddings[text] for text in texts[1:]])
        return rows[self.view_words.index(x.views.azimuth, x.views.elevation)]

    def _camera_rows(self, x: Noised, conditions: Sequence[Condition]) -> Float[Tensor, "N width"] | None:
        if self.camera is None or x.views is None:
            return None
        offset = self.camera(x.views)
        return torch.cat([offset if c.view_dependent else torch.zeros_like(offset) for c in conditions])

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
        return embedding if self._offset is None else embedding + self._offset

    def _read_json(self, name: str) -> dict:
        path = self.folder / name
        if not self.folder.is_dir():
            raise ValueError(
                f"There is no prior folder {self.folder}; name a Stable-Diffusion-format folder, or toybox."
            )
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            raise ValueError(f"The prior folder {self.folder} has no {name}; copy the whole folder again.") from None
        except ValueError:
            raise ValueError(f"{path} is not valid JSON; copy the prior folder again.") from None

    def _load(self, model_class: type, part: str) -> nn.Module:
        self._read_json(f"{part}/config.json")
        with self._reading(part):
            model, info = model_class.from_pretrained(
                self.folder / part,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            missing = sorted(info["missing_keys"])
            if missing:
                raise ValueError(f"{len(missing)} tensors are missing, {missing[0]} among them")
        return model

    @contextmanager
    def _reading(self, part: str) -> Iterator[None]:
        """Whatever goes wrong with a part of the folder becomes one sentence."""
        try:
            yield
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            message = f"{self.folder / part} can't be loaded ({reason}); copy the prior folder again."
            raise ValueError(message) from error
