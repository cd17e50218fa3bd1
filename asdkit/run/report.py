"""What a run shows: snapshots as it goes, and at its end an orbit, a contact sheet, the object and `report.html`."""

import logging
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from asdkit.core.atomic import write_text
from asdkit.core.bounds import Between, Weight, Whole, Within, checked
from asdkit.core.errors import Interrupted
from asdkit.core.randomness import generator_for
from asdkit.core.text import clock, rendered, shown
from asdkit.data import Cameras
from asdkit.discriminators.discriminator import Discriminator
from asdkit.distillation import Distillation
from asdkit.formats.names import FORMATS
from asdkit.formats.pictures import save_film, save_grid
from asdkit.formats.poses import read_camera_path
from asdkit.generators.base import Render
from asdkit.rendering.cameras import Views
from asdkit.run.exits import sentence
from asdkit.run.export import Exported
from asdkit.run.judge import figures, judges_of
from asdkit.run.loggers import log_picture, logged
from asdkit.run.side_files import read_facts
from asdkit.run.tables import REFERENCES, cell_text, meaning
from asdkit.scores.fields import CFG, Field

_ROWS, _TILE = 4, 192  # of a snapshot: how many rows there are, and the least height of a picture in pixels
_CONTACT_VIEWS = 8
_SHOTS, _WIDTH, _HEIGHT = 8, 300, 90  # of the page: snapshots, and the pixels of a curve
_CURVES = ("residual_norm", "discriminator_loss", "psnr", "saturation")


@checked
class Snapshots(pl.Callback):
    """Writes `snapshots/step-000200.png`: a row per view, render | alpha | x0 by the prior | x0 by the discriminator.

    The first ones come early, after 1, 2, 4, 8 ... iterations. The loggers get them, too.

    Args:
        every: the number of iterations between two snapshots, after the early ones; 0 for none.
        noise: the noise level from which x0 is guessed, as a share of the schedule.
        scale: the CFG scale of the prior's guess.
    """

    def __init__(self, every: Whole = 200, noise: Annotated[float, Between(0, 1)] = 0.5, scale: Weight = 7.5) -> None:
        self.every, self.noise, self.scale = every, noise, scale
        self._told = False

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        step = trainer.global_step
        early = step < self.every and step & (step - 1) == 0  # a power of two
        due = self.every and (early or step % self.every == 0 or step == trainer.max_steps)
        cameras = trainer.datamodule
        if due and isinstance(pl_module, Distillation) and (trainer.is_global_zero or pl_module.prior.sharded):
            views = cameras.look(_ROWS)
            columns = self.columns(pl_module, views and views.to(pl_module.device))
            if trainer.is_global_zero:
                self._save(trainer, columns, _labels(self.titles(pl_module), len(columns[0]), step, views))

    def _save(self, trainer: Any, columns: list[Tensor], labels: list[str]) -> None:
        path = Path(trainer.default_root_dir) / "snapshots" / f"step-{trainer.global_step:06d}.png"
        images = torch.stack(columns, dim=1).flatten(0, 1)
        save_grid(images, path, len(columns), max(1, _TILE // images.shape[-1]), labels)
        log_picture(trainer.loggers, "snapshot", path, trainer.global_step)
        if not self._told:
            self._told = True
            with suppress(OSError):  # nobody reads it
                print(f"The first picture is {path}; more follow there.", file=sys.stderr)

    @staticmethod
    def titles(module: Distillation) -> list[str]:
        """What the columns of a snapshot show."""
        learning = [leaf for leaf in module.guidance.leaves() if isinstance(leaf, Discriminator)]
        return ["render", "alpha", "the prior's guess", *["the discriminator's guess"] * len(learning)]

    @torch.no_grad()
    def columns(self, module: Distillation, views: Views | None) -> list[Float[Tensor, "B 3 H W"]]:
        """The pictures of each view, all from the same noise at every step."""
        render = module.show(views)
        x0 = module.prior.encode(render.image)
        t = torch.full((len(x0),), round(self.noise * (len(module.prior.schedule) - 1)), device=x0.device)
        eps = torch.randn(x0.shape, generator=generator_for(module.seed, 0, "snapshots")).to(x0.device)
        own = module.generator.shown_prompts
        x = module.prior.draw(x0, t, eps, views, prompts={module.prompt: own} if own else {})
        fields: list[Field] = [CFG(module.prompt, self.scale)]
        fields += [leaf for leaf in module.guidance.leaves() if isinstance(leaf, Discriminator)]
        guesses = [module.prior.decode(x.to_x0(field(x))) for field in fields]
        shape = render.image.shape
        alike = [torch.nn.functional.interpolate(guess, shape[-2:], mode="bilinear") for guess in guesses]
        return [render.image, render.alpha.expand(shape), *alike]


def _labels(titles: list[str], rows: int, step: int, views: Views | None) -> list[str]:
    """What is written on each picture: the step on the first, titles on the first row, azimuths on the first column."""
    azimuths = [f"{degrees:.0f}°, " for degrees in views.azimuth.rad2deg().tolist()] if views else [""] * rows
    first = [f"{azimuths[0]}step {step}, {titles[0]}", *titles[1:]]
    return first + [text for azimuth in azimuths[1:] for text in (azimuth.rstrip(", "), *[""] * (len(titles) - 1))]


@checked
class Report(pl.Callback):
    """Writes an orbit, `contact.png`, `splats.ply`, `viewer.html` and `report.html` in fit, and pictures in predict.

    A run that Ctrl-C or SIGTERM has stopped leaves them, too.

    Args:
        size: the height and width in pixels of the orbit's frames and of the contact sheet's pictures.
        fps: the frames per second of the orbit.
    """

    def __init__(self, size: Annotated[int, Within(16, 4096)] = 256, fps: Annotated[int, Within(1, 120)] = 20) -> None:
        self.size, self.fps = size, fps
        self._frames: list[Tensor] = []
        self._training = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._training = True

    @rank_zero_only
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._training = False
        if isinstance(pl_module, Distillation):
            self._leave(trainer, pl_module, Path(trainer.default_root_dir))

    @rank_zero_only
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """After a signal that came between two steps; not after SLURM's, whose job is to be requeued in time."""
        if self._training and isinstance(exception, Interrupted) and exception.signum != signal.SIGUSR1:
            try:
                self.on_train_end(trainer, pl_module)
            except OSError as error:  # the run has ended, and says how
                logging.getLogger(__name__).warning("There is no report: %s", sentence(error))

    def _leave(self, trainer: Any, module: Distillation, folder: Path) -> None:
        cameras = trainer.datamodule
        exported = Exported(module.prompt, module.generator, module.rendering.background)
        views = cameras.look(_CONTACT_VIEWS, self.size)  # None where all images are shown
        images, sheet = exported.render(views).image, folder / "contact.png"
        labels = [f"{degrees:.0f}°" for degrees in views.azimuth.rad2deg().tolist()] if views else []
        save_grid(images, sheet, _CONTACT_VIEWS // 2, max(1, self.size // images.shape[-1]), labels)
        written = list(module.generator.export(folder))
        if isinstance(cameras, Cameras):
            frames = exported.render(cameras.ring(cameras.orbit.views, self.size)).image
            written.insert(0, save_film(frames, folder, "orbit", self.fps))
        if module.generator.splats() is not None:
            written += [file for name in ("ply", "html") for file in exported.save(name, folder / FORMATS[name])]
        told = self._told(trainer, module, [file.relative_to(folder).as_posix() for file in written])
        write_text(folder / "report.html", page(folder, told))
        log_picture(trainer.loggers, "views", sheet, trainer.global_step)
        for name, text in measured(told["results"], told["errors"]):
            print(f"{meaning(name).title}: {text}")
        print(f"Report: {folder / 'report.html'}")

    def _told(self, trainer: Any, module: Distillation, files: list[str]) -> dict[str, Any]:
        kinds = {part: module.hparams[part] for part in ("generator", "guidance", "prior")}
        names = {part: spec.get("class_path", "").rpartition(".")[2] for part, spec in kinds.items()}
        prior = kinds["prior"].get("init_args", {}).get("path") or names["prior"]
        made = {"Made of": names["generator"], "Method": names["guidance"], "Prior": f"{prior} ({module.prior.digest})"}
        judges = judges_of(trainer)
        solid = "mesh-glb,mp4" if module.generator.volume() is not None else "png"
        return {
            "made": made,  # in words
            "results": figures(trainer),
            "files": files,  # of the object
            "columns": len(Snapshots.titles(module)),  # of a snapshot
            "formats": "glb,spz,mp4" if "splats.ply" in files else solid,  # that the object can be exported to
            "doubt": module.prior.doubt(module.prompt),  # a sentence about the prompt
            "errors": {name: error for judge in judges for name, error in judge.errors.items()},
            "unmeasured": {name: why for judge in judges for name, why in judge.unmeasured.items()},
        }

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any) -> None:
        if isinstance(outputs, Render):
            self._frames.append(outputs.image.cpu())

    @rank_zero_only
    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        frames, self._frames, folder = self._frames, [], Path(trainer.default_root_dir) / "predict"
        if frames and isinstance(trainer.datamodule, Cameras):
            cameras = trainer.datamodule.orbit.cameras
            name, fps = ("path", read_camera_path(cameras).fps) if cameras else ("orbit", self.fps)
            print(f"{name.capitalize()}: {save_film(torch.cat(frames), folder, name, fps)}")
        elif frames:
            save_grid(torch.cat(frames), path := folder / "sheet.png", _CONTACT_VIEWS // 2)
            print(f"Sheet: {path}")


def page(folder: Path, told: Mapping[str, Any]) -> str:
    """The page of a run, of what lies in its folder and of what is `told` beside it (`Report`); texts stay texts."""
    facts: dict[str, Any] = {"prompt": "", "iterations": 0, "max_steps": 0, "seconds": 0.0, "seed": 0, "started": ""}
    facts |= read_facts(folder / "run.json")
    done, steps = facts["iterations"], max(facts["iterations"], facts["max_steps"])  # -1 where time ends a run
    metrics = ["metrics.csv"] if (folder / "metrics.csv").is_file() else []  # none after a few steps
    numbers = logged(folder / "metrics.csv")
    values = {"told": told, "facts": facts, "done": done, "steps": steps, "width": _WIDTH, "height": _HEIGHT} | {
        "title": shown(facts["prompt"]),
        "orbit": next((name for name in told["files"] if name.startswith("orbit.")), ""),
        "made": {**told["made"], "Steps": done, "Time": clock(facts["seconds"]), "Seed": facts["seed"]},
        "shots": _shots(folder, done),
        "numbers": dict(measured(told["results"], told["errors"])),
        "meaning": meaning,
        "curves": [_curve(name, numbers[name]) for name in _CURVES if len(numbers.get(name, ())) > 1],
        "run": shlex.quote(str(folder)),
        "files": [*told["files"], "contact.png", "config.yaml", "run.json", *metrics],
    }
    return rendered(Path(__file__).with_name("report.html"), values)


def measured(results: Mapping[str, float], errors: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The name of each measure, and its number in words: with its error, its unit, and what it is to be held to."""
    for name, value in results.items():
        if any(name.startswith(prefix) and name.removeprefix(prefix) in results for prefix in REFERENCES):
            continue
        error = f" ± {cell_text(errors[name])}" if name in errors else ""
        text = f"{cell_text(value)}{error} {meaning(name).unit}".strip()
        known = [(results.get(prefix + name), words) for prefix, words in REFERENCES.items()]
        yield name, ", ".join([text, *(f"{words} {cell_text(value)}" for value, words in known if value is not None)])


def _shots(folder: Path, done: int) -> dict[int, str]:
    """The files of at most eight snapshots up to the last step, evenly among those that there are."""
    files = {int(path.stem[5:]): path for path in folder.glob("snapshots/step-[0-9]*.png") if path.stem[5:].isdecimal()}
    steps = sorted(step for step in files if step <= done)
    count = min(_SHOTS, len(steps))
    kept = {steps[i * (len(steps) - 1) // max(1, count - 1)] for i in range(count)}
    return {step: f"snapshots/{files[step].name}" for step in sorted(kept)}


def _curve(name: str, points: Mapping[int, float]) -> dict[str, Any]:
    low, high, first, last = min(points.values()), max(points.values()), min(points), max(points)
    wide, tall = last - first, (high - low) or 1
    places = (f"{_WIDTH * (x - first) / wide:.1f},{_HEIGHT * (high - y) / tall:.1f}" for x, y in points.items())
    ends = {"low": f"{low:.3g}", "high": f"{high:.3g}", "first": first, "last": last}
    return {"about": meaning(name), "points": " ".join(places), **ends}
