"""`asdkit.make` and `asdkit.load`: a line of Python does what `asdkit fit` does, and leaves its surroundings alone."""

import base64
import io
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import asdkit
from asdkit.formats.splat_files import read_splats
from asdkit.run.export import Result, load


def made(recipe: Path, **options: object) -> Result:
    """What `make` makes of a tiny recipe in a step."""
    quick = {"snapshots.every": 0, "data.orbit.views": 2, "trainer.callbacks": "[]"}
    return asdkit.make("a red duck", recipe=str(recipe), steps=1, options=quick | options)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)]


def test_make_is_fit_and_load_finds_it_again(recipe: Path, tmp_path: Path) -> None:
    before = handlers()
    result = made(recipe)
    assert handlers() == before
    assert result.prompt == "a red duck" and (result.run / "report.html").is_file()
    again = asdkit.load(result.run)
    assert torch.equal(again.views(16, 3), result.views(16, 3)) and result.views(16, 3).shape == (3, 3, 16, 16)
    with pytest.raises(ValueError, match="a size and a count of at least 1; got 0 and 3"):
        result.views(0, 3)
    kept = load(result.run).generator.splats()
    assert (read_splats(result.save(tmp_path / "new" / "duck.ply")).means == kept.means).all()
    assert len(read_splats(result.save(tmp_path / "duck.glb")).means) == len(kept.means)
    assert Image.open(result.save(tmp_path / "duck.PNG", size=16)).size == (8 * 16, 4 * 16)
    for size in (16, 32):  # a film is made anew in another size
        assert Image.open(result.save(tmp_path / "duck.webp", size=size)).size == (size, size)
    with pytest.raises(ValueError, match="is a file of Gaussians, of no prompt"):
        asdkit.load(tmp_path / "duck.glb", "a blue duck")
    with pytest.raises(ValueError, match=r"duck.txt must end in .ply, .splat"):
        result.save("duck.txt")


def test_a_notebook_shows_an_orbit_and_images_as_they_are(finished: Path, recipe: Path, monkeypatch) -> None:
    monkeypatch.setattr("asdkit.run.export._NOTEBOOK_SIZE", 32)
    monkeypatch.setattr("asdkit.run.export._NOTEBOOK_FRAMES", 3)
    page = asdkit.load(finished)._repr_html_()
    picture = Image.open(io.BytesIO(base64.b64decode(page.partition("base64,")[2].partition('"')[0])))
    assert picture.n_frames == 3 and picture.size == (32, 32) and "a red duck" in page
    flat = made(recipe, **{"data": "Canvas", "model.generator": "Pixels", "model.generator.size": 16})
    assert flat.views().shape[1:] == (3, 16, 16)
    with pytest.raises(ValueError, match="holds images, which have no orbit"):
        flat.orbit()
    with pytest.raises(ValueError, match="export png"):
        flat.save("duck.ply")


def test_options_are_what_yaml_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is a value, too, and so are the numbers of numpy and torch, and paths in a list."""
    said: list[list[str]] = []
    monkeypatch.setattr("asdkit.commands.make.expand", lambda command, words: said.append(words) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asdkit.make("x", options={"a": None, "b": ["c", 1], "d": True, "e": 0.01, "f": "null", "g": Path("h")})
    assert said[0][3:] == ["--a=null", '--b=["c", 1]', "--d=true", "--e=0.01", "--f=null", "--g=h"]
    with pytest.raises(ZeroDivisionError):
        asdkit.make("x", steps=np.int64(3), options={"a": torch.tensor([0.5, 2]), "b": np.bool_(1), "c": [Path("h")]})
    assert said[1][3:] == ["--steps=3", "--a=[0.5, 2.0]", "--b=true", '--c=["h"]']


def test_errors_are_sentences(recipe: Path) -> None:
    with pytest.raises(ValueError, match=r"^There is no option --model.generator.cuont; did you mean .*count"):
        made(recipe, **{"model.generator.cuont": 3})
    with pytest.raises(ValueError, match="^capacity must be at least 60, the count, not 9."):
        made(recipe, **{"model.generator.capacity": 9})
    with pytest.raises(ValueError, match="There is no recipe"):
        asdkit.make("a duck", recipe="gs4d")


def test_an_interrupt_stays_one(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would end the process, and let Ctrl-C be ignored from then on."""

    def interrupted(*step: object) -> None:
        assert signal.getsignal(signal.SIGINT) is before
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(asdkit.Distillation, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(recipe)
    assert signal.getsignal(signal.SIGINT) is before
