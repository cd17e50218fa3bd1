"""`asdkit compare`: means, errors and differences by hand, real runs that go on after a stop, and runs that exist."""

import json
import signal
import statistics
from pathlib import Path

import pytest
from PIL import Image
from support.forked import Forked, kill_at_a_checkpoint

from asdkit.commands.main import main
from asdkit.run import comparison
from asdkit.run.comparison import Compared

QUICK = ["--trainer.max_steps=2", "--snapshots.every=0", "--data.orbit.views=2", "--data.size=8"]


def judged(folder: Path, **metrics: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "seconds": 60, "metrics": metrics}))
    return folder


def test_means_and_differences(tmp_path: Path) -> None:
    """Two methods on three prompts, of which one method has finished two: by the textbook's formulas."""
    psnr = {"ASD": [20.0, 22.0, 27.0], "SDS": [19.0, 20.0]}
    runs = [
        Compared(method, f"prompt {i}", judged(tmp_path / f"{method}{i}", psnr=value))
        for method, values in psnr.items()
        for i, value in enumerate(values)
    ]
    (tmp_path / "SDS1" / "test.json").write_text(json.dumps({"metrics": {"clip": 0.25}}))
    assert comparison.means(runs).splitlines()[2:] == [
        f"| ASD | 3 | 60 ± 0 | 23 ± {13**0.5 / 3**0.5:.3g} |  |",  # variance ((3^2 + 1^2 + 4^2) / 2 = 13
        "| SDS | 2 | 60 ± 0 | 19.5 ± 0.5 | 0.25 |",
    ]
    assert statistics.stdev([-1, -2]) / 2**0.5 == pytest.approx(0.5)
    assert comparison.differences(runs).splitlines()[2:] == ["| SDS - ASD | 2 | 0 ± 0 | -1.5 ± 0.5 |"]
    alone = [Compared(run.run.name, "", run.run) for run in runs[:1]]
    assert comparison.differences(alone) == "" and "| ASD0 | 1 | 60 | 20 |" in comparison.means(alone)


@pytest.mark.slow
def test_methods_on_prompts_and_seeds(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Two methods, a prompt, two seeds, killed in between; called again, no run is made anew; then runs as such."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a red duck\n")
    words = ["compare", "--methods", "ASD,SDS", "--prompts=p.txt", "--seeds=2", "--config", str(recipe), *QUICK]
    with monkeypatch.context() as first:
        kill_at_a_checkpoint(first, lambda: True)
        assert Forked(lambda: main(words), tmp_path / "log").wait() == -signal.SIGKILL
    assert len(list((tmp_path / "runs").rglob("last.ckpt"))) == 1 and not list((tmp_path / "runs").rglob("compare.md"))
    assert main(words) == 0 and not list((tmp_path / "runs").rglob("*-before-*"))
    folder = next((tmp_path / "runs").rglob("compare.md")).parent
    text = (folder / "compare.md").read_text()
    assert "SDS - ASD | 2 |" in text and "\n| SDS | a red duck 1 | " in text
    rows = json.loads((folder / "compare.json").read_text())
    assert [(row["label"], row["seed"]) for row in rows] == [("ASD", 0), ("ASD", 1), ("SDS", 0), ("SDS", 1)]
    assert {"psnr", "iou"} <= rows[0]["metrics"].keys()
    assert Image.open(folder / "compare.png").size == (2 * 192, 2 * 192)
    assert Image.open(folder / "curves.png").width > 1000
    ended = {file: file.stat().st_mtime_ns for file in folder.parent.rglob("run.json")}
    assert main(words) == 0 and ended == {file: file.stat().st_mtime_ns for file in folder.parent.rglob("run.json")}
    capsys.readouterr()
    runs = [row["folder"] for row in rows[1:3]]
    assert main(["compare", *runs, "--out", "side", "--film=16"]) == 0
    assert f"| {Path(runs[0]).name} | 1 |" in capsys.readouterr().out
    assert Image.open("side/compare.png").size == (192, 2 * 192)
    film = Image.open("side/compare.webp")
    assert film.size == (32, 16) and film.n_frames > 10


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "name runs that exist, or --methods"),
        (["a", "--film=0"], "--film must be within [16, 1024]; got 0"),
        (["a", "--methods=ASD"], "name runs that exist, or --methods"),
        (["a", "--model.seed=3"], "these exist; leave it out"),
        (["a", "--prompts=p.txt"], "name runs that exist, or --methods"),
        (["--prompts=p.txt", "--config", "gs3d"], "--methods A,B needs"),
        (["--methods=,", "--prompts=p.txt", "--config", "gs3d"], "--methods A,B needs"),
        (["--methods=ASD,VDS", "--prompts=p.txt", "--config", "gs3d"], "no class VDS; did you mean VSD?"),
        (["--methods=ASD", "--prompts=p.txt", "--config", "gs3d", "--seeds=0"], "--seeds must be within"),
        (["a"], "a is no folder of a finished run"),
        (["--methods=ASD", "--config", "gs3d"], "needs --prompts FILE"),
        (["--methods=ASD", "--prompts=p.txt"], "--config RECIPE"),
        (["--methods=ASD", "--prompts=p.txt", "--config", "gs3d", "--model.seed=2"], "--model.seed is different"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], expected: str, refused, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a red duck\n")
    assert expected in refused("compare", *words)


def test_runs_that_have_logged_nothing_have_no_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    comparison.draw_curves([Compared("ASD", "", judged(tmp_path / "run"))], tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 1000
