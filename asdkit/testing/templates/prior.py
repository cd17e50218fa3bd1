"""A prior of one's own: a small network with random weights, until you load yours."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from asdkit import Adapter, Prior
from asdkit.core.randomness import generator_for
from asdkit.scores.prior import Condition, Noised
from asdkit.scores.schedules import scaled_linear


class _Network(nn.Module):
    """eps [B,3,h,w] from x_t [B,3,h,w], t [B] and embedded prompts [B,8]."""

    def __init__(self) -> None:
        super().__init__()
        self.told = nn.Linear(9, 16)
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, prompts: Tensor) -> Tensor:
        told = self.told(torch.cat([prompts, t[:, None] / 1000], 1))
        eps: Tensor = self.last(torch.tanh(self.first(x_t) + told[:, :, None, None]))
        return eps


class Template(Prior):
    """A diffusion model of images of any size, whose x0 are the images within [-1,1].

    Args:
        seed: of its weights.
    """

    channels, condition_shape = 3, (8,)
    adapter_targets = ("told", "first", "last")

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def setup(self) -> None:
        if "network" in self._modules:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = _Network()
        self.schedule = scaled_linear(prediction="epsilon")
        self.requires_grad_(False).eval()

    def encode(self, images: Tensor) -> Tensor:
        return images * 2 - 1

    def decode(self, x0: Tensor) -> Tensor:
        return (x0.detach() / 2 + 0.5).clamp(0, 1)

    def prepare(self, conditions: Sequence[Condition]) -> None:
        """A text encoder would embed the prompts here, once."""

    def embed(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([torch.randn(8, generator=generator_for(0, 0, text)) for text in texts])

    def predict(self, x: Noised, conditions: Sequence[Condition], adapter: Adapter | None = None) -> list[Tensor]:
        copies, rows = len(conditions), torch.ones(len(x.t), 1)
        told = [x.by_own(c, lambda own, some: {0: rows[some] * self.embed([own.text])})[0] for c in conditions]
        x_t, t, prompts = x.x_t.repeat(copies, 1, 1, 1), x.t.repeat(copies), torch.cat(told).to(x.x_t.device)
        with nullcontext() if adapter is None else adapter.switched_on(x.views, copies):
            output = self.network(x_t.float(), t, self.moved(prompts))
        return list(self.schedule.to_eps(output, x_t, t).chunk(copies))

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.spec).encode()).hexdigest()[:12]
