"""Perp-Neg: what other directions' prompts have in common with the wanted one is spared, the rest is pushed away."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.parts import Part, require

Decay = Sequence[float]


class PerpNeg(Part):
    """Takes the prompts of other directions as negative prompts, against objects with several faces (Perp-Neg, arXiv
    2304.04968).

    In place of e_y it puts e_null + d + sum_i w_i (d_i - (d_i.d)/(d.d) d). Here d is e - e_null of the prompt whose
    embedding is blended between the two neighbouring directions, and d_1, d_2 are the same differences for the prompts
    of the front and of the camera's side. Their weights are -(a exp(-b r) + c), with threestudio's numbers by default.
    A camera from overhead has the prompt for overhead and no negatives.

    Args:
        f_fs: a, b, c of the front's weight between front and side, where r is 1 at the front and 0 at the side.
        f_sf: a, b, c of the side's weight between front and side, where r is 1 at the side and 0 at the front.
        f_sb: a, b, c of the side's weight between side and back, where r is 1 at the side and 0 at the back.
        f_fsb: a, b, c of the front's weight between side and back, with the same r.

    Raises:
        ValueError: other than three numbers.
    """

    def __init__(
        self,
        f_fs: Decay = (4.0, 0.5, -2.426),
        f_sf: Decay = (4.0, 0.5, -2.426),
        f_sb: Decay = (1.0, 0.5, -0.606),
        f_fsb: Decay = (1.0, 0.5, 0.967),
    ) -> None:
        for decay in (f_fs, f_sf, f_sb, f_fsb):
            require(len(decay) == 3, f"Each weight of PerpNeg takes three numbers a, b, c; got {list(decay)}.")
        self.f_fs, self.f_sf, self.f_sb, self.f_fsb = f_fs, f_sf, f_sb, f_fsb

    def weights(self, azimuth: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """The weights of the front's and of the side's negative prompt; azimuth in radians."""
        turned = torch.atan2(azimuth.sin(), azimuth.cos()).abs() / (torch.pi / 2)  # 0 front, 1 side, 2 back
        ahead = turned < 1
        front = torch.where(ahead, _decay(self.f_fs, 1 - turned), _decay(self.f_fsb, 2 - turned))
        side = torch.where(ahead, _decay(self.f_sf, turned), _decay(self.f_sb, 2 - turned))
        return -front, -side


def _decay(abc: Decay, r: Tensor) -> Tensor:
    a, b, c = abc
    return a * torch.exp(-b * r) + c


def perpendicular(a: Float[Tensor, "B C h w"], b: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    """What of each sample of a is perpendicular to that of b; all of it where b is zero."""
    along = (a * b).flatten(1).sum(1) / b.square().flatten(1).sum(1).clamp(min=torch.finfo(b.dtype).tiny)
    return a - along[:, None, None, None] * b
