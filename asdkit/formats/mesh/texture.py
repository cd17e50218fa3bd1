"""Textures of meshes: the surface unwrapped into an image, which is painted with the volume's colours."""

from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from asdkit.core.bounds import Within, checked
from asdkit.core.optional import require_package
from asdkit.formats.mesh.extract import Mesh, skin
from asdkit.rendering.rays import Volume

_PADDING = 4  # pixels between charts, about
_FACES = 1 << 13  # that are painted at a time


class Texture(NamedTuple):
    """An image around a mesh.

    Shapes:
        parents: the mesh's vertex that each vertex with a place in the image is a copy of [W].
        faces: the mesh's faces in terms of these copies [F,3].
        uvs: places in the image in [0,1], u to the right and v upwards [W,2].
        image: the top row first [S,S,3].
    """

    parents: Int64[np.ndarray, " W"]
    faces: Int64[np.ndarray, "F 3"]
    uvs: Float32[np.ndarray, "W 2"]
    image: UInt8[np.ndarray, "S S 3"]


@checked
def bake(mesh: Mesh, volume: Volume, size: Annotated[int, Within(64, 4096)] = 1024) -> Texture:
    """A texture with the volume's colours, which carry on beyond the charts' borders.

    Unwrapping takes 2 s for 20,000 faces but 17 s for 80,000: let `extract` make do with few.

    Args:
        mesh: of the volume.
        volume: what the colours are asked of.
        size: height and width in pixels.

    Raises:
        ValueError: the size is out of its range.
        MissingExtra: the extra `mesh` is not installed.
    """
    xatlas, spread = require_package("xatlas", "mesh"), require_package("scipy.ndimage", "mesh").distance_transform_edt
    atlas, packing = xatlas.Atlas(), xatlas.PackOptions()
    packing.resolution, packing.padding = size, _PADDING
    atlas.add_mesh(mesh.vertices, mesh.faces.astype(np.uint32))
    atlas.generate(pack_options=packing)
    parents, faces, uvs = atlas[0]
    parents, faces = parents.astype(np.int64), faces.astype(np.int64)
    texel, face, weights = _inside(uvs[faces].astype(np.float64) * size, size)
    corners = parents[faces[face]]
    points, normals = ((weights[:, :, None] * each[corners]).sum(1) for each in (mesh.vertices, mesh.normals))
    image, empty = np.zeros((size * size, 3), np.float32), np.ones(size * size, bool)
    image[texel], empty[texel] = skin(volume, points.astype(np.float32), normals.astype(np.float32)), False
    row, column = spread(empty.reshape(size, size), return_distances=False, return_indices=True)
    image = image.reshape(size, size, 3)[row, column][::-1]
    return Texture(parents, faces, uvs.astype(np.float32), (image * 255).round().astype(np.uint8))


def _inside(
    corners: Float64[np.ndarray, "F 3 2"], size: int
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"], Float64[np.ndarray, "N 3"]]:
    """Pixels (row * size + column, bottom row first) whose centres are in triangles, these, and the corners' shares."""
    inside = []
    for start in range(0, len(corners), _FACES):
        part = corners[start : start + _FACES]
        low = np.floor(part.min(1)).astype(np.int64).clip(0)
        span = np.ceil(part.max(1)).astype(np.int64).clip(0, size) - low
        count = span.prod(1)
        face = np.repeat(np.arange(len(part)), count)
        step = np.arange(len(face)) - np.repeat(count.cumsum() - count, count)
        column, row = low[face, 0] + step % span[face, 0], low[face, 1] + step // span[face, 0]
        place = np.stack([column, row], axis=1) + 0.5
        areas = np.stack([_area(place, part[face, i - 2], part[face, i - 1]) for i in range(3)], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):  # triangles without an area have no inside
            weights = areas / areas.sum(1, keepdims=True)
        hit = (weights >= 0).all(1)
        inside.append(((row * size + column)[hit], face[hit] + start, weights[hit]))
    texel, face, weights = (np.concatenate(parts) for parts in zip(*inside, strict=True))
    return texel, face, weights


def _area(
    a: Float64[np.ndarray, "N 2"], b: Float64[np.ndarray, "N 2"], c: Float64[np.ndarray, "N 2"]
) -> Float64[np.ndarray, " N"]:
    """Twice the area of triangles, positive for counter-clockwise ones."""
    (x, y), (z, w) = (b - a).T, (c - a).T
    return x * w - y * z
