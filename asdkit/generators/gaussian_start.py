"""Where Gaussians start: a random ball or box, a file of splats, a point cloud, a mesh, another run, or Shap-E."""

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from asdkit.core.bounds import Count, Weight
from asdkit.core.parts import Part, require
from asdkit.core.text import first_line, local
from asdkit.formats import ply
from asdkit.formats.glb import holds_gaussians
from asdkit.formats.mesh.sample import Points, blend, fit, sample_mesh, scatter
from asdkit.formats.pictures import from_linear_light
from asdkit.formats.splat_files import is_splats, read_splats
from asdkit.formats.splats import THINNER, Splats
from asdkit.generators.from_checkpoint import generator_of
from asdkit.generators.gaussian_settings import Initial
from asdkit.rendering.cameras import ring, unproject
from asdkit.rendering.projection import SH_0

_ELEVATIONS_DEG, _AROUND, _PIXELS = (-35.0, 10.0, 55.0), 8, 96  # from where another run's object is looked at
REFERENCE_LIMIT = 10_000  # points that distances are measured to
_PARTS = ("model_index.json", "prior", "text_encoder", "tokenizer", "scheduler", "shap_e_renderer")


class Start(Part, ABC):
    """Makes the points that Gaussians start from. Derive from it for a start of your own; `ShapE` is one."""

    @abstractmethod
    def points(self, count: int, generator: torch.Generator) -> Points:
        """`count` points in the world's axes, of any size, which are fitted into the ball of `initial`, and their sRGB
        colours in [0,1], None for grey; all draws by `generator`.
        """


def splats_from(init: str | Start, count: int, initial: Initial, rotated: bool) -> Splats:
    """The initial Gaussians, as `Gaussians` takes them; randomly `rotated` where they have no rotation of their own."""
    generator = torch.Generator().manual_seed(initial.seed)
    start: Splats | Points
    if isinstance(init, Start):
        points, colors = init.points(count, generator)
        start = fit(points, initial.radius, type(init).__name__), colors
    elif init == "ball":
        direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
        start = direction * initial.radius * torch.rand(count, 1, generator=generator) ** (1 / 3), None
    elif init == "box":
        start = initial.radius * (2 * torch.rand(count, 3, generator=generator) - 1), None
    else:
        require(bool(init), "init is empty; say what to start from, e.g. --model.generator.init=RUN or FILE, or ball.")
        start = _loaded(local(init), count, initial.radius, generator)
    if isinstance(start, Splats):
        return fitted(start, initial.radius) if initial.fit else start
    return _round(start, initial.opacity, generator, rotated)


def _loaded(path: Path, count: int, radius: float, generator: torch.Generator) -> Splats | Points:
    """The Gaussians of a file or run as they are, or points of what else it shows."""
    if path.is_dir() or path.suffix == ".ckpt":
        return _from_run(path, count, generator)
    require(path.is_file(), f'init must be "ball", "box", or the path of a file or run, but there is no {path}.')
    suffix = path.suffix.lower()
    header = ply.read_header(path) if suffix == ".ply" else None
    if header.is_splats if header else is_splats(path) and (suffix != ".glb" or holds_gaussians(path)):
        return read_splats(path).tensors()
    if header is None or header.is_mesh:
        return sample_mesh(path, count, radius, generator)
    cloud = ply.read_points(path)
    chosen = torch.randperm(len(cloud.points), generator=generator)[:count]
    colors = None if cloud.colors is None else torch.from_numpy(cloud.colors)[chosen]
    return fit(torch.from_numpy(cloud.points), radius, path)[chosen], colors


def fitted(splats: Splats, radius: float) -> Splats:
    """The Gaussians moved to the origin by their median, and scaled so that nine tenths are within the radius."""
    middle, reach = middle_and_reach(splats.means)
    reach = torch.where(reach > 0, reach, splats.log_scales.max().exp())  # where all are at one place
    scale = radius / reach.clamp(min=1e-6)
    return splats._replace(means=(splats.means - middle) * scale, log_scales=splats.log_scales + scale.log())


def middle_and_reach(means: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, " 3"], Float[Tensor, ""]]:
    """The median of positions, and how far nine tenths are from it at most."""
    middle = means.median(0).values
    return middle, (means - middle).norm(dim=1).sort().values[math.ceil(0.9 * len(means)) - 1]


def whereabouts(means: Float[Tensor, "N 3"]) -> str:
    """Where Gaussians are, in words."""
    middle, reach = middle_and_reach(means)
    return "their middle is ({:.3g}, {:.3g}, {:.3g}), and nine tenths are within {:.3g} of it".format(*middle, reach)


def thin(splats: Splats) -> Splats:
    """The Gaussians as discs: their third axis is a hundredth of the smaller of the others."""
    wide = splats.log_scales[:, :2]
    return splats._replace(log_scales=torch.cat([wide, wide.amin(1, keepdim=True) - math.log(THINNER)], dim=1))


@torch.no_grad()
def _from_run(path: Path, count: int, generator: torch.Generator) -> Splats | Points:
    """Another run's Gaussians as they are; of another kind of object, points of the surface that cameras see."""
    trained = generator_of(path)
    splats, volume = trained.splats(), trained.volume()
    if splats is not None:
        return splats.tensors()
    if volume is None:
        raise ValueError(f"{path} holds no 3D object for Gaussians to start from.")
    visible = []
    for elevation_deg in _ELEVATIONS_DEG:
        views = ring(_AROUND, elevation_deg, distance=3.4 * volume.half, size=_PIXELS)
        render = trained.render(views, torch.ones(3))
        visible.append(unproject(render.depth, views).permute(0, 2, 3, 1)[render.alpha[:, 0] > 0.5])
    points = torch.cat(visible)
    require(len(points) > 0, f"{path} shows nothing opaque for Gaussians to start from.")
    points = points[torch.randperm(len(points), generator=generator)[:count]]
    return points, volume.radiance(points)[1]


def _round(placed: Points, opacity: float, generator: torch.Generator, rotated: bool) -> Splats:
    """Round Gaussians as large as the distance between neighbours; grey with a little noise if there is no colour."""
    points, colors = placed
    if colors is None:
        colors = 0.5 + 0.1 * (torch.rand(len(points), 3, generator=generator) - 0.5)
    upright = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(points), 1)
    quats = torch.randn(len(points), 4, generator=generator) if rotated else upright
    log_scales = _spacing(points, generator).log()[:, None].repeat(1, 3)
    logits = torch.full((len(points),), opacity).logit()
    return Splats(points, quats, log_scales, logits, (colors[:, None] - 0.5) / SH_0)


def _spacing(points: Float[Tensor, "N 3"], generator: torch.Generator) -> Float[Tensor, " N"]:
    """Mean distance to the three nearest neighbours, in chunks; from a random subset when there are many points."""
    count = len(points)
    if count == 1:
        return torch.full((1,), 0.1)
    known = points[torch.randperm(count, generator=generator)[:REFERENCE_LIMIT]] if count > REFERENCE_LIMIT else points
    nearest = min(1 + 3, len(known))  # itself, and three
    distances = torch.cat([torch.cdist(part, known).topk(nearest, largest=False).values for part in points.split(1024)])
    thinning = (len(known) / count) ** (1 / 3)
    return (distances[:, 1:].mean(1) * thinning).clamp(min=1e-3 * float(points.std(0).max()) + 1e-7)


class ShapE(Start):
    """Takes points from the coloured surface that Shap-E (https://arxiv.org/abs/2305.02463) makes of a prompt.

    Shap-E's z axis points up, as the world's does, but its objects need not all face the same way. Without a rotation,
    the front is what the first of diffusers' pictures shows, which looks along Shap-E's +y. Shap-E runs on a GPU if
    there is one, and its memory is freed afterwards.

    Args:
        prompt: what to make, in words.
        path: the folder of openai/shap-e in diffusers' format, with `model_index.json`, `prior`, `text_encoder`,
            `tokenizer`, `scheduler` and `shap_e_renderer`.
        steps: the number of denoising steps.
        scale: the scale of classifier-free guidance; 1 or less for none.
        rotation_deg: a turn about the vertical in degrees, counter-clockwise from above, that brings the front to +x.
        seed: the seed of Shap-E's random draws.

    Raises:
        ValueError: an empty prompt; in `points`, a missing or broken folder, or no surface.
    """

    def __init__(
        self, prompt: str, path: str, steps: Count = 64, scale: Weight = 15.0, rotation_deg: float = 0.0, seed: int = 0
    ) -> None:
        require(bool(prompt.strip()), "Shap-E's prompt is empty; say what to make.")
        self._prompt, self._folder = prompt, local(path)
        self._steps, self._scale, self._rotation_deg, self._seed = steps, scale, rotation_deg, seed

    def points(self, count: int, generator: torch.Generator) -> Points:
        vertices, light, faces = self._mesh()
        chosen, weights = scatter(vertices[faces], count, generator, f"What Shap-E made of {self._prompt!r}")
        weights = weights.float()
        colours = from_linear_light(blend(light[faces[chosen]], weights).clamp(0, 1).numpy())
        return self._rotated(blend(vertices[faces[chosen]], weights)), torch.from_numpy(colours).float()

    def _rotated(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """From Shap-E's axes to the world's: a quarter turn takes its -y to +x, then comes `rotation_deg`."""
        angle = math.radians(90 + self._rotation_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        return points @ torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])

    def _mesh(self) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "V 3"], Int64[Tensor, "F 3"]]:
        """Vertices, their colours in linear light, and faces; the pipeline lives in here only."""
        pipeline = self._pipeline()
        pipeline.set_progress_bar_config(desc="Shap-E", disable=None)  # None: shown on a terminal only
        asked = {"num_inference_steps": self._steps, "guidance_scale": self._scale, "output_type": "mesh"}
        try:
            (mesh,) = pipeline(self._prompt, generator=torch.Generator().manual_seed(self._seed), **asked).images
        except (RuntimeError, ValueError) as error:
            if "non-empty list" not in str(error):  # what torch.cat says of the colours of no vertex
                raise
            raise ValueError(f"Shap-E made nothing of {self._prompt!r}; try another seed or prompt.") from None
        light = torch.stack([mesh.vertex_channels[channel] for channel in "RGB"], dim=1)
        return mesh.verts.float().cpu(), light.float().cpu(), mesh.faces.cpu()

    def _pipeline(self) -> Any:
        if missing := [part for part in _PARTS if not (self._folder / part).exists()]:
            whole = "the whole folder of openai/shap-e in diffusers' format"
            raise ValueError(f"{self._folder} has no {missing[0]}; give {whole}.")
        from diffusers import ShapEPipeline
        from diffusers.utils.logging import disable_progress_bar

        disable_progress_bar()
        try:
            pipeline = ShapEPipeline.from_pretrained(self._folder, local_files_only=True, dtype=torch.float32)
            return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
        except Exception as error:  # diffusers' readers raise whatever a broken folder makes them stumble over
            reason = first_line(error)
            raise ValueError(f"{self._folder} can't be loaded as Shap-E ({reason}); copy the folder again.") from None
