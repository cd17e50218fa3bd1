"""An object in a browser, while it is being made or afterwards; served on this machine alone, by viser."""

import io
import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from asdkit.core.bounds import Count, checked
from asdkit.core.contexts import replaced
from asdkit.core.optional import require_package
from asdkit.distillation import Distillation
from asdkit.formats.splat_files import read_splats
from asdkit.formats.splats import Splats, activate
from asdkit.rendering.cameras import Views, posed, ring
from asdkit.rendering.projection import SH_0, rotation_matrices
from asdkit.run.export import load

HOST = "127.0.0.1"
_LAST_PORT = 65535 - 999  # viser tries this port and the 999 above it
_PICTURE_HEIGHT = 128  # pixels
_SCALE_MAX = math.exp(5)  # the browser's variances are half floats, which end at 65504
_LOCAL = re.compile(r"http://(127\.0\.0\.1|localhost)(:\d+)?")  # pages of this machine


def drawn(splats: Splats) -> dict[str, Float32[np.ndarray, "N ..."]]:
    """What viser draws: `centers` [N,3] and `covariances` [N,3,3] in world units, `opacities` and `rgbs` in [0,1]."""
    means, quats, scales, opacities, sh = activate(splats.tensors(torch.float64))
    axes = rotation_matrices(quats) * scales.clamp(max=_SCALE_MAX)[:, None, :]
    rgbs = (0.5 + SH_0 * sh[:, 0]).clamp(0, 1)
    arguments = {"centers": means, "covariances": axes @ axes.mT, "rgbs": rgbs, "opacities": opacities[:, None]}
    return {name: tensor.float().numpy() for name, tensor in arguments.items()}


def views_at(
    wxyz: Float[np.ndarray, " 4"], position: Float[np.ndarray, " 3"], fov: float, height: int, width: int
) -> Views:
    """One camera of viser's, whose axes are OpenCV's as ours are; `fov` is vertical, in radians, sizes in pixels."""
    c2w = torch.eye(4)[None].clone()
    c2w[0, :3, :3] = rotation_matrices(torch.as_tensor(wxyz)[None])[0]
    c2w[0, :3, 3] = torch.as_tensor(position)
    focal = 0.5 * height / math.tan(0.5 * fov)
    return posed(c2w, torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]]), height, width)


def check_port(port: int) -> None:
    """Raises a ValueError for a port that can't be taken; 0 may be."""
    if port != 0 and not 1024 <= port <= _LAST_PORT:
        raise ValueError(f"The viewer's port must be 0 or within 1024 and {_LAST_PORT}; got {port}.")


class LiveView:
    """A page at http://127.0.0.1:port that shows one object, z up, at first from the front and a little above.

    Gaussians are drawn by the browser, others rendered here from where each browser's camera is, before a grey level in
    [0,1]. The port is the next free one where it is taken, and any free one for 0.
    """

    def __init__(self, port: int, background: float = 0.85) -> None:
        self.server = _serve(port)
        self.address = f"http://{HOST}:{self.server.get_port()}"
        self._browser_draws = False
        self._moves: dict[int, float] = {}  # of each browser's camera the last one that it has a picture of
        front, camera = ring(1), self.server.initial_camera
        self.server.scene.set_up_direction("+z")
        camera.position, camera.look_at = tuple(front.c2w[0, :3, 3].tolist()), (0.0, 0.0, 0.0)
        camera.fov = 2 * math.atan(0.5 * front.height / float(front.K[0, 1, 1]))
        self.server.gui.configure_theme(show_logo=False, show_share_button=False)
        self.server.scene.set_background_image(np.full((1, 1, 3), round(255 * background), dtype=np.uint8))
        print(f"Viewer: {self.address}", flush=True)

    def show(self, splats: Splats) -> None:
        """Show these Gaussians in the place of what was shown."""
        self._browser_draws = True
        self.server.scene.add_gaussian_splats("/object", **drawn(splats))

    def show_pictures(self, render: Callable[[Views], Float[Tensor, "1 3 H W"]], moved: bool = False) -> None:
        """Show each browser, or only those whose camera has `moved`, what its camera sees: colours in [0,1]."""
        for client in self.server.get_clients().values():
            camera, stamp = client.camera, client.camera.update_timestamp
            if moved and self._moves.get(client.client_id) == stamp:
                continue
            self._moves[client.client_id] = stamp
            width = round(_PICTURE_HEIGHT * min(max(camera.image_width / max(camera.image_height, 1), 0.1), 4.0))
            picture = render(views_at(camera.wxyz, camera.position, camera.fov, _PICTURE_HEIGHT, width))[0]
            pixels = (255 * picture.clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy()
            client.scene.set_background_image(pixels, format="png")

    @torch.no_grad()
    def follow(self, module: Distillation, moved: bool = False) -> None:
        """Show a run's object as it is now, or only `moved` cameras what they see of it."""
        if moved and self._browser_draws:
            return
        if (splats := module.generator.splats()) is not None:
            self.show(splats)
        else:
            self.show_pictures(lambda views: module.show(views.to(module.device)).image, moved)

    def stop(self) -> None:
        """Close the page; browsers keep what they show."""
        with redirect_stdout(io.StringIO()):
            self.server.stop()


def view_of(module: pl.LightningModule, port: int) -> LiveView:
    """A page for the object that a module makes, without it so far; a ValueError if there is none in 3D."""
    if not isinstance(module, Distillation) or module.generator.flat:
        raise ValueError("The viewer shows 3D objects, and this run makes none; look at the pictures in its folder.")
    return LiveView(port, module.rendering.background)


def serve(path: Path, port: int) -> None:
    """`asdkit view`: serve a run folder, a checkpoint (.ckpt) or a file of splats until interrupted."""
    check_port(port)
    module = load(path) if path.is_dir() or path.suffix == ".ckpt" else None
    splats = None if module else read_splats(path)
    live = view_of(module.to("cuda" if torch.cuda.is_available() else "cpu"), port) if module else LiveView(port)
    try:
        if splats:
            live.show(splats)
        print("Ctrl-C ends it.", flush=True)
        while True:
            if module:
                live.follow(module, moved=True)
            time.sleep(0.05)  # until the next look at where the browsers' cameras are
    finally:
        live.stop()


def _serve(port: int) -> Any:
    viser = require_package("viser", "viewer")

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> None:
            """Any page in a browser may ask for a public address of the server; there is none."""

    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # browsers leave connections that they don't need
    with redirect_stdout(io.StringIO()), local_pages_only():  # viser's own announcements say less than ours
        return Server(host=HOST, port=port, verbose=False)


@contextmanager
def local_pages_only() -> Iterator[None]:
    """Inside, `websockets.asyncio.server.serve` refuses other pages; a RuntimeError if it started no server."""
    # A page from anywhere that is open in the same browser can connect to a server on 127.0.0.1 and read what it sends,
    # for browsers' same-origin rule does not cover websockets (CWE-1385). They do say where a page is from, and the
    # package websockets refuses origins that are not on a list; viser 1.1 gives it none and has no argument for one.
    from websockets.asyncio import server

    serve, started = server.serve, []

    def serve_local(*arguments: Any, **options: Any) -> Any:
        started.append(serve(*arguments, **options | {"origins": [_LOCAL, None]}))  # None: of programs
        return started[-1]

    with replaced(server, "serve", serve_local):
        yield
    if not started:
        raise RuntimeError("The viewer's server can't be closed to pages of other machines; install viser 1.1.")


@checked
class Viewer(pl.Callback):
    """Serves a page that shows the object at http://127.0.0.1:port during fit. Looking at it changes nothing.

    Args:
        port: the port to listen on. The next free one is taken when it is in use; 0 switches the viewer off.
        every: the number of iterations between two updates.
    """

    def __init__(self, port: int = 0, every: Count = 10) -> None:
        check_port(port)
        self.port, self.every = port, every
        self._live: LiveView | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit" and self.port and trainer.is_global_zero:
            self._live = view_of(pl_module, self.port)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._live:
            self._live.follow(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if self._live:
            due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
            self._live.follow(pl_module, moved=not due)

    def teardown(self, trainer: Any, pl_module: Any, stage: Any = None) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    on_exception = teardown
