"""What is made of measured runs: differences by pairs, intervals, verdicts, tables, the page, the law of lambda_eff."""

import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from scipy import stats
from support.pages import Tags
from support.results import BETWEEN, documents, in_readme, in_results, sheets

from asdkit.formats.pictures import save_grid
from asdkit.run.reproduction import page, results
from asdkit.run.reproduction import runs as pictures
from asdkit.run.reproduction.figures import declared
from asdkit.run.reproduction.results import (
    Interval,
    differences,
    interval,
    joint,
    judged,
    t_quantile,
    verdict,
    with_derived,
)

FIG1 = declared().figures["fig1"]


def row(method: str, seed: int, part: str = "2D", prompt: str = "p", folder: str = "", **metrics: float) -> dict:
    facts = {"part": part, "method": method, "prompt": prompt, "seed": seed, "metrics": metrics, "figures": ["fig1"]}
    return facts | {"folder": folder, "seconds": 30.0, "digest": "abc"}


def measured(shift: float = 0.0) -> list[dict[str, Any]]:
    """Three seeds: SDS at 7.5 is smoother than the truth, SDS at 100 more saturated, VSD less stable by about shift."""
    rows = []
    for seed, noise in enumerate((-0.01, 0.0, 0.01)):
        rows.append(row("SDS 7.5", seed, sharpness=0.02 + noise / 10, true_sharpness=0.05, structure=0.1 + noise))
        rows.append(row("SDS 100", seed, saturation=0.5 + noise, true_saturation=0.2))
        rows.append(row("VSD 7.5", seed, structure=0.1 + 2 * noise + shift))
    return rows


def test_differences_are_of_the_same_prompt_and_seed() -> None:
    rule = FIG1.rules[2]
    assert differences(rule, "structure", "2D", measured(0.3)) == pytest.approx([0.29, 0.3, 0.31])
    assert differences(rule, "structure", "3D", measured(0.3)) == []
    lone = [run for run in measured() if (run["method"], run["seed"]) != ("SDS 7.5", 1)]
    assert differences(rule, "structure", "2D", lone) == pytest.approx([-0.01, 0.01])
    assert differences(FIG1.rules[0], "sharpness", "2D", measured()) == pytest.approx([-0.031, -0.03, -0.029])


@pytest.mark.parametrize(("shift", "last"), [(0.3, "confirmed"), (-0.3, "refuted"), (0.001, "not shown")])
def test_a_figure_is_judged_by_its_rules(shift: float, last: str) -> None:
    entry = judged(FIG1, measured(shift), judging=True)
    assert [rule["verdict"] for rule in entry["rules"]] == ["confirmed", "confirmed", last] and entry["verdict"] == last
    assert entry["rules"][2]["pairs"] == 3 and entry["core_minutes"] == 4.5
    low, high = entry["rules"][2]["interval"]
    assert high - low == pytest.approx(2 * 4.302653 * 0.01 / math.sqrt(3), abs=1e-5)
    quick = judged(FIG1, measured(shift), judging=False)
    assert {quick["verdict"], *(rule["verdict"] for rule in quick["rules"])} == {"not judged"}


def test_derived_measures_and_patterns() -> None:
    assert with_derived({"a": 1.0, "true_a": 1.25, "b": 3.0}) == {"a": 1.0, "true_a": 1.25, "b": 3.0, "a_error": 0.25}
    runs = [row("ASD 7.5", 0, clip_score_b32=0.3, clip_score_l14=0.2, psnr=20.0)]
    assert results.measures(["psnr", "clip_score*"], runs) == ["psnr", "clip_score_b32", "clip_score_l14"]


def test_a_picture_is_kept_small(tmp_path: Path) -> None:
    """1024 pixels become 512, each the mean of four; nothing of the folder but its name is in the file's."""
    file = pictures.kept(tmp_path, "../elsewhere/run", "contact.png")
    assert file == tmp_path / "pictures" / "run-contact.webp"
    save_grid(torch.linspace(0, 1, 1024).expand(1, 3, 64, 1024), tmp_path / "contact.png", columns=1)
    pictures.keep(tmp_path / "contact.png", file)
    kept = Image.open(file)
    assert kept.size == (512, 32) and file.stat().st_size < 2000
    assert kept.getpixel((100, 16))[0] == pytest.approx(255 * 200.5 / 1023, abs=3)


def test_diversity_is_the_distance_of_pairs(tmp_path: Path) -> None:
    levels, files = (0.0, 0.2, 1.0), []
    for level in levels:
        files.append(tmp_path / f"{level}.png")
        save_grid(torch.full((1, 3, 8, 8), level), files[-1], columns=1)
    assert pictures.diversity(tuple(files)) == pytest.approx((0.2 + 1.0 + 0.8) / 3, abs=1e-3)


def test_a_table_has_means_and_half_intervals() -> None:
    lines = results.table(measured(), ["structure", "sharpness"]).splitlines()
    assert lines[0] == "| part | method | structure | sharpness |"
    half = 4.302653 / 3**0.5
    assert lines[2] == f"| 2D | SDS 7.5 | 0.1 ± {half * 0.01:.3g} | 0.02 ± {half * 0.001:.3g} |"
    assert lines[4].startswith("| 2D | VSD 7.5 | 0.1 ±") and lines[4].endswith("|  |")


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    save_grid(torch.rand(4, 3, 16, 16), tmp_path / "contact.png", columns=4)
    pictures.keep(tmp_path / "contact.png", pictures.kept(tmp_path, "runs/a", "contact.png"))
    runs = [run | {"folder": "runs/a", "pictures": ["contact.png"]} for run in measured(0.3)]
    runs.append(row("VSD 7.5", 0, prompt="<script>", folder="runs/none", structure=0.2) | {"pictures": []})
    data = {"mode": "full", "command": "asdkit reproduce fig1 --full", "minutes": 4.5, "priors": ["abc"], "runs": runs}
    page.write(tmp_path / "index.html", data | {"figures": {"fig1": judged(FIG1, runs, judging=True)}})
    text = (tmp_path / "index.html").read_text()
    tags, links = Tags(text), {"src", "href", "srcset", "data"}
    asked = [attributes[name] or "" for _, attributes in tags.seen for name in links & attributes.keys()]
    assert not tags.open and all(address.startswith(("data:image/", "#")) for address in asked)
    assert sum(address.startswith("data:image/webp;base64,") for address in asked) == 3 and "<script" not in text
    assert FIG1.claim in text and text.count("confirmed</span>") == 5 and "4.5 minutes" in text
    assert "asdkit reproduce fig1 --full" in text and "{{" not in text


def test_the_law_reads_another_curve_at_lambda_eff() -> None:
    """VSD's measure is log(lambda): ASD's at gamma -0.5 is then predicted to be log(1 + (lambda - 1) / 2)."""
    runs = [row(f"VSD {scale:g}", 0, psnr=math.log(scale)) for scale in (1, 3, 7.5, 15, 30, 100)]
    runs += [row(f"ASD {scale:g}", 0, psnr=math.log((1 + scale) / 2)) for scale in (1, 3, 7.5, 15, 30, 100)]
    figure = declared().figures["cfg"]
    with patch.object(page, "plot_curves", return_value="x") as drawn:
        page._plots(figure, "2D", runs)
    [(_, curves, predictions, label, log)] = [call.args for call in drawn.call_args_list]
    points = [(x, point.mean) for x, point in curves["ASD"]]
    assert [*map(tuple, predictions["ASD"])] == [pytest.approx(point) for point in points] and len(points) == 6
    assert (label, log) == ("CFG scale", True) and len(page._plots(figure, "2D", runs)) == 1
    assert page._plots(figure, "2D", [row("VSD 7.5, rate x2", 0, psnr=1.0)]) == []  # of no curve


def test_the_documents_say_what_the_results_are() -> None:
    """`make results` writes it; every figure's table has a number of a run, and nothing else stands there."""
    for path, text in documents().items():
        assert path.read_text() == text, f"make results writes {path.name} anew"
        assert len(BETWEEN.findall(text)) == 1


def test_a_changed_result_changes_the_documents() -> None:
    runs = measured(0.3)
    data = {"mode": "full", "command": "", "minutes": 1.0, "priors": ["abc"], "runs": runs}
    data |= {"figures": {"fig1": judged(FIG1, runs, judging=True)}}
    folders = ["", "runs/a", "runs/a"]  # what is measured over seeds, and a run with two names
    named = [run | {"folder": folder} for run, folder in zip(runs, folders, strict=False)]
    assert results.how(data | {"runs": named}).startswith("1 runs (--full), 1 minutes of runs")
    assert in_readme(data).startswith("1 of 19 figures and tables are made so far. Of 3 rules that judge")
    assert "on our prior: 3 confirmed, 0 refuted, 0 not shown." in in_readme(data)
    text = in_results(data)
    assert "structure: VSD 7.5 larger than SDS 7.5: 0.3 [0.275, 0.325], 3 pairs; confirmed" in text
    assert f"| 2D | SDS 100 |  | 0.5 ± {4.302653 * 0.01 / 3**0.5:.3g} |" in text
    runs[2]["metrics"]["structure"] += 1
    assert in_results(data | {"figures": {"fig1": judged(FIG1, runs, judging=True)}}) != text
    assert "not judged yet" in in_readme(data | {"mode": "quick"})


def test_documents_show_the_kept_pictures_of_the_first_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the columns of the truth and of the methods; a picture that isn't kept leaves its cell empty."""
    monkeypatch.setattr("support.results.FILE", tmp_path / "paper" / "results.json")
    runs = [row(name, seed, folder=f"runs/{name[:3]}-{seed}") for name in ("SDS 7.5", "VSD 7.5") for seed in (0, 1)]
    runs = [run | {"pictures": ["contact.png"]} for run in runs]
    assert sheets(FIG1, runs) == []
    (tmp_path / "paper" / "pictures").mkdir(parents=True)
    for name in ("truth-p", "VSD-0-contact", "VSD-1-contact"):
        (tmp_path / "paper" / "pictures" / f"{name}.webp").touch()
    assert sheets(FIG1, runs)[0].splitlines() == [
        "|  | the truth | SDS 7.5 | VSD 7.5 |",
        "| --- | --- | --- | --- |",
        "| 2D: p | ![the truth](paper/pictures/truth-p.webp) |  | ![VSD 7.5](paper/pictures/VSD-0-contact.webp) |",
    ]


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8, 17, 26, 100, 501])
def test_the_quantile_is_students(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 9, 20])
def test_the_interval_is_that_of_scipys_paired_test(count: int) -> None:
    a, b = torch.randn(count).double(), torch.randn(count).double() + 0.3
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = interval((a - b).tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert found.mean == pytest.approx((a - b).mean().item()) and found.count == count
    alone = interval([0.25])  # which has no interval and no verdict
    assert (alone.mean, alone.low, alone.high) == (0.25, -math.inf, math.inf)
    assert verdict(alone, 0, math.inf) == "not judged"


@pytest.mark.parametrize(
    ("ends", "low", "high", "expected"),
    [
        ((0.1, 0.5), 0, math.inf, "confirmed"),
        ((-0.1, 0.5), 0, math.inf, "not shown"),
        ((-0.5, -0.1), 0, math.inf, "refuted"),
        ((-0.5, -0.1), -math.inf, 0, "confirmed"),
        ((-0.5, 0.0), -math.inf, 0, "not shown"),
        ((-0.2, 0.3), -0.5, 0.5, "confirmed"),
        ((-0.6, 0.3), -0.5, 0.5, "not shown"),
        ((0.5, 0.9), -0.5, 0.5, "refuted"),
        ((-9.0, 9.0), -0.5, 0.5, "not shown"),
        ((-0.05, 0.3), -0.1, math.inf, "confirmed"),
    ],
)
def test_the_whole_interval_decides(ends: tuple[float, float], low: float, high: float, expected: str) -> None:
    assert verdict(Interval(sum(ends) / 2, *ends, 9), low, high) == expected


def test_a_figure_is_as_good_as_the_worst_of_its_rules() -> None:
    assert joint([]) == joint(["not judged"]) == "not judged"
    assert joint(["confirmed", "confirmed"]) == "confirmed"
    assert joint(["confirmed", "not judged"]) == joint(["confirmed", "not shown"]) == "not shown"
    assert joint(["not shown", "refuted", "confirmed"]) == "refuted"
