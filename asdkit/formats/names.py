"""The formats that objects are exported to, and the file or folder that each is written to."""

FORMATS = {
    "ply": "splats.ply", "splat": "splats.splat", "spz": "splats.spz", "sog": "splats.sog", "glb": "splats.glb",
    "html": "viewer.html", "mesh-glb": "mesh.glb", "obj": "mesh.obj", "mp4": "orbit.mp4", "webp": "orbit.webp",
    "png": "views.png", "diffusers": "model",
}  # fmt: skip
