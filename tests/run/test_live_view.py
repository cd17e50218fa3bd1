"""Live viewing: what the browser is sent, from where it looks, and where it is served."""

import math
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from support.splat_tools import covariances, opacities, splats
from support.viewing import client, listening

from asdkit.formats.splats import Splats
from asdkit.rendering.rasterize import rasterize
from asdkit.run import live_view as viewing
from asdkit.run.live_view import Viewer, local_pages_only

viser = pytest.importorskip("viser")
websockets = pytest.importorskip("websockets")
C0 = 0.5 / math.sqrt(math.pi)  # the first spherical harmonic


@pytest.fixture
def live() -> Iterator[viewing.LiveView]:
    view = viewing.LiveView(0)
    yield view
    view.stop()


def blob(position: tuple, colour: tuple, size: float = 0.1) -> Splats:
    """One round Gaussian, nearly opaque."""
    row = (position, (1, 0, 0, 0), (math.log(size),) * 3)
    means, quats, scales = (np.array([part], np.float32) for part in row)
    sh = ((np.array(colour, np.float32) - 0.5) / C0)[None, None]
    return Splats(means, quats, scales, np.array([6], np.float32), sh.astype(np.float32))


def test_activation_is_the_definition_in_a_slow_loop() -> None:
    gaussians = splats(6, degree=1)
    drawn = viewing.drawn(gaussians)
    np.testing.assert_array_equal(drawn["centers"], gaussians.means)
    np.testing.assert_allclose(drawn["covariances"], covariances(gaussians), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(drawn["opacities"][:, 0], opacities(gaussians), rtol=1e-5)
    for i in range(len(gaussians.means)):
        for channel in range(3):
            colour = min(max(0.5 + C0 * float(gaussians.sh[i, 0, channel]), 0.0), 1.0)
            assert drawn["rgbs"][i, channel] == pytest.approx(colour, abs=1e-6)
    assert {part.dtype for part in drawn.values()} == {np.dtype(np.float32)}


def test_colours_stay_in_range_and_huge_gaussians_stay_finite() -> None:
    gaussians = splats(6, degree=1)._replace(
        sh=np.full((6, 1, 3), 9, np.float32) * np.array([1, -1, 0], np.float32),
        log_scales=np.full((6, 3), 1e4, np.float32),
        opacity_logits=np.full(6, -1e4, np.float32),
    )
    drawn = viewing.drawn(gaussians)
    assert drawn["rgbs"].tolist() == [[1.0, 0.0, 0.5]] * 6
    assert np.isfinite(drawn["covariances"].astype(np.float16)).all() and drawn["opacities"].tolist() == [[0.0]] * 6


def test_a_camera_made_by_hand() -> None:
    """It stands at -y, 3 away and 1 above, and looks along +y: right is +x, down is -z."""
    rotation = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)  # columns right, down, forward
    wxyz = viser.transforms.SO3.from_matrix(rotation).wxyz
    views = viewing.views_at(wxyz, np.array([0.0, -3.0, 1.0]), math.radians(60), height=60, width=90)
    np.testing.assert_allclose(views.c2w[0, :3, :3], rotation, atol=1e-6)
    assert views.c2w[0, :, 3].tolist() == [0, -3, 1, 1] and views.c2w[0, 3].tolist() == [0, 0, 0, 1]
    focal = 30 / math.tan(math.radians(30))
    np.testing.assert_allclose(views.K[0], [[focal, 0, 45], [0, focal, 30], [0, 0, 1]], rtol=1e-6)
    assert float(views.azimuth) == pytest.approx(-math.pi / 2)
    assert float(views.elevation) == pytest.approx(math.atan(1 / 3))
    assert float(views.distance) == pytest.approx(math.sqrt(10))
    one = [torch.from_numpy(part) for part in blob((0.6, 0.0, 1.4), (1, 0, 0), 0.05)]
    means, quats, log_scales, logits, sh = one
    black = torch.zeros(3)
    picture = rasterize(means, quats, log_scales.exp(), logits.sigmoid(), sh, views, black, sh_degree=0)[0][0]
    rows, columns = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(90) + 0.5, indexing="ij")
    red = picture[..., 0] / picture[..., 0].sum()
    assert float((red * columns).sum()) == pytest.approx(45 + focal * 0.6 / 3, abs=0.1)  # on the right
    assert float((red * rows).sum()) == pytest.approx(30 - focal * 0.4 / 3, abs=0.1)  # and above


def test_it_listens_on_this_machine_alone_and_names_the_port_it_got(capfd: pytest.CaptureFixture) -> None:
    before = listening()
    first = viewing.LiveView(20480)
    port = first.server.get_port()
    second = viewing.LiveView(port)  # taken
    try:
        other = second.server.get_port()
        assert listening() - before == {("0100007F", port), ("0100007F", other)}  # 127.0.0.1 in hexadecimal
        assert 20480 <= port < other
        lines = capfd.readouterr().out.splitlines()
        assert lines == [f"Viewer: http://127.0.0.1:{port}", f"Viewer: http://127.0.0.1:{other}"]
        fetch = f"import urllib.request; print(urllib.request.urlopen('{second.address}', timeout=200).read())"
        assert "<html" in subprocess.run([sys.executable, "-c", fetch], capture_output=True, text=True).stdout
    finally:
        first.stop()
        second.stop()
    assert listening() == before and capfd.readouterr().out == ""


def test_a_page_that_asks_for_an_address_gets_none(live: viewing.LiveView, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(viser._viser, "ViserTunnel", lambda *arguments: asked.append(arguments))
    (handler,) = live.server._websock_server._incoming_handlers[viser._messages.ShareUrlRequest]
    handler(0, viser._messages.ShareUrlRequest())
    time.sleep(0.2)
    assert live.server.request_share_url() is None and asked == []


def test_it_talks_only_to_pages_of_this_machine(live: viewing.LiveView) -> None:
    """A page from anywhere, open in the same browser, could read the object; browsers say where a page is from."""
    port = live.server.get_port()
    ask = (
        "import socket, sys\n"
        "for origin in sys.argv[2:]:\n"
        "    with socket.create_connection(('127.0.0.1', int(sys.argv[1])), 200) as s:\n"
        "        s.sendall(('GET / HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n'\n"
        "            'Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\\r\\n'\n"
        "            f'Origin: {origin}\\r\\n\\r\\n').encode())\n"
        "        print(s.recv(99).split()[1].decode())\n"
    )
    good = [live.address, f"http://localhost:{port}"]
    evil = ["http://evil.example", f"http://evil.example:{port}", f"http://localhost:{port}.evil.example", "null",
            f"http://127.0.0.1.evil.example:{port}", f"https://127x0x0x1:{port}"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", ask, str(port), *good, *evil], capture_output=True, text=True)
    assert done.stdout.split() == ["101"] * len(good) + ["403"] * len(evil), done.stderr


def test_a_server_that_can_not_be_closed_to_other_pages_is_an_error() -> None:
    """viser might start its server in another way one day."""
    serve = websockets.asyncio.server.serve
    with pytest.raises(RuntimeError, match="can't be closed to pages of other machines"), local_pages_only():
        pass
    assert websockets.asyncio.server.serve is serve


def test_ports_are_checked() -> None:
    for port in (0, 1024, 64536):
        viewing.check_port(port)
    for port in (-1, 1, 1023, 64537, 70000):
        with pytest.raises(ValueError, match=f"within 1024 and 64536; got {port}"):
            viewing.check_port(port)
        with pytest.raises(ValueError, match="port"):
            Viewer(port)


def test_pictures_are_made_at_first_and_for_cameras_that_move(live: viewing.LiveView, monkeypatch) -> None:
    first, elevation = live.server.initial_camera, math.radians(15)  # from the front and a little above
    np.testing.assert_allclose(first.position, [3.4 * math.cos(elevation), 0, 3.4 * math.sin(elevation)], atol=1e-5)
    assert first.look_at.tolist() == [0, 0, 0] and first.fov == pytest.approx(math.radians(40))
    wide, odd, narrow = client(0, 1.0, (300, 200)), client(1, 1.0, (9000, 0)), client(2, 1.0, (1, 900))
    monkeypatch.setattr(live.server, "get_clients", lambda: {0: wide, 1: odd, 2: narrow})
    seen = []

    def render(views: viewing.Views) -> torch.Tensor:
        seen.append((views.height, views.width))
        assert float(views.azimuth) == pytest.approx(-math.pi / 2) and float(views.distance) == 3
        picture = torch.zeros(1, 3, views.height, views.width)
        picture[0, 0, 0, -1], picture[0, 1], picture[0, 2] = 0.5, 1.2, -0.1
        return picture

    live.show_pictures(render, moved=True)
    assert seen == [(128, 192), (128, 512), (128, 13)]  # the shape of the window, within reason
    picture = wide.pictures[0]
    assert picture.shape == (128, 192, 3) and picture.dtype == np.uint8
    assert picture[0, -1].tolist() == [128, 255, 0] and picture[-1, 0].tolist() == [0, 255, 0]
    live.show_pictures(render, moved=True)
    assert len(seen) == 3
    odd.camera.update_timestamp = 2.0
    live.show_pictures(render, moved=True)
    assert (len(wide.pictures), len(odd.pictures)) == (1, 2)
    live.show_pictures(render)
    assert (len(wide.pictures), len(odd.pictures)) == (2, 3)
