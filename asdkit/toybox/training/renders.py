"""Renders of the toybox as training data, or their latents: made when they are first needed, drawn statelessly."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from asdkit.core.atomic import atomic
from asdkit.core.bounds import Positive, Within, checked
from asdkit.core.randomness import generator_for
from asdkit.rendering.cameras import Views
from asdkit.toybox import captions, catalogue, world
from asdkit.toybox.training.common import read_vae, vae_digest

SHARD = 2500
_FIRST = 8  # shards that the first step may draw from
_ENCODED_AT_ONCE = 50
Renderable = Annotated[int, Within(1, 10_000_000)]


@dataclass(frozen=True)
class Examples:
    """Training examples.

    Args:
        x0: pictures [B,3,128,128] in [0,1], or their latents [B,C,16,16] as the pipeline scales them.
        captions: in free words, of the object and its view.
        prompts: the objects' bare prompts.
        views: the cameras.
    """

    x0: Tensor
    captions: list[str]
    prompts: list[str]
    views: Views

    def to(self, device: torch.device | str) -> "Examples":
        """The same examples with their tensors on `device`."""
        return Examples(self.x0.to(device), self.captions, self.prompts, self.views.to(device))


class Shards:
    """Random pictures of random things, in files of 2,500 that are rendered when they are first read.

    Example i depends on (seed, i, held_out) alone; every one is another instance of its thing.

    Args:
        folder: the cache; made if it is missing.
        count: how many examples there are.
        seed: of the world's draws.
        held_out: show compositions that training never sees, instead of the others.
        vae: folder of an autoencoder in diffusers' format, whose latents are kept in the place of the pictures.
    """

    def __init__(self, folder: Path, count: int, seed: int, held_out: bool = False, vae: Path | None = None) -> None:
        kind = f"{'held-out' if held_out else 'trained'}-seed{seed}"
        self.folder = folder / (f"{kind}-{vae_digest(vae)}" if vae else kind)
        self.count, self.seed, self.held_out = count, seed, held_out
        self._vae = read_vae(vae) if vae else None
        self._read = lru_cache(maxsize=None)(self._load)  # mapped files, which take no memory

    def __len__(self) -> int:
        return -(-self.count // SHARD)

    def take(self, index: Tensor, generator: torch.Generator) -> Examples:
        """The examples of given numbers [B], with captions worded by `generator`."""
        shards = [self._read(i // SHARD) for i in index.tolist()]
        rows = (index % SHARD).tolist()
        x0 = torch.stack([shard["x0"][row] for shard, row in zip(shards, rows, strict=True)])
        x0 = x0.float() / 255 if x0.dtype == torch.uint8 else x0.float()
        things = [catalogue.Thing(*shard["things"][row]) for shard, row in zip(shards, rows, strict=True)]
        cameras = torch.stack([shard["cameras"][row] for shard, row in zip(shards, rows, strict=True)])
        azimuth, elevation, distance = cameras.unbind(1)
        texts = [
            captions.caption(thing, *place, generator)
            for thing, place in zip(things, cameras[:, :2].tolist(), strict=True)
        ]
        eye = torch.eye(4).expand(len(index), 4, 4)
        size = world.SIZE
        views = Views(eye, eye[:, :3, :3], azimuth, elevation, distance, size, size)
        return Examples(x0, texts, [thing.prompt for thing in things], views)

    def _load(self, number: int) -> dict[str, Any]:
        first = number * SHARD
        size = min(SHARD, self.count - first)
        path = self.folder / f"{number:04d}-{size}.pt"
        if not path.exists():
            with ThreadPoolExecutor() as pool:
                pictures, things, cameras = zip(*pool.map(self._draw, range(first, first + size)), strict=True)
            shard = {"x0": self._encoded(torch.stack(pictures)), "things": things, "cameras": torch.stack(cameras)}
            with atomic(path) as temporary:
                torch.save(shard, temporary)
        return torch.load(path, weights_only=True, mmap=True)

    def _draw(self, i: int) -> tuple[Tensor, tuple, Tensor]:
        """A picture [3,H,W] uint8, the thing that it shows, and its camera: azimuth, elevation, distance."""
        generator = generator_for(self.seed, i, "held-out world" if self.held_out else "world")
        thing, views = world.sample_thing(generator, self.held_out), world.sample_views(generator, 1)
        variation = int(torch.randint(2**31, (), generator=generator))
        background = world.sample_background(generator)
        image = world.render(thing, views, background, supersample=2, variation=variation).image[0]
        camera = torch.cat([views.azimuth, views.elevation, views.distance])
        words = (thing.kind, thing.main, thing.second, thing.base, thing.material)
        return (image * 255).round().byte(), words, camera

    @torch.no_grad()
    def _encoded(self, pictures: Tensor) -> Tensor:
        """Latents in half precision where there is an autoencoder, else the pictures."""
        if self._vae is None:
            return pictures
        scale = self._vae.config.scaling_factor
        chunks = ((chunk / 127.5 - 1).contiguous(memory_format=torch.channels_last)
                  for chunk in pictures.split(_ENCODED_AT_ONCE))  # fmt: skip
        return torch.cat([(self._vae.encode(chunk).latents * scale).half().contiguous() for chunk in chunks])


class Batches(IterableDataset[Examples]):
    """Endless batches; batch k depends on (seed, rank, k) alone, and captions are worded anew each time.

    The first batches draw from the first shards; more join so that an example is seen `reuse` times on average.

    Args:
        shards: the examples.
        batch_size: examples per batch.
        seed: of the draws.
        first: number of the first batch (the step at which a run resumes).
        rank: process among several.
        ranks: how many processes there are.
        reuse: how often an example is seen on average, until all of them are in use.
    """

    def __init__(
        self, shards: Shards, batch_size: int, seed: int = 0, first: int = 0, rank: int = 0, ranks: int = 1,
        reuse: float = 1.0,
    ) -> None:  # fmt: skip
        self.shards, self.batch_size, self.seed, self.first = shards, batch_size, seed, first
        self.rank, self.ranks, self.reuse = rank, ranks, reuse

    def __iter__(self) -> Iterator[Examples]:
        step = self.first
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> Examples:
        """The batch of one step."""
        generator = generator_for(self.seed, step, "renders", self.rank)
        seen = step * self.batch_size * self.ranks
        available = SHARD * (_FIRST + int(seen / self.reuse / SHARD))
        index = torch.randint(min(self.shards.count, available), (self.batch_size,), generator=generator)
        return self.shards.take(index, generator)


@checked
class ToyboxData(pl.LightningDataModule):
    """Endless random renders of the toybox for training its prior.

    Args:
        cache: folder for the renders; each file of 2,500 is made when training first needs it.
        count: number of renders.
        held_out: number of renders of held-out compositions, for validation.
        batch_size: pictures per step.
        reuse: how often a render is seen on average, until all of them are in use.
        vae: folder of an autoencoder, whose latents are trained on and kept in the place of the pictures; none when
            empty.
        seed: of the world's draws and of the batches.
    """

    def __init__(
        self,
        cache: str = "~/.cache/asdkit/toybox",
        count: Renderable = 40_000,
        held_out: Renderable = 1000,
        batch_size: Renderable = 32,
        reuse: Positive = 6.0,
        vae: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.cache, self.count, self.held_out = Path(cache).expanduser(), count, held_out
        self.batch_size, self.reuse, self.vae, self.seed = batch_size, reuse, Path(vae) if vae else None, seed

    def train_dataloader(self) -> DataLoader[Examples]:
        shards = Shards(self.cache, self.count, self.seed, vae=self.vae)
        trainer = self.trainer
        place = (trainer.global_step, trainer.global_rank, trainer.world_size)
        return DataLoader(Batches(shards, self.batch_size, self.seed, *place, self.reuse), batch_size=None)

    def val_dataloader(self) -> DataLoader[Examples]:
        """All held-out examples once, in batches."""
        shards = Shards(self.cache, self.held_out, self.seed, held_out=True, vae=self.vae)
        parts = torch.arange(self.held_out).split(self.batch_size)
        batches = [
            shards.take(part, generator_for(self.seed, k, "validation captions")) for k, part in enumerate(parts)
        ]
        return DataLoader(batches, batch_size=None)
