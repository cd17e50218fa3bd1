"""Tensors to picture files: grids, animated WebP and MP4."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from asdkit.core.atomic import atomic
from asdkit.core.errors import MissingExtra
from asdkit.core.text import local


def to_bytes(images: Float[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Images in [0,1], colour or grey, as bytes."""
    colours = images.detach().float().cpu().clamp(0, 1).expand(-1, 3, -1, -1)
    return (colours * 255).round().byte().permute(0, 2, 3, 1).numpy()


def read_picture(path: str | Path, size: int = 0) -> Float[Tensor, "3 H W"]:
    """A picture file in [0,1]; its middle square at `size` pixels, or as it is for 0.

    Grey becomes RGB, and what is transparent becomes white.

    Raises:
        ValueError: the file is missing or no picture.
    """
    try:
        picture = Image.open(local(path))
        if picture.mode.startswith("I"):  # 16 bits of grey, which convert would clip
            picture = Image.fromarray((np.asarray(picture).clip(0, 65535) / 257).round().astype(np.uint8))
        picture = picture.convert("RGBA")
    except FileNotFoundError:
        raise ValueError(f"There is no picture {path}.") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} can't be read as a picture ({error}).") from None
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if size:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def save_grid(images: Float[Tensor, "N C H W"], path: Path, columns: int, scale: int = 1) -> None:
    """One PNG of many pictures, row by row; a last row that is not full ends in black.

    Args:
        images: in [0,1], colour or grey.
        path: the PNG.
        columns: pictures in a row.
        scale: each pixel becomes a square of this many.
    """
    tiles = to_bytes(images)
    missing = -len(tiles) % columns
    tiles = np.concatenate([tiles, np.zeros_like(tiles, shape=(missing, *tiles.shape[1:]))])
    height, width = tiles.shape[1:3]
    grid = tiles.reshape(-1, columns, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, 3)
    picture = Image.fromarray(grid)
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    with atomic(path) as temporary:
        picture.save(temporary)


def save_film(frames: Float[Tensor, "T C H W"], folder: Path, name: str, fps: int = 20) -> Path:
    """`name.mp4` where the extra `video` is installed, an animated `name.webp` elsewhere; returns the file."""
    if find_spec("imageio_ffmpeg") and find_spec("imageio"):
        path = folder / f"{name}.mp4"
        save_mp4(frames, path, fps)
    else:
        path = folder / f"{name}.webp"
        save_webp(frames, path, fps)
    return path


def save_mp4(frames: Float[Tensor, "T C H W"], path: Path, fps: int = 20) -> None:
    """A film in [0,1] as MP4.

    Raises:
        MissingExtra: the extra `video` is not installed.
    """
    if not (find_spec("imageio_ffmpeg") and find_spec("imageio")):
        raise MissingExtra('MP4 needs imageio and ffmpeg: pip install "asdkit[video]", or take webp.')
    import imageio

    with atomic(path) as temporary:
        imageio.mimwrite(temporary, list(to_bytes(frames)), fps=fps, macro_block_size=2, quality=8)


def save_webp(frames: Float[Tensor, "T C H W"], path: Path, fps: int = 20) -> None:
    """A film in [0,1] as an animated WebP that repeats for ever."""
    first, *others = [Image.fromarray(picture) for picture in to_bytes(frames)]
    with atomic(path) as temporary:
        first.save(temporary, save_all=True, append_images=others, duration=1000 // fps, loop=0, quality=85)
