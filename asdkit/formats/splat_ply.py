"""Gaussians in PLY files: the layout of the 3DGS code with what others make of it, and SuperSplat's packed one."""

import logging
import math
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from asdkit.formats.ply import PACKED, Header, colours, columns, read_header
from asdkit.formats.splats import THINNER, Splats, check, completed
from asdkit.rendering.projection import SH_0

_log = logging.getLogger(__name__)
_CHUNK = 256  # Gaussians that share their bounds in a packed file


def read_ply(path: Path) -> Splats:
    """Gaussians of 3DGS, 2DGS (two scales), Mip-Splatting, balls (one), with `red green blue` for f_dc, or packed."""
    header = read_header(path)
    return _packed(header) if set(PACKED) <= header.vertex.keys() else _plain(header)


def _plain(header: Header) -> Splats:
    rgb = None if "f_dc_0" in header.vertex else colours(header)
    scales = min(3, sum(re.fullmatch(r"scale_\d+", name) is not None for name in header.vertex))
    groups = [
        ["x", "y", "z"], _numbered("rot", 4), _numbered("scale", scales or 3), ["opacity"],
        _numbered("f_dc", 3 if rgb is None else 0),
    ]  # fmt: skip
    values = columns(header, [name for group in groups for name in group])
    means, quats, log_scales, logits, dc = np.split(values, np.cumsum([len(group) for group in groups])[:-1], axis=1)
    if scales == 1:
        log_scales = log_scales.repeat(3, axis=1)
    if scales == 2:
        log_scales = np.column_stack([log_scales, log_scales.min(axis=1) - np.float32(math.log(THINNER))])
    if "filter_3D" in header.vertex:  # Mip-Splatting's (arXiv 2311.16493)
        with np.errstate(all="ignore"):  # scales and filters of 0, opacities of 0 and 1
            sharp, log_scales = log_scales, np.logaddexp(2 * log_scales, 2 * np.log(columns(header, ["filter_3D"]))) / 2
            fall = np.exp((sharp - log_scales).sum(axis=1, keepdims=True))  # the square root of the determinants' ratio
            opacities = fall / (1 + np.exp(-logits.astype(np.float64)))
            logits = (np.log(opacities) - np.log1p(-opacities)).astype(np.float32)
    if rgb is not None:
        dc = ((rgb - 0.5) / SH_0).astype(np.float32)
    sh = np.concatenate([dc[:, None], _higher(header, "vertex")], axis=1)
    return Splats(means, quats, log_scales, logits[:, 0], sh)


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}_{index}" for index in range(count)]


def _higher(header: Header, element: str) -> Float[np.ndarray, "N K 3"]:
    """The coefficients of degree 1 to 3; `f_rest` runs over all of red, then green, then blue."""
    count = header.elements[element].rows
    rest = sum(re.fullmatch(r"f_rest_\d+", name) is not None for name in header.elements[element].properties)
    if rest not in (0, 9, 24, 45, 72):
        raise ValueError(f"{header.path} has {rest} 'f_rest' properties; degrees 0 to 3 have 0, 9, 24 or 45.")
    if not rest:
        return np.zeros((count, 0, 3), np.float32)
    if rest == 72:
        _log.warning("%s has colours of degree 4; those up to degree 3 are read.", header.path)
    return columns(header, _numbered("f_rest", rest), element).reshape(count, 3, rest // 3).transpose(0, 2, 1)[:, :15]


def _packed(header: Header) -> Splats:
    """What SuperSplat compresses: 11, 10 and 11 bits of a position and scale between the bounds of their chunk."""
    vertices = header.table("vertex")
    positions, rotations, scales, colours = (vertices[name].astype(np.uint32) for name in PACKED)
    count = len(positions)
    chunk = np.arange(count) // _CHUNK
    if "chunk" not in header.elements or header.elements["chunk"].rows <= chunk[-1]:
        raise ValueError(f"{header.path} has fewer bounds than its {count} packed Gaussians need.")

    def between(shares: Float[np.ndarray, "N 3"], name: str, axes: str = "xyz") -> Float[np.ndarray, "N 3"]:
        ends = ([f"{end}_{name}{axis}" for axis in axes] for end in ("min", "max"))
        low, high = (columns(header, names, "chunk")[chunk] for names in ends)
        return np.asarray(low + (high - low) * shares)

    rgb, opacities = np.split(_shares(colours, 8, 8, 8, 8), [3], axis=1)
    rgb = between(rgb, "", "rgb") if "min_r" in header.elements["chunk"].properties else rgb
    with np.errstate(divide="ignore"):  # the logits of 0 and 1 are infinite
        logits = np.log(opacities[:, 0]) - np.log1p(-opacities[:, 0])
    quats = completed(rotations >> 30, math.sqrt(2) * (_shares(rotations, 2, 10, 10, 10)[:, 1:] - 0.5))
    higher = np.zeros((count, 0, 3))
    if "sh" in header.elements:
        codes = _higher(header, "sh")
        shares = np.where((codes > 0) & (codes < 255), (codes + 0.5) / 256, codes / 255)
        higher = 8 * shares - 4
    arrays = (
        between(_shares(positions, 11, 10, 11), ""), quats, between(_shares(scales, 11, 10, 11), "scale_"), logits,
        np.concatenate([(rgb[:, None] - 0.5) / SH_0, higher], axis=1),
    )  # fmt: skip
    return Splats(*(array.astype(np.float32) for array in arrays))


def _shares(words: np.ndarray, *bits: int) -> Float[np.ndarray, "N F"]:
    """Fields of 32-bit words, the highest bits first, as shares of their largest values."""
    ends = 32 - np.cumsum(bits)
    return np.stack([(words >> end & (1 << b) - 1) / ((1 << b) - 1) for end, b in zip(ends, bits, strict=True)], axis=1)


def encode_ply(path: Path, splats: Splats) -> bytes:
    """A 3DGS file (binary, little endian) that common viewers open."""
    check(splats, f"{path} was not written, as it would have")
    count, coefficients = splats.sh.shape[:2]
    higher = splats.sh[:, 1:].transpose(0, 2, 1).reshape(count, 3 * (coefficients - 1))
    table = (
        splats.means, np.zeros_like(splats.means), splats.sh[:, 0], higher,
        splats.opacity_logits[:, None], splats.log_scales, splats.quats,
    )  # fmt: skip
    names = ["x", "y", "z", "nx", "ny", "nz", *_numbered("f_dc", 3), *_numbered("f_rest", higher.shape[1])]
    names += ["opacity", *_numbered("scale", 3), *_numbered("rot", 4)]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property float {name}" for name in names] + ["end_header", ""]
    return "\n".join(lines).encode() + np.concatenate(table, axis=1).astype("<f4").tobytes()
