"""Meshes as files that other programs read, and their textures: the surface unwrapped into a painted image."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from PIL import Image

from asdkit.core.atomic import atomic
from asdkit.core.optional import require_package
from asdkit.formats.glb import TO_GLTF
from asdkit.formats.mesh.extract import Mesh, skin
from asdkit.formats.pictures import linear_light
from asdkit.rendering.rays import Volume

_COLOUR = "_COLOUR"  # the name of vertex colours on their way through trimesh


class Texture(NamedTuple):
    """An image around a mesh."""

    parents: Int64[np.ndarray, " W"]  # the mesh's vertex that each vertex with a place in the image is a copy of
    faces: Int64[np.ndarray, "F 3"]  # the mesh's faces in terms of these copies
    uvs: Float32[np.ndarray, "W 2"]  # places in the image in [0,1], u to the right and v upwards
    image: UInt8[np.ndarray, "S S 3"]  # the top row first


def bake(mesh: Mesh, volume: Volume, size: int = 1024) -> Texture:
    """A texture of `size` pixels with the volume's colours, which carry on beyond the charts' borders."""
    xatlas, spread = require_package("xatlas", "mesh"), require_package("scipy.ndimage", "mesh").distance_transform_edt
    atlas, packing = xatlas.Atlas(), xatlas.PackOptions()
    packing.resolution, packing.padding = size, 4  # pixels between charts, about
    atlas.add_mesh(mesh.vertices, mesh.faces.astype(np.uint32))
    atlas.generate(pack_options=packing)  # 2 s for 20,000 faces, 17 s for 80,000
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


def _inside(corners: Float64[np.ndarray, "F 3 2"], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N pixels (row * size + column, bottom first) with centres in triangles, these, and the corners' shares [N,3]."""
    polygon = require_package("skimage.draw", "mesh").polygon
    pixels = [polygon(*(corner.T[::-1] - 0.5), (size, size)) for corner in corners]
    face = np.repeat(np.arange(len(corners)), [len(rows) for rows, _ in pixels])
    row, column = np.concatenate(pixels, axis=1)
    flat, centres = np.pad(corners, ((0, 0), (0, 0), (0, 1))), np.stack([column, row, 0 * row], axis=1) + [0.5, 0.5, 0]
    with np.errstate(invalid="ignore", divide="ignore"):  # triangles without an area have no inside
        weights = require_package("trimesh.triangles", "mesh").points_to_barycentric(flat[face], centres)
    inside = np.isfinite(weights).all(1)
    return (row * size + column)[inside], face[inside], weights[inside]


def write_mesh(path: Path, mesh: Mesh, texture: Texture | None = None) -> list[Path]:
    """Write a mesh as `.glb` or `.obj`, y-up with the front towards +z, with a colour at each vertex or with a texture.

    An OBJ's texture lies beside it (.mtl and .png); all files are written or none, and are returned. A GLB's vertex
    colours are linear light, as glTF wants them, in 16 bits: of 8, dark colours would show bands. An OBJ's are sRGB.
    """
    files = (_glb if path.suffix == ".glb" else _obj)(path, mesh, texture)
    with ExitStack() as stack:  # renames the last file first: when the mesh is there, so is what belongs to it
        for file, content in files.items():
            stack.enter_context(atomic(file)).write_bytes(content)
    return list(files)


def _glb(path: Path, mesh: Mesh, texture: Texture | None) -> dict[Path, bytes]:
    visual = require_package("trimesh.visual", "mesh")
    material = visual.material.PBRMaterial(path.stem, metallicFactor=0.0, roughnessFactor=1.0)
    if texture is None:
        model = _model(mesh, texture, visual.TextureVisuals(material=material))
        model.vertex_attributes[_COLOUR] = _opaque(linear_light(mesh.colours), np.uint16)
    else:
        material.baseColorTexture = Image.fromarray(texture.image)
        model = _model(mesh, texture, visual.TextureVisuals(uv=texture.uvs, material=material))
    scene = require_package("trimesh", "mesh").Scene({path.stem: model})  # programs show this name
    return {path: scene.export(file_type="glb", include_normals=True, tree_postprocessor=_colours_named)}


def _colours_named(tree: Any) -> None:
    """Makes an attribute that trimesh took for one of our own glTF's colours, which it would write in 8 bits."""
    for primitive in (each for mesh in tree["meshes"] for each in mesh["primitives"]):
        if _COLOUR in primitive["attributes"]:
            primitive["attributes"]["COLOR_0"] = index = primitive["attributes"].pop(_COLOUR)
            tree["accessors"][index]["normalized"] = True


def _obj(path: Path, mesh: Mesh, texture: Texture | None) -> dict[Path, bytes]:
    visual = require_package("trimesh.visual", "mesh")
    name = path.stem.replace(" ", "_")  # in an OBJ a space ends a name
    if texture is None:
        look = visual.ColorVisuals(vertex_colors=_opaque(mesh.colours, np.uint8))
    else:
        white, black = [255, 255, 255], [0, 0, 0]
        material = visual.material.SimpleMaterial(Image.fromarray(texture.image), white, white, black, 0.0, name)
        look = visual.TextureVisuals(uv=texture.uvs, material=material)
    export, model = require_package("trimesh.exchange.obj", "mesh").export_obj, _model(mesh, texture, look)
    text, beside = export(model, True, return_texture=True, mtl_name=f"{name}.mtl", header=None)
    return {path: text.encode()} | {path.with_name(file): content for file, content in beside.items()}


def _model(mesh: Mesh, texture: Texture | None, look: Any) -> Any:
    """The mesh as trimesh's, turned from the world's axes to glTF's."""
    vertices, normals, faces = mesh.vertices @ TO_GLTF.T, mesh.normals @ TO_GLTF.T, mesh.faces
    if texture is not None:
        vertices, normals, faces = vertices[texture.parents], normals[texture.parents], texture.faces
    build = require_package("trimesh", "mesh").Trimesh
    return build(vertices, faces, vertex_normals=normals, visual=look, process=False)


def _opaque(colours: Float[np.ndarray, "V 3"], kind: type[np.unsignedinteger]) -> np.ndarray:
    """Colours in [0,1] as whole numbers of a kind, with an alpha of 1."""
    largest = np.iinfo(kind).max
    return np.pad((colours * largest).round().astype(kind), ((0, 0), (0, 1)), constant_values=largest)
