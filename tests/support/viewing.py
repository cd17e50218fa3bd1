"""Helpers of several tests."""

import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

viser = pytest.importorskip("viser")


def listening() -> set[tuple[str, int]]:
    """Addresses (hexadecimal) and ports where this process listens."""
    if not Path("/proc/self/net/tcp").exists():
        pytest.skip("needs Linux's list of sockets")
    inodes = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            inodes.add(os.readlink(descriptor))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in inodes:
                address, _, port = local.partition(":")
                found.add((address, int(port, 16)))
    return found


def client(number: int, stamp: float, size: tuple[int, int]) -> SimpleNamespace:
    """A browser, as viser describes one, at -y."""
    wxyz = viser.transforms.SO3.from_matrix(np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)).wxyz
    camera = SimpleNamespace(wxyz=wxyz, position=np.array([0.0, -3.0, 0.0]), fov=0.6, update_timestamp=stamp)
    camera.image_width, camera.image_height = size
    pictures: list[np.ndarray] = []
    scene = SimpleNamespace(set_background_image=lambda image, format: pictures.append(image))
    return SimpleNamespace(client_id=number, camera=camera, scene=scene, pictures=pictures)
