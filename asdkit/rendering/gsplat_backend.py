"""The CUDA backend: gsplat 1.5's `rasterization`s, called so that every backend means the same thing."""

from typing import Any

import torch
from gsplat import rasterization, rasterization_2dgs
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from asdkit.rendering.gsplat_kernels import load_kernels
from asdkit.rendering.projection import BLUR, NEAR, Drawn, Scene, camera_depths


def render(scene: Scene, colors: Float[Tensor, "B N D"], background: Float[Tensor, "B D"], mode: str) -> Drawn:
    """What gsplat draws; of surfels the positions are zeros, which get what gsplat has for their gradient."""
    if scene.means.is_cuda:
        load_kernels()
    features = torch.cat([colors, camera_depths(scene.means, scene.w2c)[..., None]], dim=-1)
    count = features.shape[-1]
    padding = (0, (1 << (count - 1).bit_length()) - count)  # the surfels' kernel fills up with what it finds in memory
    behind = torch.cat([background, background.new_zeros(len(background), 1)], dim=-1)
    gaussians = zip(("means", "quats", "scales", "opacities", "viewmats", "Ks"), scene[:6], strict=True)
    arguments: dict[str, Any] = {name: tensor.contiguous() for name, tensor in gaussians}
    arguments |= {"colors": F.pad(features, padding), "backgrounds": F.pad(behind, padding)}
    arguments |= {"width": scene.width, "height": scene.height, "near_plane": NEAR}
    arguments |= {"packed": False, "render_mode": "RGB"}
    if mode == "surfels":
        blended, alpha, *_, meta = rasterization_2dgs(**arguments)
        positions = meta["gradient_2dgs"]
    else:
        blended, alpha, meta = rasterization(**arguments, eps2d=BLUR, rasterize_mode=mode)
        positions = meta["means2d"]
    return blended[..., :count], alpha, positions, meta["radii"]
