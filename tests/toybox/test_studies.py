"""What the studies measure, image figures and exact scores; and each of them in a small form, started twice."""

import csv
import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import pytorch_lightning as pl
import torch
from support.forked import fork_runs, stop_at_the_first_checkpoint
from torch import Tensor

from asdkit import DDS, Cameras, Canvas, Distillation, FiniteSetPrior, Gaussians, Pixels, ToyboxImageJudge
from asdkit.formats.pictures import read_cutout, read_picture, save_grid
from asdkit.generators.base import Render
from asdkit.lab import finite_set_eps
from asdkit.run.export import Choices
from asdkit.toybox import image_judge, world
from asdkit.toybox import judge as judging
from asdkit.toybox.clip import TinyCLIP, similarity
from asdkit.toybox.image_judge import Truths, figures, sharpness, truths
from asdkit.toybox.judge import EMBEDDED
from asdkit.toybox.studies import curves, exact, measures, study
from asdkit.toybox.studies import truths as true
from asdkit.toybox.studies.__main__ import main
from asdkit.toybox.studies.truths import Subject

STUDIES = study.declared()


def on(bank: Truths, index: int, colour: tuple[float, float, float]) -> Tensor:
    return bank.on_black[index] + (1 - bank.alpha[index]) * torch.tensor(colour)[:, None, None]


def test_the_truths_are_of_the_view_that_the_prompt_names() -> None:
    front, back = truths("a yellow duck, front view"), truths("a yellow duck, back view")
    beak = torch.tensor(world.COLOURS["orange"])[:, None, None]
    orange = [((bank.on_black - beak).abs().amax(1) < 0.15).float().mean() for bank in (front, back)]
    assert orange[0] > 5 * orange[1]
    assert len(truths("a yellow duck").alpha) == len(front.alpha) == image_judge.TRUTHS
    assert truths("a corgi") is None


@pytest.mark.parametrize("colour", [(0.6, 0.7, 0.8), (1.0, 1.0, 1.0), (0.0, 0.2, 0.0)])
def test_the_nearest_truth_of_a_truth_is_itself_on_its_background(colour: tuple[float, float, float]) -> None:
    bank = truths("a red car, front left view")
    image = on(bank, 37, colour)
    assert torch.allclose(bank.nearest(image[None])[0], image, atol=1e-6)


def test_the_nearest_truth_is_what_a_search_over_all_of_them_finds() -> None:
    torch.manual_seed(0)
    bank = Truths(torch.rand(5, 3, 6, 6) * 0.5, torch.rand(5, 1, 6, 6))
    image = torch.rand(3, 6, 6)
    found = bank.nearest(image[None])[0]
    behind = torch.linspace(0, 1, 101)[:, None, None] * (1 - bank.alpha)[:, :, None]  # each level of each channel
    errors = (bank.on_black[:, :, None] + behind - image[:, None]).square().sum((3, 4))
    best = errors.amin(2).sum(1).min().item()
    assert (found - image).square().sum().item() == pytest.approx(best, rel=1e-3)


def test_sharpness_of_a_dot_and_of_a_ramp() -> None:
    dot = torch.zeros(1, 3, 5, 5)
    dot[..., 2, 2] = 1
    assert sharpness(dot).item() == pytest.approx((1 + 4 * 0.25) / 9)
    assert sharpness(torch.arange(5.0).expand(1, 3, 5, 5)).item() == 0


def test_the_figures_of_a_true_picture_are_the_truth_s() -> None:
    picture = on(truths("a red car, front left view"), 3, (0.8, 0.8, 0.8))[None]
    found = figures(picture, "a red car, front left view")
    assert found["psnr"] > 60
    assert found["saturation"] == pytest.approx(found["true_saturation"], abs=1e-5)
    assert found["sharpness"] == pytest.approx(found["true_sharpness"], abs=1e-5)
    assert set(figures(picture, "a corgi")) == {"saturation", "sharpness"}


def red_duck() -> Distillation:
    return Distillation("a red duck", FiniteSetPrior(), Pixels(count=1), DDS())


def test_what_the_image_judge_says_of_movement_and_of_the_source() -> None:
    """Drift from four fifths of the iterations on; change and similarities to the source image."""
    duck = on(truths("a yellow duck"), 0, (0.85, 0.85, 0.85))[None]
    judge, data = ToyboxImageJudge(), Canvas()
    data.source = duck
    module, shown = red_duck(), {}
    module.show = lambda views: Render(shown["image"], torch.ones(1, 1, 64, 64), torch.zeros(1, 1, 64, 64))
    for step in range(1, 11):
        shown["image"] = (duck - 0.01 * step).clamp(0, 1)
        trainer = create_autospec(pl.Trainer, instance=True, global_step=step, max_steps=10)
        judge.on_train_batch_end(trainer, module)
    result = judge.measure(module, data, None, module.show(None))
    eighth, last = (duck - 0.08).clamp(0, 1), (duck - 0.1).clamp(0, 1)
    assert result["drift"] == pytest.approx((last - eighth).abs().mean().item())
    assert result["change"] == pytest.approx((last - duck).abs().mean().item())
    clip = TinyCLIP(EMBEDDED)
    assert result["similarity"] == pytest.approx(similarity(clip, last, "a red duck").item(), abs=1e-5)
    assert result["source_similarity"] == pytest.approx(similarity(clip, duck, "a red duck").item(), abs=1e-5)
    assert -1 <= result["source_similarity"] <= 1
    with torch.no_grad():
        clip.model.logit_scale.fill_(0.5)  # which is no part of a cosine
    assert result["similarity"] == pytest.approx(similarity(clip, last, "a red duck").item(), abs=1e-5)


def test_without_a_clip_there_are_no_similarities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(judging, "EMBEDDED", tmp_path)
    image = torch.full((1, 3, 64, 64), 0.5)
    data = Canvas()
    data.source = image
    render = Render(image, image[:, :1], image[:, :1])
    found = ToyboxImageJudge().measure(red_duck(), data, None, render)
    assert found["change"] == 0 and not {"similarity", "r_precision", "drift"} & set(found)


@pytest.mark.parametrize("method", exact.METHODS)
def test_the_exact_methods_are_their_formulas(method: str) -> None:
    """e_lambda by the points, m by the particles; ASD at Eq. 10's optimum is VSD at lambda_eff."""
    torch.manual_seed(0)
    prior = FiniteSetPrior()
    mine, others, x0 = (torch.rand(n, 3, 4, 4) for n in (3, 5, 2))
    prior.add("y", mine), prior.add("z", others)
    x = prior.draw(x0, torch.tensor([600, 800]), torch.randn(x0.shape), None)
    at = (x.x_t, x.alpha, x.sigma)
    y, null, m = (finite_set_eps(*at, points) for points in (mine, torch.cat([mine, others]), x0))
    guided = null + 7.5 * (y - null)
    effective = null + 4.25 * (y - null)
    expected = {"SDS": guided - x.eps, "VSD": guided - m, "ASD": 2 * (effective - m)}[method[:3]]
    assert torch.allclose(exact.METHODS[method]("y", 7.5)(x), expected, atol=1e-4)


def test_an_exact_run_comes_close_to_the_truth() -> None:
    """VSD at lambda 1 with exact scores, and how much further it is at a large scale."""
    plain, strong = (exact.run("VSD, exact scores", scale, 0, "a red ball", 120) for scale in (1.0, 100.0))
    assert plain["psnr"] > 23 and plain["psnr"] > strong["psnr"] + 2
    assert 0 < plain["drift"] < 0.1


def row(method: str, scale: float, value: float | None) -> dict:
    figures = (*curves.FIGURES, "true_saturation", "true_sharpness")
    return {"method": method, "scale": scale} | dict.fromkeys(figures, value)


def test_curves_are_means_over_seeds_and_the_law_reads_vsd_at_lambda_eff(tmp_path: Path) -> None:
    rows = [row("VSD", scale, math.log(scale) + shift) for scale in (100.0, 1.0, 10.0) for shift in (-1, 1)]
    scales, means, spread = curves.curve(rows, "VSD", "psnr")
    assert scales.tolist() == [1, 10, 100]
    assert torch.allclose(means, torch.tensor([1.0, 10.0, 100.0]).log(), atol=1e-5)
    assert torch.allclose(spread, torch.full((3,), math.sqrt(2)))
    scales, law = curves.predicted(rows, "psnr")
    assert law.tolist() == pytest.approx([math.log(1), math.log(5.5), math.log(50.5)], abs=1e-5)
    one_seed = row("SDS", 3.0, 0.25) | {curves.FIGURES[0]: None}
    text = curves.table([*rows, row("VSD, exact scores", 1.0, None), row("SDS", 30.0, 0.5), one_seed])
    assert "| VSD | 10 | 2.3 ± 1.4 |" in text
    assert "| SDS | 3 |  | 0.25 | 0.25 |" in text and "| SDS | 30 | 0.5 | 0.5 |" in text
    curves.draw([*rows, row("VSD, exact scores", 1.0, 3.0)], STUDIES["cfg_sweep"].curves, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_the_change_outside_counts_what_is_beyond_the_silhouettes_edge() -> None:
    alpha = torch.zeros(2, 1, 16, 16)
    alpha[0, :, 4:8, 4:8], alpha[1, :, 6:10, 4:8] = 1, 0.5
    source, image = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    image[..., 2:12, 2:10] = 1  # the union and two pixels around it
    assert measures.change_outside(image, source, alpha) == 0
    image[..., 0, 0] = 0.5
    assert measures.change_outside(image, source, alpha) == pytest.approx(0.5 / (256 - 80))


def test_an_edit_is_measured_by_the_true_target(tmp_path: Path) -> None:
    """The result is the truth, to a byte's rounding; the source is as far from it as the two truths are."""
    edit = Subject(**STUDIES["edits"].edits[0], picture=tmp_path / "source.png")
    one, other = (true.seen(words, edit.azimuth_deg).image for words in (edit.source, edit.prompt))
    (tmp_path / "images").mkdir()
    save_grid(one, edit.picture, columns=1)
    save_grid(other, tmp_path / "images" / "00.png", columns=1)
    row = measures.edit(tmp_path, edit)
    assert row["psnr_after"] > 50 and row["outside"] < 1e-3
    assert row["psnr_before"] == pytest.approx(-10 * math.log10((one - other).square().mean()), abs=0.05)


def test_a_cutout_before_the_background_is_the_truth(tmp_path: Path) -> None:
    duck = Subject("a yellow duck", azimuth_deg=40.0)
    colours, alpha = read_cutout(true.cutout(duck, tmp_path / "duck")).split([3, 1])
    assert (
        alpha.min() == 0
        and (colours + 0.85 * (1 - alpha) - true.seen(duck.prompt, duck.azimuth_deg).image[0]).abs().max() < 0.01
    )


def test_views_far_from_the_given_one_and_what_was_given_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PSNR by hand, of the novel views whose direction is 45 degrees away; a spoilt thing is fitted once."""
    monkeypatch.setattr(true, "_FITTED", 2)
    duck = Subject("a yellow duck", azimuth_deg=40.0)
    duck = duck._replace(start=true.spoilt(duck, tmp_path / "duck"))
    written = duck.start.stat().st_mtime_ns
    assert true.spoilt(duck, tmp_path / "duck") == duck.start and duck.start.stat().st_mtime_ns == written
    made, novel = Gaussians(count=50), Cameras().novel_views()
    monkeypatch.setattr(measures, "load", lambda run: SimpleNamespace(generator=made))
    truth = world.render(world.parse("a yellow duck"), novel).image
    with torch.no_grad():
        errors = (made.render(novel, torch.full((3,), 0.85)).image - truth).square().flatten(1).mean(1)
    decibels = -10 * errors.log10()
    eye = [math.cos(0.35) * math.cos(0.7), math.cos(0.35) * math.sin(0.7), math.sin(0.35)]  # 40 and 20 degrees, nearly
    angles = (novel.c2w[:, :3, 3] / novel.distance[:, None] @ torch.tensor(eye)).acos().rad2deg()
    assert (angles - 45).abs().min() > 1
    figures = measures.away(tmp_path, duck)
    assert figures["psnr_away"] == pytest.approx(decibels[angles > 45].mean().item(), abs=1e-4)
    assert figures["psnr_given"] < 30
    figures = measures.refined(tmp_path, duck)
    assert figures["psnr_after"] == pytest.approx(decibels.mean().item(), abs=1e-4)
    assert figures["gain"] == figures["psnr_after"] - figures["psnr_before"] and len(Gaussians(str(duck.start)).means)


def test_what_the_studies_make_is_of_the_world() -> None:
    """All subjects have a truth, ten of them in 3D, most with a front; the edits cover Figure 9."""
    edits = [Subject(**edit) for edit in STUDIES["edits"].edits]
    prompts = [prompt for declared in STUDIES.values() for prompt in declared.prompts]
    assert all(map(world.parse, [*prompts, *(words for edit in edits for words in (edit.source, edit.prompt))]))
    assert {edit.situation for edit in edits} >= {"simplify", "refine", "replace"}
    ten = STUDIES["benchmark"].prompts
    assert len(ten) == 10 and sum(world.parse(prompt).has_front for prompt in ten) >= 6


def test_every_figure_that_a_study_names_is_known() -> None:
    assert set(exact.METHODS) | set(STUDIES["cfg_sweep"].axes["method"]) == set(STUDIES["cfg_sweep"].curves)
    for declared in STUDIES.values():
        assert all(hasattr(true, name) for name in (declared.above, declared.below, declared.start) if name)
        assert not declared.measure or hasattr(measures, declared.measure)


@pytest.fixture
def options(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What makes every run of a study quick."""
    fork_runs(monkeypatch)
    return ["--", f"--model.prior.path={tiny_folder}", "--trainer.max_steps=1", "--snapshots.every=0"]


def twice(name: str, arguments: list[str], out: Path, table: str = "table.md", count: int = 2) -> list[str]:
    """The lines of a study's table; started again it makes no run, and writes the same."""
    before: list[tuple[str, list[float]]] = []
    for _ in range(2):
        assert main([name, "--out", str(out), *arguments]) == 0
        runs = [path.stat().st_mtime for path in sorted(out.rglob("run.json"))]
        before.append(((out / table).read_text(), runs))
    assert before[0] == before[1] and len(before[0][1]) == count
    return before[0][0].splitlines()


def colours(out: Path, size: tuple[int, int]) -> Tensor:
    picture = read_picture(out / "sheet.png")
    assert tuple(picture.shape[1:]) == size
    return picture


def test_a_benchmark_goes_on_after_a_stop(tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in a run; the folder of a long prompt by a method in capitals is found again."""
    prompt = "a yellow house with a red roof, front right view"
    steps = ["--trainer.max_steps=4", "--checkpoints.every=2", "--trainer.callbacks=[]"]
    command = ["images", "--out", "OUT", "--method", "ASD", "--prompts", prompt, *options, *steps]
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as first:
        stop_at_the_first_checkpoint(first)
        assert main(command) == 143
    [file] = tmp_path.rglob("run.json")
    report = json.loads(file.read_text())
    assert (report["status"], report["iterations"]) == ("interrupted", 3) and not Path("OUT", "table.md").exists()
    assert main(command) == 0
    report = json.loads(file.read_text())
    assert (report["status"], report["iterations"]) == ("finished", 4)
    assert not list(tmp_path.rglob("*-before-*"))  # it went on from its checkpoint
    lines = Path("OUT", "table.md").read_text().splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:4]] == [["| ASD", prompt], ["| **ASD**", "**mean**"]]
    sheet = colours(Path("OUT"), (2 * 128, 4 * 128))
    assert torch.allclose(sheet[:, :128:2, :128:2], true.pictures(Subject(prompt))[0], atol=1 / 255)
    assert sheet[:, 128:].std() > 0.01


def test_a_cfg_sweep_is_made_once(tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(exact.METHODS, "SDS, exact scores")
    monkeypatch.delitem(exact.METHODS, "VSD, exact scores")
    arguments = ["--method", "VSD", "--scale", "7.5", "--seed", "0", "--prompts", "a red ball"]
    arguments += [*options[:2], "--trainer.max_steps=2", "--trainer.log_every_n_steps=1"]
    lines = twice("cfg_sweep", arguments, tmp_path, "sweep.md", count=1)
    methods = ("VSD", "ASD, gamma -0.5, exact scores")
    assert [line.split(" | ")[:2] for line in lines[2:]] == [[f"| {method}", "7.5"] for method in methods]
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [row["seed"] for row in rows] == ["0", "0"] and float(rows[0]["lambda_eff"]) == 7.5
    assert rows[0]["prior"] and not rows[1]["prior"] and (tmp_path / "sweep.png").stat().st_size > 10_000
    configs = [path.read_text() for path in tmp_path.rglob("config.yaml")]
    assert all("init_seed: 0" in text and "max_steps: 2" in text and "scale: 7.5" in text for text in configs)


def test_edits_are_made_once(tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    one = dataclasses.replace(STUDIES["edits"], edits=STUDIES["edits"].edits[:1])
    monkeypatch.setattr("asdkit.toybox.studies.__main__.declared", lambda: {"edits": one})
    lines = twice("edits", ["--method", "DDS", "ASDEdit", "--jobs=2", *options], tmp_path)
    assert lines[0] == "| method | edit | similarity before | after | change outside | PSNR before | after | seconds |"
    rows = [line.strip("| ").split(" | ") for line in lines[2:6]]
    assert [row[:2] for row in rows[::2]] == [[m, "recolour: a yellow duck → a red duck"] for m in ("DDS", "ASDEdit")]
    assert [row[:2] for row in rows[1::2]] == [["**DDS**", "**mean**"], ["**ASDEdit**", "**mean**"]]
    assert rows[0][2] == rows[2][2] == "0.269" and rows[0][5] == rows[2][5] == "16.4"  # of the source alone
    sheet = colours(tmp_path, (4 * 128, 128))
    for row, prompt in ((0, "a yellow duck"), (3, "a red duck")):
        there = sheet[:, 128 * row : 128 * (row + 1) : 2, ::2]
        assert torch.allclose(there, true.seen(prompt, 90.0).image[0], atol=1 / 255)


def test_representations_are_made_once_and_start_from_each_other(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "Choices", partial(Choices, resolution=32))
    monkeypatch.setattr("asdkit.run.export._LOOKS", ((10.0, 2),))  # fewer silhouettes and points, for speed
    monkeypatch.setattr("asdkit.generators.gaussian_start._PIXELS", 48)
    small = ["--data.size=16", "--data.views_per_step=1", "--report.size=16", "--data.orbit.views=2"]
    small.append("--trainer.callbacks=[]")
    both = ("NeRF, voxels", "NeRF, then Gaussians")
    arguments = ["--prompts", "a red car", "--representation", both[1], *options, *small]
    lines = twice("representations", arguments, tmp_path)
    [ply] = tmp_path.rglob("export/splats.ply")
    assert len({line.count("|") for line in lines[:4]}) == 1 and len(lines) == 6
    field, splats = (line.strip("|").split("|") for line in lines[2:4])
    assert (field[0].strip(), splats[0].strip()) == both and splats[6].strip() == "56000"
    assert 100 < float(splats[5]) < 20_000 and not any(size.strip() for size in field[7:11]) and float(field[11]) > 0
    assert float(splats[7]) == pytest.approx(ply.stat().st_size / 1000, rel=0.01)
    [start] = tmp_path.glob("gs3d/nerf-voxels-*")
    assert f"init: {start}\n" in (ply.parents[1] / "config.yaml").read_text()
    colours(tmp_path, (3 * 256, 4 * 128))


def test_a_study_refuses_what_it_can_not_measure(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["benchmark", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--prompts", "a corgi"])
    assert "no thing of the toybox" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*arguments, "--jobs=0"]) == 2
    assert "at least 1; got 0" in capsys.readouterr().err and not list(tmp_path.rglob("table.md"))
