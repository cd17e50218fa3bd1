"""Meshes as files that other programs read."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from asdkit.core.atomic import atomic
from asdkit.core.optional import require_package
from asdkit.formats.colour import linear_light
from asdkit.formats.glb import TO_GLTF
from asdkit.formats.mesh.extract import Mesh
from asdkit.formats.mesh.texture import Texture


def write_mesh(path: Path, mesh: Mesh, texture: Texture | None = None) -> list[Path]:
    """Write a mesh as `.glb` or `.obj`, with a colour at each vertex or with a texture; returns the files.

    They are y-up with the front towards +z. A GLB is one file; an OBJ's texture lies beside it (.mtl and .png), and all
    three files are written or none. A GLB's vertex colours are linear light, as glTF wants them, an OBJ's are sRGB.
    """
    files = (_glb if path.suffix == ".glb" else _obj)(path, mesh, texture)
    with ExitStack() as stack:  # renames the last file first: when the mesh is there, so is what belongs to it
        for file, content in files.items():
            stack.enter_context(atomic(file)).write_bytes(content)
    return list(files)


def _glb(path: Path, mesh: Mesh, texture: Texture | None) -> dict[Path, bytes]:
    visual = require_package("trimesh.visual", "mesh")
    material = visual.material.PBRMaterial(metallicFactor=0.0, roughnessFactor=1.0)
    if texture is None:
        look = visual.TextureVisuals(material=material)
        look.vertex_attributes["color"] = _bytes(linear_light(mesh.colours))
    else:
        material.baseColorTexture = Image.fromarray(texture.image)
        look = visual.TextureVisuals(uv=texture.uvs, material=material)
    return {path: _model(mesh, texture, look).export(file_type="glb", include_normals=True)}


def _obj(path: Path, mesh: Mesh, texture: Texture | None) -> dict[Path, bytes]:
    visual = require_package("trimesh.visual", "mesh")
    name = path.stem.replace(" ", "_")  # in an OBJ a space ends a name
    if texture is None:
        look = visual.ColorVisuals(vertex_colors=_bytes(mesh.colours))
    else:
        white, black = [255, 255, 255], [0, 0, 0]
        picture = Image.fromarray(texture.image)
        material = visual.material.SimpleMaterial(picture, white, white, black, 0.0, name)
        look = visual.TextureVisuals(uv=texture.uvs, material=material)
    text, beside = require_package("trimesh.exchange.obj", "mesh").export_obj(
        _model(mesh, texture, look), True, return_texture=True, mtl_name=f"{name}.mtl", header=None
    )
    return {path: text.encode()} | {path.with_name(file): content for file, content in beside.items()}


def _model(mesh: Mesh, texture: Texture | None, look: Any) -> Any:
    """The mesh as trimesh's, turned from the world's axes to glTF's."""
    vertices, normals, faces = mesh.vertices @ TO_GLTF.T, mesh.normals @ TO_GLTF.T, mesh.faces
    if texture is not None:
        vertices, normals, faces = vertices[texture.parents], normals[texture.parents], texture.faces
    build = require_package("trimesh", "mesh").Trimesh
    return build(vertices, faces, vertex_normals=normals, visual=look, process=False)


def _bytes(colours: Float[np.ndarray, "V 3"]) -> np.ndarray:
    return np.pad((colours * 255).round().astype(np.uint8), ((0, 0), (0, 1)), constant_values=255)
