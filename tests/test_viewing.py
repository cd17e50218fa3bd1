"""Live viewing: what the browser is sent, where it is served, and that looking changes nothing."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from conftest import RECIPE

from asdkit import viewing
from asdkit.callbacks.viewer import Viewer
from asdkit.cli import expand, main
from asdkit.loading import load
from asdkit.ply import Splats, write_splats
from asdkit.rasterizers import rasterize
from asdkit.views import orbit

viser = pytest.importorskip("viser")
ROOT = Path(__file__).parents[1]
C0 = 0.5 / math.sqrt(math.pi)  # the first spherical harmonic


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny recipe; treat it as read-only."""
    folder = tmp_path_factory.mktemp("view")
    (folder / "small.yaml").write_text(RECIPE.format(prior=tiny_folder, root=folder / "runs"))
    return fit(folder / "small.yaml", "plain")


@pytest.fixture
def live() -> Iterator[viewing.LiveView]:
    view = viewing.LiveView(0)
    yield view
    view.stop()


def fit(recipe: Path, name: str, *options: str) -> Path:
    assert main(["fit", "--config", str(recipe), f"--run.name={name}", *options]) == 0
    return recipe.parent / "runs" / "small" / name


def interrupted_at(count: int) -> Callable[[float], None]:
    """A `sleep` that is interrupted by Ctrl-C at its `count`-th call."""
    calls = []

    def sleep(seconds: float) -> None:
        calls.append(seconds)
        if len(calls) == count:
            raise KeyboardInterrupt

    return sleep


def random_splats(count: int = 6, coefficients: int = 4) -> Splats:
    draws = np.random.default_rng(0)
    shapes = [(count, 3), (count, 4), (count, 3), (count,), (count, coefficients, 3)]
    return Splats(*(draws.normal(size=shape).astype(np.float32) for shape in shapes))


def blob(position: tuple, colour: tuple, size: float = 0.1) -> Splats:
    """One round Gaussian, nearly opaque."""
    row = (position, (1, 0, 0, 0), (math.log(size),) * 3)
    means, quats, scales = (np.array([part], np.float32) for part in row)
    sh = ((np.array(colour, np.float32) - 0.5) / C0)[None, None]
    return Splats(means, quats, scales, np.array([6], np.float32), sh.astype(np.float32))


def hamilton(a: tuple, b: tuple) -> tuple:
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return (
        aw * bw - ax * bx - ay * by - az * bz, aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx, aw * bz + ax * by - ay * bx + az * bw,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- what is drawn


def test_activation_is_the_definition_in_a_slow_loop() -> None:
    splats = random_splats()
    drawn = viewing.activated(splats)
    np.testing.assert_array_equal(drawn.centers, splats.means)
    for i, quat in enumerate(splats.quats.astype(float)):
        covariance = np.zeros((3, 3))
        unit = tuple(quat / np.linalg.norm(quat))
        inverse = (unit[0], -unit[1], -unit[2], -unit[3])
        for axis in range(3):
            basis = (0.0, *np.eye(3)[axis])
            turned = np.array(hamilton(hamilton(unit, basis), inverse)[1:])  # q e q^-1
            covariance += math.exp(splats.log_scales[i, axis]) ** 2 * np.outer(turned, turned)
        np.testing.assert_allclose(drawn.covariances[i], covariance, rtol=1e-4, atol=1e-6)
        assert drawn.opacities[i] == pytest.approx([1 / (1 + math.exp(-splats.opacity_logits[i]))], rel=1e-5)
        for channel in range(3):
            colour = min(max(0.5 + C0 * float(splats.sh[i, 0, channel]), 0.0), 1.0)
            assert drawn.rgbs[i, channel] == pytest.approx(colour, abs=1e-6)
    assert {part.dtype for part in drawn} == {np.dtype(np.float32)}


def test_colours_stay_in_range_and_huge_gaussians_stay_finite() -> None:
    splats = random_splats()._replace(
        sh=np.full((6, 1, 3), 9, np.float32) * np.array([1, -1, 0], np.float32),
        log_scales=np.full((6, 3), 1e4, np.float32),
        opacity_logits=np.full(6, -1e4, np.float32),
    )
    drawn = viewing.activated(splats)
    assert drawn.rgbs.tolist() == [[1.0, 0.0, 0.5]] * 6
    assert np.isfinite(drawn.covariances.astype(np.float16)).all() and drawn.opacities.tolist() == [[0.0]] * 6


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


def test_cameras_survive_the_way_to_the_browser_and_back() -> None:
    azimuth, elevation = torch.tensor([0.3, 2.0, -2.5, 3.1]), torch.tensor([0.2, -0.8, 1.2, 0.0])
    distance = torch.tensor([3.0, 2.5, 4.0, 1.0])
    expected = orbit(azimuth, elevation, distance, 0.7, 40, 50)
    for i in range(4):
        wxyz = viser.transforms.SO3.from_matrix(expected.c2w[i, :3, :3].double().numpy()).wxyz
        got = viewing.views_at(wxyz, expected.c2w[i, :3, 3].double().numpy(), 0.7, 40, 50)
        for name in ("c2w", "K", "azimuth", "elevation", "distance"):
            torch.testing.assert_close(getattr(got, name)[0], getattr(expected, name)[i], atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------------- where it is served


def listening() -> set[tuple[str, int]]:
    """Addresses (hexadecimal) and ports where this process listens."""
    if not Path("/proc/self/net/tcp").exists():
        pytest.skip("needs Linux's list of sockets")
    inodes = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            inodes.add(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in inodes:
                address, _, port = local.partition(":")
                found.add((address, int(port, 16)))
    return found


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
        fetch = f"import urllib.request; print(urllib.request.urlopen('{second.address}', timeout=9).read())"
        assert "<html" in subprocess.run([sys.executable, "-c", fetch], capture_output=True, text=True).stdout
    finally:
        first.stop()
        second.stop()
    assert listening() == before and capfd.readouterr().out == ""


def test_a_page_that_asks_for_a_public_address_gets_none(
    live: viewing.LiveView, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(viser._viser, "ViserTunnel", lambda *arguments: asked.append(arguments))
    (handler,) = live.server._websock_server._incoming_handlers[viser._messages.ShareUrlRequest]
    handler(0, viser._messages.ShareUrlRequest())
    time.sleep(0.2)
    assert live.server.request_share_url() is None and asked == []


def test_ports_are_checked() -> None:
    for port in (0, 1024, 64536):
        viewing.check_port(port)
    for port in (-1, 1, 1023, 64537, 70000):
        with pytest.raises(ValueError, match=f"within 1024 and 64536; got {port}"):
            viewing.check_port(port)
        with pytest.raises(ValueError, match="port"):
            viewing.LiveView(port)
        with pytest.raises(ValueError, match="port"):
            Viewer(port)
    with pytest.raises(ValueError, match=r"viewer\.every must be at least 1; got 0"):
        Viewer(every=0)


def test_the_first_look_is_from_the_front_and_a_little_above(live: viewing.LiveView) -> None:
    camera = live.server.initial_camera
    elevation = math.radians(15)
    np.testing.assert_allclose(camera.position, [3.4 * math.cos(elevation), 0, 3.4 * math.sin(elevation)], atol=1e-5)
    assert camera.look_at.tolist() == [0, 0, 0] and camera.fov == pytest.approx(math.radians(40))


def client(number: int, stamp: float, size: tuple[int, int]) -> SimpleNamespace:
    """A browser, as viser describes one, at -y."""
    wxyz = viser.transforms.SO3.from_matrix(np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)).wxyz
    camera = SimpleNamespace(wxyz=wxyz, position=np.array([0.0, -3.0, 0.0]), fov=0.6, update_timestamp=stamp)
    camera.image_width, camera.image_height = size
    pictures: list[np.ndarray] = []
    scene = SimpleNamespace(set_background_image=lambda image, format: pictures.append(image))
    return SimpleNamespace(client_id=number, camera=camera, scene=scene, pictures=pictures)


def test_pictures_are_made_for_each_camera_and_only_when_it_moves(
    live: viewing.LiveView, monkeypatch: pytest.MonkeyPatch
) -> None:
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


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_real_browser_draws_what_it_was_sent(live: viewing.LiveView, tmp_path: Path) -> None:
    """Red on the object's left side, which the front view has on the right, and blue above; later red has moved."""

    def both(y: float) -> Splats:
        pair = zip(blob((0.1, y, 0.05), (1, 0, 0)), blob((0.2, -0.1, 0.7), (0, 0, 1)), strict=True)
        return Splats(*(np.concatenate(parts) for parts in pair))

    def places() -> tuple[tuple[float, float], tuple[float, float], list[int]]:
        """Centres of red and blue, from the middle in halves of the height, and the colour of a corner."""
        picture = browser.get_render(height, width, transport_format="jpeg", timeout=20).astype(float)
        rows, columns = np.indices((height, width))
        found = []
        for channel in (0, 2):
            weight = (picture[..., channel] - picture[..., 2 - channel]).clip(20) - 20
            centre = ((weight * axis).sum() / weight.sum() for axis in (columns - width / 2, height / 2 - rows))
            found.append(tuple(2 * part / height for part in centre))
        return (*found, picture[3, 3].round().tolist())

    live.show(both(0.0))
    options = ["--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--window-size=500,600"]
    command = [CHROMIUM, *options, "--enable-unsafe-swiftshader", f"--user-data-dir={tmp_path}", live.address]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not live.server.get_clients():
            assert time.monotonic() < deadline, "no browser came"
            time.sleep(0.1)
        time.sleep(1.0)
        (browser,) = live.server.get_clients().values()
        height, width = 200, round(200 * browser.camera.aspect)
        live.show(both(0.8))  # an update is drawn at once, what is new fades in
        time.sleep(1.0)
        red, blue, corner = places()
        expected = []
        for point in ((0.1, 0.8, 0.05), (0.2, -0.1, 0.7)):
            sine, cosine = math.sin(math.radians(15)), math.cos(math.radians(15))
            depth = 3.4 - point[0] * cosine - point[2] * sine
            up = point[2] * cosine - point[0] * sine
            expected.append([point[1] / depth / math.tan(math.radians(20)), up / depth / math.tan(math.radians(20))])
        np.testing.assert_allclose([red, blue], expected, atol=0.04)
        assert corner == pytest.approx([217] * 3, abs=3)
        live.show(both(-0.8))
        time.sleep(1.0)
        assert places()[0][0] == pytest.approx(-expected[0][0], abs=0.04)
    finally:
        process.terminate()
        process.wait()


# ---------------------------------------------------------------------------------------------- fit


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_looking_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = []
    follow = viewing.LiveView.follow
    monkeypatch.setattr(
        viewing.LiveView,
        "follow",
        lambda self, module, moved=False: updates.append(moved) or follow(self, module, moved),
    )
    before = listening()
    watched = fit(run.parents[2] / "small.yaml", "watched", "--viewer=8180", "--viewer.every=3")
    assert listening() == before
    assert [i for i, moved in enumerate(updates) if not moved] == [0, 3, 6, 9, 10] and len(updates) == 11
    expected, got = weights(run), weights(watched)
    assert expected.keys() == got.keys() and all(torch.equal(expected[name], got[name]) for name in expected)


def test_looking_at_a_radiance_field_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model.generator=NeRF", "--model.generator.entropy_weight=0.1", "--trainer.max_steps=3")
    recipe = run.parents[2] / "small.yaml"
    alone = fit(recipe, "alone", *options)
    browser = client(0, 1.0, (100, 800))
    monkeypatch.setattr(viser.ViserServer, "get_clients", lambda self: {0: browser})
    watched = fit(recipe, "nerf", *options, "--viewer", "8280", "--viewer.every=2")
    assert len(browser.pictures) == 3  # at the start, after two steps, and at the end
    assert (browser.pictures[0] != browser.pictures[2]).any()
    expected, got = weights(alone), weights(watched)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    monkeypatch.setattr(viewing.time, "sleep", interrupted_at(3))
    assert main(["view", str(alone), "--port=0"]) == 130
    assert len(browser.pictures) == 4  # it has not moved since the first
    np.testing.assert_array_equal(browser.pictures[3], browser.pictures[2])
    grey = round(255 * load(alone).background)
    assert browser.pictures[0][0, 0].tolist() == pytest.approx([grey] * 3, abs=6)


def test_other_ranks_and_other_commands_open_no_viewer(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, trainer = load(run), pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    monkeypatch.setattr("asdkit.callbacks.viewer.view_of", lambda *arguments: pytest.fail("opened a viewer"))
    Viewer(0).setup(trainer, module, "fit")
    for stage in ("validate", "test", "predict"):
        Viewer(8080).setup(trainer, module, stage)
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    Viewer(8080).setup(trainer, module, "fit")


def test_a_run_that_fails_closes_its_viewer(run: Path) -> None:
    module, trainer = load(run), pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    before, viewer = listening(), Viewer(8380)
    viewer.setup(trainer, module, "fit")
    assert len(listening() - before) == 1
    viewer.on_exception(trainer, module, KeyboardInterrupt())
    assert listening() == before
    viewer.teardown(trainer, module, "fit")


def test_without_viser_fit_ends_before_the_first_step(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    recipe = run.parents[2] / "small.yaml"
    assert main(["fit", "--config", str(recipe), "--run.name=none", "--viewer"]) == 1
    assert 'Viewing needs viser: pip install "asdkit[viewer]".' in capsys.readouterr().err
    assert sorted(path.name for path in (run.parent / "none").iterdir()) == ["config.yaml", "run.json"]
    assert main(["view", str(run)]) == 1
    assert capsys.readouterr().err == 'asdkit: Viewing needs viser: pip install "asdkit[viewer]".\n'


def test_the_short_form(run: Path, capsys: pytest.CaptureFixture) -> None:
    def expanded(*arguments: str) -> list[str]:
        return expand("fit", ["--config=gs3d", *arguments])[0][2:]

    assert expanded("--viewer") == ["--viewer.port", "8080"]
    assert expanded("--viewer", "--x=3") == ["--viewer.port", "8080", "--x=3"]
    assert expanded("--viewer", "9000", "--x=3") == ["--viewer.port", "9000", "--x=3"]
    assert expanded("--viewer=9000", "--viewer.every", "5") == ["--viewer.port=9000", "--viewer.every", "5"]
    assert expanded("--viewer", "--model.prompt", "a") == ["--viewer.port", "8080", "--model.prompt=a"]
    assert main(["fit", "--config", "gs3d", "--viewer", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["viewer"] == {"port": 8080, "every": 10}
    assert main(["fit", "--config", "gs3d", "--viewer=80"]) == 2
    assert "within 1024 and 64536; got 80" in capsys.readouterr().err
    assert main(["fit", "--config", "gs3d", "--viewer.evry=8"]) == 2
    assert "did you mean --viewer.every?" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- load and view


def test_loading_brings_the_generator_and_no_prior(run: Path) -> None:
    module = load(run)
    saved = weights(run)
    mine = {f"generator.{name}": value for name, value in module.generator.state_dict().items()}
    assert mine and all(torch.equal(value, saved[name]) for name, value in mine.items())
    assert (module.prompt, module.background) == ("a red duck", 0.85)
    assert not list(module.prior.parameters())
    other = load(run / "checkpoints" / "last.ckpt")
    assert torch.equal(other.generator.means, module.generator.means)


class Evil:
    """Its unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_broken_and_hostile_checkpoints_give_one_sentence(run: Path, tmp_path: Path) -> None:
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    path, mark = tmp_path / "x.ckpt", tmp_path / "mark"

    def refused(words: str) -> None:
        with pytest.raises(ValueError, match=words) as caught:
            load(path)
        assert "x.ckpt" in str(caught.value) and "\n" not in str(caught.value)

    for content in (b"", whole[: len(whole) // 2], b"PK\x03\x04" + bytes(50), b"hello"):
        path.write_bytes(content)
        refused("is broken, or no checkpoint")
    torch.save({"hyper_parameters": Evil(mark), "state_dict": {}}, path)
    refused("is broken, or no checkpoint")
    assert not mark.exists()

    def changed(words: str, change) -> None:
        saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        change(saved["hyper_parameters"], saved["state_dict"])
        torch.save(saved, path)
        refused(words)

    generator = ("generator", "init_args")
    changed("something else than a distillation", lambda h, s: h.pop("guidance"))
    changed("something else than a distillation", lambda h, s: h.update(width=3))
    changed("no file gone.ply", lambda h, s: h[generator[0]][generator[1]].update(init="gone.ply"))
    changed("can't be built.*subclass of Generator", lambda h, s: h["generator"].update(class_path="os.system"))
    changed("does not hold the weights", lambda h, s: h[generator[0]][generator[1]].update(capacity=99))
    changed("does not hold the weights", lambda h, s: s.pop("generator.means"))
    changed("not finite", lambda h, s: s["generator.sh"].fill_(math.inf))


def test_view_serves_until_interrupted(run: Path, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    write_splats(tmp_path / "a.ply", random_splats())
    shown = []
    monkeypatch.setattr(viewing.LiveView, "show", lambda self, splats: shown.append(splats))
    before = listening()
    for target in (tmp_path / "a.ply", run, run / "checkpoints" / "last.ckpt"):
        monkeypatch.setattr(viewing.time, "sleep", interrupted_at(3))
        assert main(["view", str(target), "--port=0"]) == 130
        assert "Viewer: http://127.0.0.1:" in capsys.readouterr().out and listening() == before
    np.testing.assert_array_equal(shown[0].means, random_splats().means)
    np.testing.assert_array_equal(shown[-1].means, load(run).generator.splats().means)


def test_what_cannot_be_viewed_is_one_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "note.ply").write_text("Dear diary,\n")
    (tmp_path / "x.ckpt").write_text("PK")
    pictures = ("--model.generator=Pixels", "--model.generator.size=16", "--data=Canvas", "--data.size=16")
    recipe = run.parents[2] / "small.yaml"
    flat = fit(recipe, "flat", *pictures, "--model.generator.count=2", "--trainer.max_steps=1")
    cases = {
        ("nowhere",): "There is no nowhere",
        (str(tmp_path),): "no checkpoint",
        (str(tmp_path / "note.ply"),): "note.ply is not a PLY file",
        (str(tmp_path / "x.ckpt"),): "x.ckpt is broken",
        (str(flat),): "shows 3D objects, and this run makes none",
        (str(run), "--port=80"): "within 1024 and 64536; got 80",
        (str(run), "--port=x"): "invalid int value: 'x'",
        (str(run), "--prot=3"): "unrecognized arguments: --prot=3",
        (): "required: RUN|FILE",
        ("http://example.com/x.ckpt",): "There is no http:",
    }
    capsys.readouterr()
    for arguments, words in cases.items():
        assert main(["view", *arguments]) == 2, arguments
        err = capsys.readouterr().err
        assert words in err and len(err.splitlines()) == 1, err
    assert main(["fit", "--config", str(recipe), "--run.name=flat2", *pictures, "--viewer"]) == 2
    assert "this run makes none" in capsys.readouterr().err


def test_help_needs_no_torch_and_control_c_ends_a_real_viewer(run: Path) -> None:
    script = (
        "import sys; from asdkit.cli import main\n"
        "assert main(['view', '--help']) == main(['--help']) == 0 and main(['view']) == 2\n"
        "assert 'torch' not in sys.modules and 'viser' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout and "asdkit view RUN|FILE" in done.stdout
    command = [sys.executable, "-m", "asdkit", "view", str(run), "--port=0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("Viewer: http://127.0.0.1:")
    assert process.stdout.readline() == "Ctrl-C ends it.\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")
