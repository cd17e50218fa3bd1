"""Gaussians start from what Shap-E makes of a prompt, by diffusers and a folder of weights."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from asdkit.core.bounds import Count, NonNegative
from asdkit.core.parts import require
from asdkit.core.text import first_line, local
from asdkit.formats.colour import from_linear_light
from asdkit.formats.mesh.sample import Points, blend, scatter
from asdkit.generators.gaussian_start import Start

_PARTS = ("model_index.json", "prior", "text_encoder", "tokenizer", "scheduler", "shap_e_renderer")


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
        self,
        prompt: str,
        path: str,
        steps: Count = 64,
        scale: NonNegative = 15.0,
        rotation_deg: float = 0.0,
        seed: int = 0,
    ) -> None:
        require(bool(prompt.strip()), "Shap-E's prompt is empty; say what to make.")
        self._prompt, self._folder = prompt, local(path)
        self._steps, self._scale, self._rotation_deg, self._seed = steps, scale, rotation_deg, seed

    def points(self, count: int, generator: torch.Generator) -> Points:
        vertices, light, faces = self._mesh()
        chosen, weights = scatter(vertices[faces], count, generator, f"What Shap-E made of {self._prompt!r}")
        weights = weights.float()
        points = blend(vertices[faces[chosen]], weights)
        colours = from_linear_light(blend(light[faces[chosen]], weights).clamp(0, 1).numpy())
        return self._rotated(points), torch.from_numpy(colours).float()

    def _rotated(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """From Shap-E's axes to the world's: a quarter turn takes its -y to +x, then comes `rotation_deg`."""
        angle = math.radians(90 + self._rotation_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        return points @ torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])

    def _mesh(self) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "V 3"], Int64[Tensor, "F 3"]]:
        """Vertices, their colours in linear light, and faces; the pipeline lives in here only."""
        pipeline = self._pipeline()
        pipeline.set_progress_bar_config(desc="Shap-E", disable=None)  # None: shown on a terminal only
        try:
            (mesh,) = pipeline(
                self._prompt,
                num_inference_steps=self._steps,
                generator=torch.Generator().manual_seed(self._seed),
                guidance_scale=self._scale,
                output_type="mesh",
            ).images
        except (RuntimeError, ValueError) as error:
            if "non-empty list" not in str(error):  # what torch.cat says of the colours of no vertex
                raise
            raise ValueError(f"Shap-E made nothing of {self._prompt!r}; try another seed or prompt.") from None
        light = torch.stack([mesh.vertex_channels[channel] for channel in "RGB"], dim=1)
        return mesh.verts.float().cpu(), light.float().cpu(), mesh.faces.cpu()

    def _pipeline(self) -> Any:
        missing = [part for part in _PARTS if not (self._folder / part).exists()]
        if missing:
            raise ValueError(
                f"{self._folder} has no {missing[0]}; give the whole folder of openai/shap-e in diffusers' format."
            )
        from diffusers import ShapEPipeline
        from diffusers.utils.logging import disable_progress_bar

        disable_progress_bar()
        try:
            pipeline = ShapEPipeline.from_pretrained(self._folder, local_files_only=True, dtype=torch.float32)
            return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
        except Exception as error:  # diffusers' readers raise whatever a broken folder makes them stumble over
            reason = first_line(error)
            raise ValueError(f"{self._folder} can't be loaded as Shap-E ({reason}); copy the folder again.") from None
