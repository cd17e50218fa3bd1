"""The CFG sweep of 2D distillation: `python -m asdkit.toybox.studies.cfg_sweep`.

Every method at every scale, over several seeds, by the recipe image2d; and with exact scores, those of the latents of
true pictures, where only the method itself is left. Writes `sweep.csv`, `sweep.md` and `sweep.png` into --out.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from itertools import product as combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asdkit.core.atomic import atomic, write_text
from asdkit.core.randomness import generator_for
from asdkit.generators.images import Latents
from asdkit.lab import FiniteSetPrior, ParticleScore
from asdkit.priors.pretrained import Pretrained
from asdkit.run.grid import product
from asdkit.run.side_files import csv_text
from asdkit.scores.equations import effective_scale, inject, weight
from asdkit.scores.fields import CFG, Field, Noise, Prompt
from asdkit.scores.timesteps import Timesteps
from asdkit.toybox import world
from asdkit.toybox.image_judge import DRIFT_FROM, figures, truths
from asdkit.toybox.studies.study import make_study, study_parser, toybox_prompt

SCALES = (1.0, 3.0, 7.5, 15.0, 30.0, 100.0)
GAMMA = -0.5
METHODS = {
    "SDS": ["--config", "image2d/sds"],
    "VSD": ["--config", "image2d/vsd"],
    "VSD, discriminator step x2": ["--config", "image2d/vsd", "--model.discriminator.lr=2e-3"],
    f"ASD, gamma {GAMMA}": [f"--model.guidance.gamma={GAMMA}"],
    "ASD, alpha² gamma": ["--model.guidance.gamma=asdkit.Alpha2"],
}
EXACT = ("SDS, exact scores", "VSD, exact scores", f"ASD, gamma {GAMMA}, exact scores")
STYLES = dict(zip((*METHODS, *EXACT), ("C0o-", "C1o-", "C2o-", "C3o-", "C4o-", "C0--", "C1--", "C3--"), strict=True))
OTHERS = ("a red car", "a blue chair", "a green tree", "a yellow house with a red roof")
FIGURES = ("saturation", "sharpness", "psnr", "drift", "r_precision")
_TRUE = {"saturation": "true_saturation", "sharpness": "true_sharpness"}
_PARTICLES, _POINTS = 4, 96


def exact_fields(method: str, scale: float, prompt: str) -> Field:
    """A method whose prior and fake score are exact: at Eq. 10's optimum e_phi is (m + gamma e_y) / (1 + gamma)."""
    guided, fake = CFG(prompt, scale), ParticleScore()
    if method.startswith("ASD"):
        return guided - (1 / (1 + GAMMA)) * (fake + GAMMA * Prompt(prompt))
    return guided - (fake if method.startswith("VSD") else Noise())


@cache
def embedded() -> Pretrained:
    """The embedded prior, whose autoencoder the exact scores share."""
    prior = Pretrained("toybox")
    prior.setup()
    return prior


@cache
def exact_prior(prompt: str) -> FiniteSetPrior:
    """The exact denoiser of the latents of true pictures of the prompt; of these and other things without one."""
    prior, generator = FiniteSetPrior(), generator_for(0, 0, "backgrounds")
    for text in (prompt, *(other for other in OTHERS if not prompt.startswith(other))):
        on_black, alpha = (part[:_POINTS] for part in truths(text))
        behind = torch.tensor([world.sample_background(generator) for _ in alpha])[:, :, None, None]
        with torch.no_grad():
            prior.add(text, embedded().encode(on_black + (1 - alpha) * behind))
    return prior


def exact_run(method: str, scale: float, seed: int, prompt: str, steps: int) -> dict[str, float]:
    """Figures of what the method makes of random latents under the exact prior, as image2d starts and steps."""
    prior, guidance, timesteps = exact_prior(prompt), exact_fields(method, scale, prompt), Timesteps()
    latents = Latents(count=_PARTICLES, init_seed=seed)
    latents.setup(embedded())
    optimizer, before = torch.optim.Adam(latents.parameter_groups()), torch.empty(0)
    for step in range(steps):
        random = generator_for(seed, step, "noise")
        x0 = latents.encoded(prior, None)[0]
        t = timesteps.draw(len(x0), step, len(prior.schedule), random)
        x = prior.draw(x0, t, torch.randn(x0.shape, generator=random), None)
        optimizer.zero_grad()
        inject(x0, weight("sigma2", x.alpha, x.sigma) * guidance(x)).backward()
        optimizer.step()
        if step + 1 == round(DRIFT_FROM * steps):
            before = latents.render(None).image.detach()
    images = latents.render(None).image.detach()
    return figures(images, prompt) | {"drift": (images - before).abs().mean().item()}


def curve(rows: Sequence[dict[str, Any]], method: str, figure: str) -> tuple[Tensor, Tensor, Tensor]:
    """Scales, and the mean and the standard deviation over seeds of a figure at each."""
    known = [row for row in rows if row["method"] == method and row.get(figure) is not None]
    scales = sorted({float(row["scale"]) for row in known})
    values = [torch.tensor([float(row[figure]) for row in known if row["scale"] == scale]) for scale in scales]
    spread = [value.std().item() if len(value) > 1 else 0.0 for value in values]
    return torch.tensor(scales), torch.tensor([value.mean().item() for value in values]), torch.tensor(spread)


def predicted(rows: Sequence[dict[str, Any]], figure: str) -> tuple[Tensor, Tensor]:
    """What the law of lambda_eff predicts of ASD: VSD's curve, read at 1 + (1 + gamma)(lambda - 1)."""
    scales, means, _ = curve(rows, "VSD", figure)
    effective = np.array([effective_scale(scale, GAMMA) for scale in scales.tolist()])
    return scales, torch.from_numpy(np.interp(np.log(effective), np.log(scales.numpy()), means.numpy()))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the means over seeds, and their standard deviations."""
    lines = ["| method | lambda | " + " | ".join(FIGURES) + " |", "|---|---|" + "---|" * len(FIGURES)]
    for method in dict.fromkeys(row["method"] for row in rows):
        curves = [curve(rows, method, figure) for figure in FIGURES]
        for scale in sorted({scale for scales, *_ in curves for scale in scales.tolist()}):
            cells = [_cell(mean[scales == scale], spread[scales == scale]) for scales, mean, spread in curves]
            lines.append(f"| {method} | {scale:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(mean: Tensor, spread: Tensor) -> str:
    """The mean of a figure, with its standard deviation where there are several seeds; nothing where it is missing."""
    return f"{mean.item():.3g}{f' ± {spread.item():.2g}' if spread else ''}" if len(mean) else ""


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The curves, a panel for each figure."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(17, 4.2), layout="constrained")
    panels = picture.subplots(1, len(FIGURES))
    for panel, figure in zip(panels, FIGURES, strict=True):
        for method in dict.fromkeys(row["method"] for row in rows):
            look = {"fmt": STYLES[method], "capsize": 2, "markersize": 3, "linewidth": 1}
            panel.errorbar(*curve(rows, method, figure), label=method, **look)
        panel.plot(*predicted(rows, figure), "k:", label="ASD as the law of lambda_eff predicts it from VSD")
        if figure in _TRUE:
            level = curve(rows, "VSD", _TRUE[figure])[1].mean()
            panel.axhline(level, color="grey", linewidth=0.8, label="the truth nearest to VSD")
        panel.set(xscale="log", xlabel="CFG scale lambda", title=figure)
    picture.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    with atomic(path) as temporary:
        picture.savefig(temporary, dpi=100, format="png")


def main(arguments: list[str] | None = None) -> int:
    """Run, and write the rows, the table and the curves; returns the exit code."""
    parser = study_parser(__doc__, "cfg_sweep")
    parser.add_argument("--prompt", type=toybox_prompt, default="a yellow duck, left side view", help="of the toybox")
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES), help="CFG scales lambda")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each cell")
    parser.add_argument("--steps", type=int, default=300, help="iterations of each run")
    chosen = parser.parse_args(arguments)
    if find_spec("matplotlib") is None:
        parser.error("the curves need matplotlib: pip install 'asdkit[plots]'")
    axes = {
        "method": METHODS,
        "scale": {scale: [f"--model.guidance.scale={scale}"] for scale in chosen.scales},
        "seed": {n: [f"--model.seed={n}", f"--model.generator.init_seed={n}"] for n in range(chosen.seeds)},
        "steps": {chosen.steps: [f"--trainer.max_steps={chosen.steps}"]},
    }
    _, rows, code = make_study(product([chosen.prompt], axes), "image2d", chosen)
    for method, scale, seed in combinations(EXACT, chosen.scales, range(chosen.seeds)):
        measured = exact_run(method, scale, seed, chosen.prompt, chosen.steps)
        rows.append({"method": method, "scale": scale, "seed": seed, **measured})
    columns = ("method", "scale", "seed", *FIGURES, *_TRUE.values(), "lambda_eff", "prior", "seconds")
    write_text(chosen.out / "sweep.csv", csv_text(rows, columns))
    write_text(chosen.out / "sweep.md", table(rows))
    draw(rows, chosen.out / "sweep.png")
    print(table(rows))
    return code


if __name__ == "__main__":
    sys.exit(main())
