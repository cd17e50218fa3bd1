"""What a finished run leaves: an orbit, a contact sheet, the object in a standard format, and a report."""

import re
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from asdkit.core.atomic import write_text
from asdkit.core.bounds import Within, checked
from asdkit.core.text import shown
from asdkit.data import Cameras
from asdkit.distillation import Distillation
from asdkit.formats.pictures import save_film, save_grid
from asdkit.generators.base import Render
from asdkit.rendering.cameras import Views
from asdkit.run.export import Exported
from asdkit.run.judge import figures

_CONTACT_VIEWS = 8


@checked
class Report(pl.Callback):
    """In fit an orbit, `contact.png`, `splats.ply`, `viewer.html` and `report.md`; in predict an orbit or a sheet.

    Args:
        size: height and width in pixels of the orbit's frames and of the contact sheet's pictures.
        fps: frames per second of the orbit.
    """

    def __init__(self, size: Annotated[int, Within(16, 4096)] = 256, fps: Annotated[int, Within(1, 120)] = 20) -> None:
        self.size, self.fps = size, fps
        self._frames: list[torch.Tensor] = []

    @rank_zero_only
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        cameras = trainer.datamodule
        if not isinstance(pl_module, Distillation):
            return
        folder = Path(trainer.default_root_dir)
        exported = Exported(pl_module.prompt, pl_module.generator, pl_module.rendering.background)
        self._contact_sheet(exported, cameras.look(_CONTACT_VIEWS, self.size), folder)
        written = list(pl_module.generator.export(folder))
        if isinstance(cameras, Cameras):
            frames = exported.render(cameras.ring(cameras.orbit.views, self.size)).image
            written.insert(0, save_film(frames, folder, "orbit", self.fps))
        if pl_module.generator.splats() is not None:
            written += [file for name in ("ply", "html") for file in exported.write(name, folder)]
        files = [file.relative_to(folder).as_posix() for file in written]
        write_text(folder / "report.md", self._markdown(trainer, pl_module, files))
        print(f"Report: {folder / 'report.md'}")

    def _contact_sheet(self, exported: Exported, views: Views | None, folder: Path) -> None:
        """`contact.png`: all images, or the object from around it, with the azimuths written on them."""
        images = exported.render(views).image
        labels = [f"{degrees:.0f}°" for degrees in views.azimuth.rad2deg().tolist()] if views else []
        scale = max(1, self.size // images.shape[-1])
        save_grid(images, folder / "contact.png", _CONTACT_VIEWS // 2, scale, labels)

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any) -> None:
        if isinstance(outputs, Render):
            self._frames.append(outputs.image.cpu())

    @rank_zero_only
    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        frames, self._frames, folder = self._frames, [], Path(trainer.default_root_dir) / "predict"
        if frames and isinstance(trainer.datamodule, Cameras):
            print(f"Orbit: {save_film(torch.cat(frames), folder, 'orbit', self.fps)}")
        elif frames:
            save_grid(torch.cat(frames), path := folder / "sheet.png", _CONTACT_VIEWS // 2)
            print(f"Sheet: {path}")

    def _markdown(self, trainer: pl.Trainer, module: Distillation, files: list[str]) -> str:
        links = ", ".join(f"[{name}]({name})" for name in [*files, "config.yaml", "run.json"])
        title = re.sub(r"([^\w\s.,;:?'\"()-])", r"\\\1", shown(module.prompt))  # as it is, no Markdown
        facts = f"{trainer.global_step} iterations, seed {module.seed}, prior `{module.prior.digest}`."
        doubts = [f"**{doubt}**"] if (doubt := module.prior.doubt(module.prompt)) else []
        text = "\n\n".join([f"# {title}", *doubts, facts, "![the result](contact.png)", f"Files: {links}.", ""])
        results = figures(trainer)
        rows = [f"| {name} | {value:.4g} |\n" for name, value in results.items()]
        return text + (f"| metric | value |\n|---|---|\n{''.join(rows)}" if rows else "")
