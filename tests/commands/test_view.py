"""`--viewer`, `asdkit view` and loading: looking changes nothing, and what can't be looked at is one sentence."""

import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from support.forked import Forked, wait_for
from support.recipe import small_run
from support.resuming import assert_same, last
from support.splat_tools import splats
from support.viewing import client, listening

from asdkit.commands.arguments import expand
from asdkit.commands.main import main
from asdkit.formats.splat_files import write_splats
from asdkit.run import live_view as viewing
from asdkit.run.export import load
from asdkit.run.live_view import Viewer

viser = pytest.importorskip("viser")


def fit(finished: Path, name: str, *options: str) -> Path:
    """Another run of its recipe."""
    quick = ("--trainer.callbacks=[]", "--snapshots.every=0")
    return small_run(finished.parents[2] / "small.yaml", *quick, *options, name=name)


def interrupted_at(count: int) -> Callable[[float], None]:
    """A `sleep` that is interrupted by Ctrl-C at its `count`-th call."""
    calls = []

    def sleep(seconds: float) -> None:
        calls.append(seconds)
        if len(calls) == count:
            raise KeyboardInterrupt

    return sleep


def test_looking_changes_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, live, follow, before = [], viewing.LiveView, viewing.LiveView.follow, listening()
    monkeypatch.setattr(live, "follow", lambda self, run, moved=False: seen.append(moved) or follow(self, run, moved))
    options = ("--viewer=8180", "--viewer.every=3", "--trainer.max_steps=4")
    watched = fit(finished, "watched", *options)
    assert listening() == before
    assert [i for i, moved in enumerate(seen) if not moved] == [0, 3, 4] and len(seen) == 5
    assert_same(last(finished)["state_dict"], last(watched)["state_dict"])


def test_looking_at_a_radiance_field_changes_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model.generator=NeRF", "--model.generator.penalties.entropy=0.1", "--trainer.max_steps=3")
    alone = fit(finished, "alone", *options)
    browser = client(0, 1.0, (100, 800))
    monkeypatch.setattr(viser.ViserServer, "get_clients", lambda self: {0: browser})
    watched = fit(finished, "nerf", *options, "--viewer", "8280", "--viewer.every=2")
    assert len(browser.pictures) == 3  # at the start, after two steps, and at the end
    assert (browser.pictures[0] != browser.pictures[2]).any()
    assert_same(last(alone)["state_dict"], last(watched)["state_dict"])
    monkeypatch.setattr(viewing.time, "sleep", interrupted_at(3))
    assert main(["view", str(alone), "--port=0"]) == 130
    assert len(browser.pictures) == 4  # it has not moved since the first
    np.testing.assert_array_equal(browser.pictures[3], browser.pictures[2])
    grey = round(255 * load(alone).rendering.background)
    assert browser.pictures[0][0, 0].tolist() == pytest.approx([grey] * 3, abs=6)


def test_who_opens_a_viewer_and_closes_it(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, trainer = load(finished), pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    before, viewer = listening(), Viewer(8380)
    viewer.setup(trainer, module, "fit")
    assert len(listening() - before) == 1
    viewer.on_exception(trainer, module, KeyboardInterrupt())  # a run that fails closes its viewer
    assert listening() == before
    viewer.teardown(trainer, module, "fit")
    monkeypatch.setattr("asdkit.run.live_view.view_of", lambda *arguments: pytest.fail("opened a viewer"))
    Viewer(0).setup(trainer, module, "fit")
    for stage in ("validate", "test", "predict"):
        Viewer(8080).setup(trainer, module, stage)
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    Viewer(8080).setup(trainer, module, "fit")


def test_without_viser_fit_ends(finished: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    recipe, said = finished.parents[2] / "small.yaml", 'This needs viser: pip install "viser>=1.1" "websockets>=15".'
    assert refused("fit", "--config", recipe, "--run.name=none", "--viewer", code=3) == said
    assert sorted(path.name for path in (finished.parent / "none").iterdir()) == ["config.yaml", "run.json"]
    assert refused("view", finished, code=3) == said


def test_the_short_form(finished: Path, capsys: pytest.CaptureFixture, refused: Callable) -> None:
    def expanded(*arguments: str) -> list[str]:
        return expand("fit", ["--config=gs3d", *arguments])[0][2:]

    with pytest.raises(ValueError, match="fit needs a prompt, .*, or a recipe"):
        expand("fit", [])
    assert expanded("--viewer") == ["--viewer.port=8080"]
    assert expanded("--viewer", "--data.size=8") == ["--viewer.port=8080", "--data.size=8"]
    assert expanded("--viewer", "9000", "--data.size=8") == ["--viewer.port=9000", "--data.size=8"]
    assert expanded("--viewer=9000", "--viewer.every", "5") == ["--viewer.port=9000", "--viewer.every", "5"]
    assert expanded("--viewer", "--data.size", "8") == ["--viewer.port=8080", "--data.size", "8"]
    assert main(["fit", "--config", "gs3d", "--viewer", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["viewer"] == {"port": 8080, "every": 10}
    assert "did you mean --viewer.every?" in refused("fit", "--config", "gs3d", "--viewer.evry=8")


def test_loading_brings_the_generator_and_no_prior(finished: Path) -> None:
    module = load(finished)
    saved = last(finished)["state_dict"]
    mine = {f"generator.{name}": value for name, value in module.generator.state_dict().items()}
    assert mine and all(torch.equal(value, saved[name]) for name, value in mine.items())
    assert (module.prompt, module.rendering.background) == ("a red duck", 0.85)
    assert not list(module.prior.parameters())
    assert torch.equal(load(finished / "checkpoints" / "last.ckpt").generator.means, module.generator.means)


HARMS: list[tuple[str, Callable[[dict, dict], object]]] = [
    ("something else than a distillation", lambda h, s: h.pop("guidance")),
    ("something else than a distillation", lambda h, s: h.update(width=3)),
    ("can't be built.*count must", lambda h, s: h["generator"]["init_args"].update(count=0)),
    ("names os.system, but only public parts of", lambda h, s: h["generator"].update(class_path="os.system")),
    ("does not hold the weights", lambda h, s: h["generator"]["init_args"].update(capacity=99)),
    ("does not hold the weights", lambda h, s: s.pop("generator.means")),
    ("not finite", lambda h, s: s["generator.sh"].fill_(math.inf)),
]


@pytest.mark.parametrize(("words", "change"), HARMS)
def test_checkpoints_of_something_else_give_one_sentence(finished: Path, tmp_path: Path, words: str, change) -> None:
    saved = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    change(saved["hyper_parameters"], saved["state_dict"])
    torch.save(saved, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=words) as caught:
        load(tmp_path / "x.ckpt")
    assert "x.ckpt" in str(caught.value) and "\n" not in str(caught.value)


def test_view_serves_until_interrupted(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    write_splats(tmp_path / "a.ply", splats(6, degree=1))
    shown = []
    monkeypatch.setattr(viewing.LiveView, "show", lambda self, gaussians: shown.append(gaussians))
    before = listening()
    for target in (tmp_path / "a.ply", finished, finished / "checkpoints" / "last.ckpt"):
        monkeypatch.setattr(viewing.time, "sleep", interrupted_at(3))
        assert main(["view", str(target), "--port=0"]) == 130
        assert "Viewer: http://127.0.0.1:" in capsys.readouterr().out and listening() == before
    np.testing.assert_array_equal(shown[0].means, splats(6, degree=1).means)
    np.testing.assert_array_equal(shown[-1].means, load(finished).generator.splats().means)


def test_what_cannot_be_viewed_is_one_sentence(finished: Path, tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "note.ply").write_text("Dear diary,\n")
    (tmp_path / "x.ckpt").write_text("PK")
    pictures = ("--model.generator=Pixels", "--model.generator.size=16", "--data=Canvas", "--data.size=16")
    flat = fit(finished, "flat", *pictures, "--model.generator.count=2", "--trainer.max_steps=1")
    cases = {
        ("nowhere",): "There is no nowhere",
        (str(tmp_path),): "no checkpoint",
        (str(tmp_path / "note.ply"),): "note.ply is not a PLY file",
        (str(tmp_path / "x.ckpt"),): "x.ckpt is broken",
        (str(flat),): "shows 3D objects, and this run makes none",
        (str(finished), "--port=80"): "within 1024 and 64536; got 80",
        (str(finished), "--port=x"): "invalid int value: 'x'",
        (str(finished), "--prot=3"): "unrecognized arguments: --prot=3",
        (): "required: RUN|FILE",
        ("http://example.com/x.ckpt",): "http://example.com/x.ckpt is an address",
    }
    for arguments, words in cases.items():
        assert words in refused("view", *arguments)
    recipe = finished.parents[2] / "small.yaml"
    assert "this run makes none" in refused("fit", "--config", recipe, "--run.name=flat2", *pictures, "--viewer")


def test_control_c_ends_a_real_viewer(finished: Path, tmp_path: Path) -> None:
    child = Forked(lambda: main(["view", str(finished), "--port=0"]), tmp_path / "log")
    wait_for(lambda: child.text().endswith("Ctrl-C ends it.\n") or child.has_ended())
    child.send(signal.SIGINT)
    assert child.wait() == 130
    place, how = child.text().splitlines()
    assert place.startswith("Viewer: http://127.0.0.1:") and how == "Ctrl-C ends it."
