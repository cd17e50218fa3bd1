"""What the studies measure, and how their runs are started: image figures, the CFG sweep, the edits."""

import json
import math
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from asdkit.data import Canvas
from asdkit.distillation import Distillation
from asdkit.generators.base import Render
from asdkit.generators.images import Pixels
from asdkit.lab import FiniteSetPrior, finite_set_eps
from asdkit.methods import DDS
from asdkit.toybox import image_judge, world
from asdkit.toybox import judge as judging
from asdkit.toybox.clip import TinyCLIP, similarity
from asdkit.toybox.image_judge import ToyboxImageJudge, Truths, figures, sharpness, truths
from asdkit.toybox.judge import EMBEDDED
from asdkit.toybox.studies import cfg_sweep as sweep
from asdkit.toybox.studies import edits, representations, runs


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
    levels = torch.linspace(0, 1, 101)
    best = min(
        sum(
            ((bank.on_black[i, c] + (1 - bank.alpha[i, 0]) * levels[:, None, None] - image[c]) ** 2)
            .sum((1, 2))
            .min()
            .item()
            for c in range(3)
        )
        for i in range(5)
    )
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


def test_without_a_clip_there_are_no_similarities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(judging, "EMBEDDED", tmp_path)
    image = torch.full((1, 3, 64, 64), 0.5)
    data = Canvas()
    data.source = image
    render = Render(image, image[:, :1], image[:, :1])
    found = ToyboxImageJudge().measure(red_duck(), data, None, render)
    assert found["change"] == 0 and not {"similarity", "r_precision", "drift"} & set(found)


class Started:
    """Stands for subprocess.run: notes the command and leaves what a run leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, []

    def __call__(self, command: list[str], check: bool) -> None:
        assert check
        self.commands.append(command[1:])
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "run.json").write_text(json.dumps({"status": "finished", "n": len(self.commands)}))


def test_a_finished_run_is_kept_and_a_stopped_one_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "ASD" / "a-duck"
    started = Started(folder)
    monkeypatch.setattr(runs.subprocess, "run", started)
    first = ["-m", "asdkit", "fit", "--config", "gs3d"]
    place = ["--run.root", str(tmp_path / "root"), "--run.recipe", "ASD", "--run.name", "a-duck"]
    assert runs.fit(folder, ["--config", "gs3d"])["n"] == 1
    assert runs.fit(folder, ["--config", "gs3d"])["n"] == 1
    (folder / "run.json").write_text('{"status": "interrupted"}')
    assert runs.fit(folder, ["--config", "gs3d"])["n"] == 2
    assert started.commands == [[*first, *place], ["-m", "asdkit", "fit", str(folder)]]


def test_results_come_in_the_order_of_the_cells() -> None:
    assert runs.side_by_side(lambda cell: cell * 2, range(7), 3) == [0, 2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("method", sweep.EXACT)
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
    expected = {"exact-SDS": guided - x.eps, "exact-VSD": guided - m, "exact-ASD": 2 * (effective - m)}[method]
    assert torch.allclose(sweep.exact_fields(method, 7.5, "y")(x), expected, atol=1e-4)


def test_an_exact_run_comes_close_to_the_truth() -> None:
    """VSD at lambda 1 with exact scores, and how much further it is at a large scale."""
    plain, strong = (sweep.exact_run("exact-VSD", scale, 0, "a red ball", 120) for scale in (1.0, 100.0))
    assert plain["psnr"] > 23 and plain["psnr"] > strong["psnr"] + 2
    assert 0 < plain["drift"] < 0.1


def row(method: str, scale: float, value: float | str) -> dict:
    return {"method": method, "scale": scale} | dict.fromkeys(
        (*sweep.FIGURES, "true_saturation", "true_sharpness"), value
    )


def test_curves_are_means_over_seeds_and_the_law_reads_vsd_at_lambda_eff(tmp_path: Path) -> None:
    rows = [row("VSD", scale, math.log(scale) + shift) for scale in (100.0, 1.0, 10.0) for shift in (-1, 1)]
    scales, means, spread = sweep.curve(rows, "VSD", "psnr")
    assert scales.tolist() == [1, 10, 100]
    assert torch.allclose(means, torch.tensor([1.0, 10.0, 100.0]).log(), atol=1e-5)
    assert torch.allclose(spread, torch.full((3,), math.sqrt(2)))
    scales, law = sweep.predicted(rows, "psnr")
    assert law.tolist() == pytest.approx([math.log(1), math.log(5.5), math.log(50.5)], abs=1e-5)
    text = sweep.table([*rows, row("exact-VSD", 1.0, "")])
    assert "| VSD | 10 | 2.3 ± 1.4 |" in text
    sweep.draw([*rows, row("exact-VSD", 1.0, 3.0)], tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_a_cell_of_the_sweep_is_a_run_of_image2d(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = {}

    def fit(folder: Path, options: list[str]) -> dict:
        seen.update(folder=folder, options=options)
        return {"metrics": {"psnr": 20.0}, "prior": "abc", "seconds": 9}

    monkeypatch.setattr(sweep, "fit", fit)
    assert sweep.trained_run("VSD2", 7.5, 2, "a red car", 300, tmp_path)["psnr"] == 20
    assert seen["folder"] == tmp_path / "VSD2" / "scale-7-5-seed-2"
    assert {
        "image2d",
        "image2d/vsd",
        "--model.discriminator_lr=2e-3",
        "--model.seed=2",
        "--model.generator.init_seed=2",
        "a red car",
    } <= set(seen["options"])


def test_the_change_outside_counts_what_is_beyond_the_silhouettes_edge() -> None:
    alpha = torch.zeros(2, 1, 16, 16)
    alpha[0, :, 4:8, 4:8], alpha[1, :, 6:10, 4:8] = 1, 0.5
    source, image = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    image[..., 2:12, 2:10] = 1  # the union and two pixels around it
    assert edits.change_outside(image, source, alpha) == 0
    image[..., 0, 0] = 0.5
    assert edits.change_outside(image, source, alpha) == pytest.approx(0.5 / (256 - 80))


def test_the_edits_are_of_the_world_and_cover_figure_9() -> None:
    assert {edit.situation for edit in edits.EDITS} >= {"simplify", "refine", "replace"}
    assert all(world.parse(words) for edit in edits.EDITS for words in (edit.source, edit.target))


def test_the_table_of_edits_has_means() -> None:
    found = dict.fromkeys(("before", "after", "outside", "psnr_before", "psnr_after", "seconds"), 0.5)
    results = {("DDS", edit): found | {"outside": 0.01 * i} for i, edit in enumerate(edits.EDITS[:3])}
    text = edits.table(results)
    assert "| DDS | recolour: a yellow duck → a red duck | 0.5 | 0.5 | 0 | 0.5 | 0.5 | 0.5 |" in text
    assert "| **DDS** | **mean** | **0.5** | **0.5** | **0.01** |" in text


def test_a_representation_is_a_run_and_its_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Path
) -> None:
    def small(folder: Path, options: list[str]) -> dict:
        asked.append(options)
        tiny = [f"--model.prior.path={tiny_folder}", "--data.size=16", "--data.views_per_step=1"]
        return fit(folder, [*options, *tiny, "--trainer.max_steps=1", "--snapshots.every=0", "--report.size=16"])

    asked, fit = [], runs.fit
    monkeypatch.setattr(representations, "fit", small)
    name = "NeRF, then Gaussians"
    nerf = representations.run("NeRF, voxels", "a red car", tmp_path / "out")
    both = representations.run(name, "a red car", tmp_path / "out")
    assert asked[1][:5] == [
        "--config", "gs3d", "--config", "gs3d/from_nerf", f"--model.generator.init={tmp_path}/out/nerf-voxels",
    ]  # fmt: skip
    assert asked[1][-2:] == ["--model.prompt", "a red car"]
    assert set(nerf["sizes"]) == {"mesh-glb"} and set(both["sizes"]) == {"ply", "spz", "glb", "html", "mesh-glb"}
    ply = tmp_path / "out" / "nerf-then-gaussians" / "export" / "splats.ply"
    assert both["sizes"]["ply"] == ply.stat().st_size
    assert both["numbers"] == 4000 * 14
    assert 100 < both["peak_mb"]["rss"] < 20_000
    lines = representations.table({"NeRF, voxels": nerf, name: both}).splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    cells = lines[3].split(" | ")
    assert cells[0] == "| " + name and cells[6] == "56000"
    assert float(cells[7]) == pytest.approx(ply.stat().st_size / 1000, rel=0.01)
    assert lines[2].split(" | ")[7] == ""
