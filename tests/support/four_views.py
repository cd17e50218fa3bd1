"""A tiny prior with DreamFusion's four words for views, and its predictions one sample at a time."""

from pathlib import Path

import diffusers
import torch
import transformers
from support.exact import randn
from torch import Tensor

from asdkit import Pretrained
from asdkit.rendering.cameras import Views, ring
from asdkit.scores.prior import Noised

B = 3


class Loop:
    """The tiny model's parts, one sample at a time, in single precision."""

    def __init__(self, folder: Path, prior: Pretrained) -> None:
        self.tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
        self.unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        self.prior, self.offset = prior, None
        self.unet.time_embedding.register_forward_hook(
            lambda m, a, out: out if self.offset is None else out + self.offset
        )

    @torch.no_grad()
    def embedding(self, text: str) -> Tensor:
        tokens = self.tokenizer([text], padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.encoder(tokens).last_hidden_state

    @torch.no_grad()
    def eps(self, x: Noised, b: int, embedding: Tensor | str, camera: bool = False) -> Tensor:
        """The noise predicted for sample b alone."""
        if isinstance(embedding, str):
            embedding = self.embedding(embedding)
        self.offset = self.prior.camera(x.views[b : b + 1]) if camera else None
        output = self.unet(x.x_t[b : b + 1].float(), x.t[b : b + 1], embedding).sample
        return self.prior.schedule.to_eps(output, x.x_t[b : b + 1], x.t[b : b + 1])[0]


def cameras(*azimuths_deg: float, elevation_deg: float = 10.0) -> Views:
    views = ring(len(azimuths_deg), elevation_deg=elevation_deg)
    views.azimuth[:] = torch.tensor(azimuths_deg).deg2rad()
    return views


def drawn(prior: Pretrained, views: Views | None) -> Noised:
    x0, eps = randn(2, B, 4, 8, 8).float()
    return prior.draw(x0, torch.tensor([40, 400, 900]), eps, views)
