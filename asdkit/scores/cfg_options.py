"""How classifier-free guidance is computed: plainly, or against over-saturation and objects with several faces."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import NonNegative, Positive, Share, Within, settings
from asdkit.core.parts import Part, require
from asdkit.scores.prior import Noised
from asdkit.scores.schedules import Latent

Decay = Sequence[float]


class PerpNeg(Part):
    """Takes other directions' prompts as negative ones against objects with several faces (Perp-Neg, arXiv 2304.04968).

    In place of e_y it puts e_null + d + sum_i w_i (d_i - (d_i.d)/(d.d) d). Here d is e - e_null of the prompt whose
    embedding is blended between the two neighbouring directions, and d_1, d_2 are the same differences for the prompts
    of the front and of the camera's side. Their weights are -(a exp(-b r) + c), with threestudio's numbers by default.
    A camera from overhead has the prompt for overhead and no negatives.

    Args:
        f_fs: a, b, c of the front's weight between front and side, where r is 1 at the front and 0 at the side.
        f_sf: a, b, c of the side's weight between front and side, where r is 1 at the side and 0 at the front.
        f_sb: a, b, c of the side's weight between side and back, where r is 1 at the side and 0 at the back.
        f_fsb: a, b, c of the front's weight between side and back, with the same r.
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


def perpendicular(a: Latent, b: Latent) -> Latent:
    """What of each sample of a is perpendicular to that of b; all of it where b is zero."""
    along = (a * b).flatten(1).sum(1) / b.square().flatten(1).sum(1).clamp(min=torch.finfo(b.dtype).tiny)
    return a - along[:, None, None, None] * b


class APG(Part):
    """Adaptive projected guidance, against over-saturation (Sadat et al., arXiv 2410.02416).

    Let D be the x0 that a prediction stands for, and Delta = D_y - D_null, shortened to at most `norm`. The guided x0
    is D_y + (lambda - 1) (Delta_perp + eta Delta_par), where Delta_par is the part of a sample's Delta that is parallel
    to its D_y. The paper's momentum is left out: it sums over the levels of one sampling, and draws are independent.

    Args:
        eta: the share of the parallel part that is kept. The paper traces over-saturation to it and has 0; 1 keeps all.
        norm: the largest length of a sample's Delta, in x0's units; 15 is diffusers' default.
    """

    def __init__(self, eta: Annotated[float, Within(-10, 10)] = 0.0, norm: Positive = 15.0) -> None:
        self.eta, self.norm = eta, norm

    def difference(self, x: Noised, null: Latent, prompt: Latent) -> Latent:
        """What takes the place of e_y - e_null, which is -alpha / sigma times Delta."""
        difference = prompt - null
        length = (x.sigma / x.alpha) * torch.linalg.vector_norm(difference, dim=(1, 2, 3), keepdim=True)
        shortening: Tensor = (self.norm / length).clamp(max=1)
        difference = difference * shortening
        across = perpendicular(difference, x.to_x0(prompt))
        return across + self.eta * (difference - across)


@settings
class CFGOptions:
    """How e_null and e_y are combined to e_lambda. At lambda = 0 or 1 it is e_null or e_y, whatever these options say.

    Args:
        perp_neg: Perp-Neg for the prompt, against objects with several faces; see `PerpNeg`.
        apg: adaptive projected guidance, against over-saturation at a large lambda; see `APG`.
        rescale: CFG rescale (phi of Lin et al., arXiv 2305.08891, Section 3.4), in eps-space: the share of e_lambda
            that is brought to the standard deviation of e_y, sample by sample. It is 0.7 in the paper.
        interval: guidance in a limited interval (Kynkäänniemi et al., arXiv 2404.07724): lambda counts only at noise
            levels sigma / alpha above the first and up to the second number; elsewhere it is 1. None is all levels.
    """

    perp_neg: PerpNeg | None = None
    apg: APG | None = None
    rescale: Share = 0.0
    interval: Sequence[NonNegative] | None = None

    def __post_init__(self) -> None:
        ends = [0.0, 1.0] if self.interval is None else list(self.interval)
        fits = len(ends) == 2 and ends[0] < ends[1]
        require(fits, f"cfg.interval takes two noise levels sigma / alpha, the lower one first; got {ends}.")

    def combined(self, x: Noised, null: Latent, prompt: Latent, scale: float) -> Latent:
        """e_lambda of e_null and e_y."""
        if self.apg is None:
            guided = null + scale * (prompt - null)
        else:
            guided = prompt + (scale - 1) * self.apg.difference(x, null, prompt)
        if self.rescale:
            ratio = prompt.flatten(1).std(1) / guided.flatten(1).std(1)
            guided = guided * (self.rescale * ratio + 1 - self.rescale)[:, None, None, None]
        if self.interval is not None:
            low, high = self.interval
            level = x.sigma / x.alpha
            guided = torch.where((level > low) & (level <= high), guided, prompt)
        return guided


PLAIN_CFG = CFGOptions()
