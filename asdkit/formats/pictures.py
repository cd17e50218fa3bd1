"""Picture files to tensors, and back: grids, animated WebP and MP4; and between sRGB, which they hold, and light."""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from asdkit.core.atomic import atomic
from asdkit.core.errors import MissingExtra
from asdkit.core.optional import require_package
from asdkit.core.parts import require
from asdkit.core.text import first_line, local

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")  # that are read, whatever a file's name says
Images = Float[Tensor, "N C H W"]
_MOST_PIXELS = 2**26  # a picture of one colour has a thousandth of that in bytes


def linear_light(colours: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Linear light in [0,1] of sRGB colours in [0,1]."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def from_linear_light(light: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The inverse of `linear_light`."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def to_bytes(images: Images) -> UInt8[np.ndarray, "N H W 3"]:
    """Images in [0,1], colour or grey, as bytes."""
    colours = images.detach().float().cpu().clamp(0, 1).expand(-1, 3, -1, -1)
    return (colours * 255).round().byte().permute(0, 2, 3, 1).numpy()


def read_picture(path: str | Path, size: int = 0) -> Float[Tensor, "3 H W"]:
    """A picture file in sRGB in [0,1], as a viewer shows it; its middle square at `size` pixels, or as it is for 0.

    EXIF's turn and the colour profile are followed, what is transparent becomes white, and of several frames the first
    is read. A ValueError if the file is missing or no picture, or its numbers have no known white.
    """
    picture = _opened(path)
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if size:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return _tensor(picture)


def read_cutout(path: str | Path, mask: str | Path = "") -> Float[Tensor, "4 H W"]:
    """A picture file's colours in sRGB, multiplied by its opacity, and its opacity; likewise in [0,1].

    A mask is a picture whose white parts are opaque. A ValueError as for `read_picture`, or for a mask of another size.
    """
    colours, opacity = _tensor(_opened(path)).split([3, 1])
    if mask:
        grey = read_picture(mask).mean(0, keepdim=True)
        sizes = [f"{values.shape[2]}x{values.shape[1]}" for values in (grey, colours)]
        require(grey.shape == opacity.shape, f"The mask {mask} has {sizes[0]} pixels, and {path} has {sizes[1]}.")
        opacity = opacity * grey
    return torch.cat([colours * opacity, opacity])


def _opened(path: str | Path) -> Image.Image:
    path = local(path)
    require(path.is_file(), f"There is no picture {path}.")
    try:
        opened = of_bounded_size(Image.open(path, formats=FORMATS))
        picture = ImageOps.exif_transpose(opened)
        if picture.mode[0] in "IF":
            picture = _of_bytes(picture, getattr(opened, "tag_v2", {}))
        return _in_srgb(picture).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        kinds = ", ".join(FORMATS)
        raise ValueError(f"{path} can't be read as a picture ({first_line(error)}); {kinds} are read.") from None


def _tensor(picture: Image.Image) -> Float[Tensor, "C H W"]:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def of_bounded_size(picture: Image.Image) -> Image.Image:
    """The picture itself, before it is decoded; raises a ValueError where it would ask for much more than its file."""
    if math.prod(picture.size) > _MOST_PIXELS:
        raise ValueError(f"it has {'x'.join(map(str, picture.size))} pixels, and {_MOST_PIXELS} are read at most")
    return picture


def _of_bytes(picture: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Grey of at most 16 bits, or of floats in [0,1], as bytes, where Pillow would clip; the tags are those of TIFF."""
    bits, signed, floats = tags.get(258, (16,))[0], tags.get(339, (1,))[0] == 2, picture.mode == "F"
    if not floats and (bits > 16 or signed):
        raise ValueError(f"the white of {'signed ' if signed else ''}whole numbers of {bits} bits is not known")
    white, values = 1 if floats else 2**bits - 1, np.asarray(picture)
    if not ((values >= 0) & (values <= white)).all():
        raise ValueError(f"its numbers must be within 0 and {white}, but are within {values.min()} and {values.max()}")
    ink = white - values if tags.get(262) == 0 else values  # WhiteIsZero
    grey = Image.fromarray((ink * (255 / white)).round().astype(np.uint8))
    if "transparency" in picture.info:
        grey.putalpha(Image.fromarray((values != picture.info["transparency"]).astype(np.uint8) * np.uint8(255)))
    grey.info = {name: value for name, value in picture.info.items() if name in ("icc_profile", "gamma", "srgb")}
    return grey


def _in_srgb(picture: Image.Image) -> Image.Image:
    """The same colours in sRGB, where the file says in what space they are; a profile that is broken says nothing."""
    # A PNG may say it by its gamma, too; one that is nearly sRGB's is taken for that, as browsers do.
    profile, srgb = picture.info.get("icc_profile"), ImageCms.createProfile("sRGB")
    gamma = 0 if "srgb" in picture.info else picture.info.get("gamma", 0)
    if not profile and gamma > 0 and abs(2.2 * gamma - 1) > 0.05:  # numbers are light^gamma
        curve = (255 * from_linear_light(np.linspace(0, 1, 256) ** (1 / gamma))).round().astype(int).tolist()
        return picture.convert("RGBA").point([*curve * 3, *range(256)])
    if not profile:
        return picture
    picture = picture.convert("RGBA") if picture.mode in ("P", "PA") else picture
    try:
        mode = "RGBA" if picture.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(picture, BytesIO(profile), srgb, outputMode=mode) or picture
    except ImageCms.PyCMSError:
        return picture


def save_grid(images: Images, path: Path, columns: int, scale: int = 1, labels: Sequence[str] = ()) -> None:
    """The `grid` of pictures as a PNG."""
    with atomic(path) as temporary:
        grid(images, columns, scale, labels).save(temporary)


def grid(images: Images, columns: int, scale: int = 1, labels: Sequence[str] = ()) -> Image.Image:
    """One picture of many, row by row; a pixel becomes a square of `scale`, and `labels` stand at the lower left."""
    tiles, columns = to_bytes(images), min(columns, len(images))
    tiles = np.concatenate([tiles, np.full_like(tiles, 255, shape=(-len(tiles) % columns, *tiles.shape[1:]))])
    height, width = tiles.shape[1:3]
    rows = tiles.reshape(-1, columns, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, 3)
    picture = Image.fromarray(rows)
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=max(10, height * scale // 16))
    for i, label in enumerate(labels):
        corner = (i % columns * width * scale + 6, (i // columns + 1) * height * scale - 6)
        pen.text(corner, label, fill="black", font=font, anchor="ls", stroke_width=2, stroke_fill="white")
    return picture


def save_film(frames: Float[Tensor, "T C H W"], folder: Path, name: str, fps: int = 20) -> Path:
    """`name.mp4` where the extra `video` is installed, an animated `name.webp` elsewhere; returns the file."""
    try:
        save_mp4(frames, path := folder / f"{name}.mp4", fps)
    except MissingExtra:
        save_webp(frames, path := folder / f"{name}.webp", fps)
    return path


def save_mp4(frames: Float[Tensor, "T C H W"], path: Path, fps: int = 20) -> None:
    """A film in [0,1] as MP4, which needs the extra `video`."""
    imageio, _ = (require_package(module, "video") for module in ("imageio", "imageio_ffmpeg"))
    with atomic(path) as temporary:
        imageio.mimwrite(temporary, list(to_bytes(frames)), fps=fps, macro_block_size=2, quality=8)


def save_webp(frames: Float[Tensor, "T C H W"], path: Path, fps: int = 20) -> None:
    """A film in [0,1] as an animated WebP that repeats for ever."""
    first, *following = [Image.fromarray(picture) for picture in to_bytes(frames)]
    with atomic(path) as temporary:
        first.save(temporary, save_all=True, append_images=following, duration=1000 // fps, loop=0, quality=85)
