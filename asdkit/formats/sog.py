"""SOG files, PlayCanvas's Spatially Ordered Gaussians: lossless WebP pictures and `meta.json`, in a zip; version 2.

A pixel is a Gaussian, the same one in all pictures. Neighbours in space are neighbours there, as WebP likes it.
"""

import json
import math
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from asdkit.core.version import __version__
from asdkit.formats.splats import Splats, reduced, to_be_written, to_bytes

_CODES = 256  # numbers in a codebook
_PALETTE = 1 << 16  # sets of higher coefficients, at most
_SETS_IN_A_ROW = 64  # of their picture
_BLOCK = 4  # pictures' sides are multiples of it
Part = tuple[dict[str, Any], dict[str, UInt8[np.ndarray, "H W C"]]]  # what `meta.json` says of a property; its pictures


def encode_sog(path: Path, splats: Splats) -> bytes:
    """The Gaussians along Morton's curve. Positions have 16 bits; scales and colours are the nearest of 256 each, and
    there are 65,536 sets of coefficients for what depends on the direction.
    """
    gaussians = to_be_written(path, splats)
    order = _along_curve(gaussians.means)
    means, quats, scales, opacities, sh = (values[order] for values in gaussians)
    scale_book, scale_codes = _quantised(np.log(scales))
    colour_book, colour_codes = _quantised(sh[:, 0])
    colour_codes = np.concatenate([colour_codes, to_bytes(255 * opacities)[:, None]], axis=1)
    largest, smaller = reduced(quats)  # the smaller within +-sqrt(1/2), and 252 to 255 for which is the largest
    quat_codes = np.column_stack([to_bytes(255 * (0.5 + smaller * math.sqrt(0.5))), 252 + largest])
    parts = {
        "means": _means(means),
        "scales": ({"codebook": scale_book}, {"scales": _picture(scale_codes)}),
        "quats": ({}, {"quats": _picture(quat_codes)}),
        "sh0": ({"codebook": colour_book}, {"sh0": _picture(colour_codes)}),
    }
    if sh.shape[1] > 1:
        parts["shN"] = _higher(sh[:, 1:])
    return _zipped(len(means), parts)


def _zipped(count: int, parts: dict[str, Part]) -> bytes:
    """`meta.json` and the pictures, of bytes in three or four channels; the same Gaussians give the same bytes."""
    meta = {"version": 2, "asset": {"generator": f"asdkit {__version__}"}, "count": count}
    meta |= {part: facts | {"files": [f"{name}.webp" for name in shown]} for part, (facts, shown) in parts.items()}
    with zipfile.ZipFile(data := BytesIO(), "w") as bundle:
        bundle.writestr(zipfile.ZipInfo("meta.json"), json.dumps(meta))
        for name, pixels in (picture for _, pictures in parts.values() for picture in pictures.items()):
            Image.fromarray(pixels).save(file := BytesIO(), format="WEBP", lossless=True, exact=True)
            bundle.writestr(zipfile.ZipInfo(f"{name}.webp"), file.getvalue())
    return data.getvalue()


def _means(means: Float[np.ndarray, "N 3"]) -> Part:
    """Their logarithms, sign(x) ln(1 + |x|), as shares of the way between the least and the largest."""
    logs = np.sign(means) * np.log1p(np.abs(means))
    low, high = logs.min(axis=0), logs.max(axis=0)
    steps = np.rint((logs - low) / np.where(high > low, high - low, 1) * 65535).astype(np.int64)
    pictures = {"means_l": _picture(steps & 255), "means_u": _picture(steps >> 8)}
    return {"mins": low.tolist(), "maxs": high.tolist()}, pictures


def _higher(higher: Float[np.ndarray, "N K 3"]) -> Part:
    """A picture of the sets of coefficients, K pixels each and 64 sets in a row, and one of each Gaussian's set."""
    palette, labels = _palette(higher)
    codebook, codes = _quantised(palette)
    count, coefficients = codes.shape[:2]
    rows = np.pad(codes, ((0, -count % _SETS_IN_A_ROW), (0, 0), (0, 0)))
    pictures = {
        "shN_centroids": rows.reshape(-1, _SETS_IN_A_ROW * coefficients, 3),
        "shN_labels": _picture(np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=1)),
    }
    return {"count": count, "bands": math.isqrt(coefficients), "codebook": codebook}, pictures


def _picture(values: Integer[np.ndarray, "N C"]) -> UInt8[np.ndarray, "H W C"]:
    """Bytes row by row in a picture that is about square; the last pixels are empty."""
    width = _BLOCK * math.ceil(math.sqrt(len(values)) / _BLOCK)
    height = _BLOCK * math.ceil(len(values) / width / _BLOCK)
    return np.pad(values, ((0, width * height - len(values)), (0, 0))).astype(np.uint8).reshape(height, width, -1)


def _along_curve(means: Float[np.ndarray, "N 3"]) -> Integer[np.ndarray, " N"]:
    """The order along Morton's curve through the bounding box, of 1024 steps along each axis."""
    low, high = means.min(axis=0), means.max(axis=0)
    cells = ((means - low) / np.where(high > low, high - low, 1) * 1023).astype(np.int64)
    bits = cells[:, None, :] >> np.arange(10)[None, :, None] & 1
    return np.argsort((bits << 3 * np.arange(10)[:, None] + np.arange(3)).sum(axis=(1, 2)), kind="stable")


def _quantised(values: Float[np.ndarray, "*shape"]) -> tuple[list[float], UInt8[np.ndarray, "*shape"]]:
    """A codebook in ascending order, and the place of each value's nearest number: Lloyd's algorithm on the line."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    ranks = np.linspace(0, len(ordered) - 1, _CODES // 2).astype(np.int64)
    codebook = np.sort([*ordered[ranks], *np.linspace(ordered[0], ordered[-1], _CODES // 2)])  # common and rare ones
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(20):  # in which the codebook is moved to its numbers
        ends = np.searchsorted(ordered, (codebook[1:] + codebook[:-1]) / 2)
        starts, stops = np.concatenate([[0], ends]), np.concatenate([ends, [len(ordered)]])
        means = (sums[stops] - sums[starts]) / np.maximum(stops - starts, 1)
        codebook = np.where(stops > starts, means, codebook)
    return codebook.round(7).tolist(), np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values).astype(np.uint8)


def _palette(sh: Float[np.ndarray, "N K 3"]) -> tuple[Float[np.ndarray, "P K 3"], Integer[np.ndarray, " N"]]:
    """At most 65,536 sets of coefficients, and which of them each Gaussian has: its own where there are enough."""
    count, flat = len(sh), sh.reshape(len(sh), -1)
    if count <= _PALETTE:
        return sh, np.arange(count)
    # Else they are means of groups, halved again and again at the middle of their widest coefficient.
    order = np.arange(count)
    for halvings in range(_PALETTE.bit_length()):
        ends = np.arange(2**halvings + 1) * count // 2**halvings
        starts, sizes = ends[:-1], np.diff(ends)[:, None]
        group = np.repeat(np.arange(len(starts)), sizes[:, 0])
        means, squares = (np.add.reduceat(part, starts) / sizes for part in (flat[order], flat[order] ** 2))
        if len(starts) == _PALETTE:
            break
        widest = (squares - means**2).argmax(axis=1)
        order = order[np.lexsort((flat[order, widest[group]], group))]
    labels = np.empty(count, np.int64)
    labels[order] = group
    return means.reshape(-1, *sh.shape[1:]), labels
