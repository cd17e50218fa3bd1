"""Points that are spread evenly over a surface, of a file or of anything else with triangles."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from asdkit.core.optional import require_package
from asdkit.core.parts import require
from asdkit.formats.glb import TO_GLTF, read_scene
from asdkit.formats.pictures import FORMATS, from_linear_light, linear_light, of_bounded_size

Places = tuple[Int64[Tensor, " N"], Float[Tensor, "N 3"]]  # triangles, and weights of their corners, which sum to 1
Points = tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"] | None]  # and their sRGB colours, if they have any
_GLTF = (".glb", ".gltf")
_Y_UP = (*_GLTF, ".obj")  # with the front towards +z; others have the world's axes
_SUFFIXES = (*_Y_UP, ".stl", ".ply", ".off")
_PARTS, _CORNERS = 10_000, 30_000_000  # that a scene may show, all repetitions counted
_PART = {".obj": rb"^\s*(?:o|g|usemtl)\s", ".stl": rb"^\s*solid\s"}  # what begins a part, which trimesh looks for again


def fit(points: Float[Tensor, "N 3"], radius: float, name: str | Path) -> Float[Tensor, "N 3"]:
    """Centres the bounding box at the origin and scales the farthest point to `radius`; errors name what it is of."""
    points = points - (points.amax(0) + points.amin(0)) / 2
    size = points.norm(dim=1).max()
    require(bool(0 < size < float("inf")), f"{name} has no extent, or points that are not finite.")
    return points * (radius / size)


def scatter(corners: Float[Tensor, "F 3 3"], count: int, generator: torch.Generator, name: str | Path) -> Places:
    """Places spread evenly over a surface."""
    edges = corners[:, 1:] - corners[:, :1]
    areas = torch.linalg.cross(edges[:, 0], edges[:, 1]).norm(dim=1).double()
    require(bool(areas.sum() > 0), f"{name} has no surface: all its faces are degenerate.")
    position = torch.rand(count, generator=generator, dtype=torch.float64) * areas.sum()
    faces = torch.searchsorted(areas.cumsum(0), position).clamp(max=len(areas) - 1)
    u, v = torch.rand(2, count, generator=generator, dtype=torch.float64)
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
    return faces, torch.stack([1 - u - v, u, v], dim=1)


def blend(values: Float[Tensor, "N 3 C"], weights: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
    """What the corners of triangles have, at places inside."""
    return (values * weights[..., None]).sum(1)


def sample_mesh(path: Path, count: int, radius: float, generator: torch.Generator) -> Points:
    """`count` points spread evenly over a mesh in the world's axes, and the file's colours there if it has any."""
    parts = _parts(path)
    corners = torch.from_numpy(np.concatenate([triangles for _, triangles in parts]))
    if path.suffix.lower() in _Y_UP:
        corners = corners @ torch.from_numpy(TO_GLTF)
    corners = fit(corners.flatten(0, 1), radius, path).unflatten(0, (-1, 3))
    faces, weights = scatter(corners, count, generator, path)
    points = blend(corners[faces], weights).float()
    colours, coloured, first = torch.full((count, 3), 0.5), False, 0
    for part, _ in parts:
        chosen = (faces >= first) & (faces < first + len(part.faces))
        if (seen := _colours(part, (faces[chosen] - first, weights[chosen]), path)) is not None:
            colours[chosen], coloured = seen, True
        first += len(part.faces)
    return points, colours if coloured else None


def _parts(path: Path) -> list[tuple[Any, Float[np.ndarray, "F 3 3"]]]:
    """The meshes of a file as trimesh's, and their triangles where the file's scene puts them."""
    require(path.suffix.lower() in _SUFFIXES, f"{path} must end in {', '.join(_SUFFIXES)} to be a mesh.")
    _check_parts(path)
    trimesh = require_package("trimesh", "mesh")
    parts = []
    try:
        scene = trimesh.load(path, force="scene", process=False)
        placements = _placements(scene.graph)
        for node in scene.graph.nodes_geometry:
            placement, part = placements[node], scene.geometry[scene.graph.transforms.node_data[node]["geometry"]]
            if isinstance(part, trimesh.Trimesh) and len(part.faces):
                vertices = part.vertices @ placement[:3, :3].T + placement[:3, 3]
                parts.append((part, np.asarray(vertices[part.faces], np.float64)))
    except Exception as error:  # trimesh's readers raise whatever a broken file makes them stumble over
        raise ValueError(f"{path} cannot be read as a mesh: {error}.") from error
    require(bool(parts), f"{path} holds no faces.")
    return parts


def _check_parts(path: Path) -> None:
    """Refuses what takes longer than its size: glTF shows a mesh once for every node that names it; see `_PART` too."""
    suffix, corners = path.suffix.lower(), 0
    if suffix in _GLTF:
        parts, corners = _shown(path, read_scene(path))
    else:
        parts = len(re.findall(_PART[suffix], path.read_bytes(), re.MULTILINE)) if suffix in _PART else 1
    if parts > _PARTS or corners > max(_CORNERS, path.stat().st_size):
        most = f"{_PARTS} and {_CORNERS} are the most"
        raise ValueError(f"{path} shows {parts} parts with {corners} corners; join some, for {most}.")


def _shown(path: Path, scene: Any) -> tuple[int, int]:
    try:
        accessors, sizes = scene["accessors"], []
        for mesh in scene["meshes"]:
            indices = [part.get("indices", part["attributes"]["POSITION"]) for part in mesh["primitives"]]
            sizes.append((len(indices), sum(accessors[index]["count"] for index in indices)))
        shown = [sizes[node["mesh"]] for node in scene["nodes"] if "mesh" in node]
        return sum(parts for parts, _ in shown), sum(corners for _, corners in shown)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"{path} cannot be read as a mesh: its glTF structure is broken.") from None


def _placements(graph: Any) -> dict[str, Float[np.ndarray, "4 4"]]:
    """Where a scene's nodes are in the world; trimesh's own look-up walks to the root anew for each of them."""
    tree, placements = graph.to_networkx(), {graph.base_frame: np.eye(4)}
    for parent, child in require_package("networkx", "mesh").bfs_edges(tree, graph.base_frame):
        placements[child] = placements[parent] @ tree.edges[parent, child].get("matrix", np.eye(4))
    return placements


def _colours(part: Any, places: Places, path: Path) -> Float[Tensor, "N 3"] | None:
    """sRGB at places of a mesh: what material, texture and vertices say, multiplied in linear light as in glTF."""
    # Plain colours of glTF are linear light; its textures, and all of other files, are sRGB.
    (faces, weights), look, gltf = places, part.visual, path.suffix.lower() in _GLTF
    material = getattr(look, "material", None)
    picture, plain = getattr(material, "baseColorTexture", None), getattr(material, "baseColorFactor", None)
    if not gltf:
        picture = getattr(material, "image", None)
        plain = None if picture else getattr(material, "diffuse", None)
    vertices = look.vertex_colors if look.kind == "vertex" else getattr(look, "vertex_attributes", {}).get("color")
    corners = torch.from_numpy(np.asarray(part.faces, np.int64))[faces]
    light = []
    if plain is not None:
        light.append(_light(plain, gltf).expand(len(faces), 3))
    if picture is not None and look.uv is not None:
        uvs = blend(torch.from_numpy(np.asarray(look.uv, np.float64))[corners], weights)
        light.append(_light(_texels(picture, uvs, path), False))
    if vertices is not None:
        light.append(blend(_light(vertices, gltf)[corners], weights))
    if look.kind == "face":
        light.append(_light(look.face_colors, False)[faces])
    if not light:
        return None
    product = torch.stack(light).prod(0)
    require(bool(product.isfinite().all()), f"{path} has colours that are not finite.")
    return torch.from_numpy(from_linear_light(product.clamp(0, 1).numpy())).float()


def _light(colours: Any, linear: bool) -> Float[Tensor, "*N 3"]:
    """Linear light of colours, linear or sRGB, as numbers in [0,1] or in the range of an integer type; no alpha."""
    colours = np.asarray(colours)[..., :3]
    colours = colours / (np.iinfo(colours.dtype).max if colours.dtype.kind in "iu" else 1.0)
    return torch.from_numpy(colours if linear else linear_light(colours))


def _texels(picture: Image.Image, uvs: Float[Tensor, "N 2"], path: Path) -> Float[np.ndarray, "N 3"]:
    """A repeated picture between its pixels; v points up."""
    if picture.format not in FORMATS:
        raise ValueError(f"{path} has a texture of the format {picture.format}; {', '.join(FORMATS)} are read.")
    try:
        pixels = np.array(of_bounded_size(picture).convert("RGB"), np.float64) / 255
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} has a texture that can't be read ({error}).") from error
    uvs = torch.where((uvs < 0) | (uvs > 1), uvs % 1, uvs)
    places = (2 * uvs - 1) * torch.tensor([1.0, -1.0])
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    texels = torch.nn.functional.grid_sample(image, places[None, None], padding_mode="border", align_corners=False)
    return texels[0, :, 0].T.numpy()
