"""The formats that objects are exported to, the file or folder that each is written to, and how it is written."""

from dataclasses import dataclass, field, fields
from typing import Any

from asdkit.core.bounds import AtLeast, Within
from asdkit.core.parts import require

FORMATS = {
    "ply": "splats.ply", "splat": "splats.splat", "spz": "splats.spz", "sog": "splats.sog", "glb": "splats.glb",
    "html": "viewer.html", "mesh-glb": "mesh.glb", "obj": "mesh.obj", "mp4": "orbit.mp4", "webp": "orbit.webp",
    "png": "views.png", "diffusers": "model",
}  # fmt: skip


def _choice(default: Any, allowed: Any = None, or_else: tuple[Any, ...] = ()) -> Any:
    return field(default=default, metadata={"allowed": allowed, "or_else": or_else})


@dataclass(frozen=True)
class Choices:
    """How an object is exported: what `asdkit export --help` says of --up, --size and so on; checked."""

    up: str = _choice("z", (), ("z", "y", "-y"))
    size: int = _choice(512, Within(16, 4096))
    frames: int = _choice(60, Within(2, 1000))
    resolution: int = _choice(128, Within(16, 512))
    faces: int = _choice(0, AtLeast(100), (0,))
    texture: int = _choice(0, Within(64, 4096), (0,))
    prompt: str = _choice("")
    cameras: str = _choice("")
    spz_version: int = _choice(4, (), (3, 4))

    def __post_init__(self) -> None:
        for own in fields(self):
            value, allowed, others = getattr(self, own.name), own.metadata["allowed"], own.metadata["or_else"]
            ways = " or ".join([*([repr(allowed)] if allowed else []), *map(str, others)])
            fits = allowed is None or value in others or value in allowed
            require(fits, f"--{own.name.replace('_', '-')} must be {ways}; got {value}.")
