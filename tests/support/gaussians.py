"""Helpers of several tests."""

import math
from pathlib import Path

import torch
from torch import Tensor

from asdkit import Gaussians, Generator
from asdkit.core.randomness import generator_for
from asdkit.rendering.cameras import Views


def optimizer_of(gaussians: Gaussians) -> torch.optim.Adam:
    return torch.optim.Adam(gaussians.parameter_groups())


def remembering_optimizer(gaussians: Gaussians) -> torch.optim.Adam:
    """An Adam that remembers something about every slot; the Gaussians are as before."""
    optimizer, draws = optimizer_of(gaussians), torch.Generator().manual_seed(6)
    before = {name: value.clone() for name, value in gaussians.state_dict().items()}
    for parameter in gaussians.all_slots():
        parameter.grad = torch.randn(parameter.shape, generator=draws)
    optimizer.step()
    optimizer.zero_grad()
    gaussians.load_state_dict(before)
    return optimizer


def train(gaussians: Gaussians, optimizer: torch.optim.Adam, target: Tensor, views: Views, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        (gaussians.render(views).image - target).square().mean().backward()
        gaussians.before_step()
        optimizer.step()
        gaussians.after_step(optimizer, step, generator_for(0, step, "densify"))


def sphere_images(views: Views, radius: float = 0.55) -> Tensor:
    """A shaded sphere, coloured by its normal, before white; ray-cast in closed form."""
    v, u = torch.meshgrid(torch.arange(views.height) + 0.5, torch.arange(views.width) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], -1) @ torch.linalg.inv(views.K).transpose(1, 2)[:, None]
    rays = torch.nn.functional.normalize((views.c2w[:, None, None, :3, :3] @ rays[..., None])[..., 0], dim=-1)
    eye = views.c2w[:, None, None, :3, 3].expand_as(rays)
    along = -(rays * eye).sum(-1)
    inside = radius**2 - (eye.square().sum(-1) - along.square())
    normal = (eye + (along - inside.clamp(min=0).sqrt())[..., None] * rays) / radius
    color = (0.5 + 0.4 * normal) * (0.7 + 0.3 * normal[..., 2:])
    return torch.where(inside[..., None] > 0, color, 1.0).permute(0, 3, 1, 2)


def psnr(image: Tensor, target: Tensor) -> float:
    return -10 * math.log10(max(float((image - target).square().mean().detach()), 1e-30))


def save_run(path: Path, generator: Generator) -> Path:
    """What a checkpoint holds of a run, as far as its generator goes."""
    arguments = {"prompt": "y", "prior": {}, "guidance": {}, "generator": generator.spec}
    weights = {f"generator.{name}": value for name, value in generator.state_dict().items()}
    torch.save({"hyper_parameters": arguments, "state_dict": weights}, path)
    return path
