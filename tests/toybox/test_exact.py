"""Exact scores of true pictures, and discriminators at their optimum."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from asdkit import SDS, FiniteSetPrior, ParticleASD, ToyboxTruths
from asdkit.lab import finite_set_eps
from asdkit.scores.prior import Condition, Noised
from asdkit.toybox.truths import OTHERS


def a_draw() -> tuple[Noised, Tensor, Tensor, Tensor]:
    """Of two images, by points of two prompts: the exact eps of y, of both, and of the images themselves."""
    prior = FiniteSetPrior()
    own, others, x0 = (torch.rand(n, 3, 4, 4) for n in (3, 5, 2))
    prior.add("y", own), prior.add("z", others)
    x = prior.draw(x0, torch.tensor([600, 800]), torch.randn(x0.shape), None)
    at = (x.x_t, x.alpha, x.sigma)
    return x, *(finite_set_eps(*at, points) for points in (own, torch.cat([own, others]), x0))


@pytest.mark.parametrize("method", ["SDS", "VSD", "ASD"])
def test_the_exact_methods_are_their_formulas(method: str) -> None:
    """e_lambda by the points, m by the particles; ASD at Eq. 10's optimum is VSD at lambda_eff."""
    x, y, null, m = a_draw()
    guided = null + 7.5 * (y - null)
    effective = null + 4.25 * (y - null)
    expected = {"SDS": guided - x.eps, "VSD": guided - m, "ASD": 2 * (effective - m)}[method]
    field = {"SDS": lambda: SDS(7.5), "VSD": lambda: ParticleASD(gamma=0.0), "ASD": ParticleASD}[method]()
    field.bind("y")
    assert torch.allclose(field(x), expected, atol=1e-4)


@pytest.mark.parametrize("divergence", ["jensen_shannon", "forward_kl"])
def test_the_exact_weights_are_their_formulas(divergence: str) -> None:
    """h(r) (e_lambda - m) with log r = |m - eps|^2 - |e_y - eps|^2 per value: 2r / (1 + r), or r."""
    x, y, _, m = a_draw()
    r = ((m - x.eps).square() - (y - x.eps).square()).mean((1, 2, 3), keepdim=True).exp()
    field = ParticleASD(1.0, gamma=0.0, divergence=divergence)
    field.bind("y")
    expected = {"jensen_shannon": 2 * r / (1 + r), "forward_kl": r}[divergence] * (y - m)
    assert torch.allclose(field(x), expected, atol=1e-4) and (r - 1).abs().min() > 1e-3


def test_the_prior_is_that_of_true_pictures_and_of_others(tiny_folder: Path) -> None:
    """At little noise the nearest latent answers; without a prompt all things count, each thing of the same number."""
    prior = ToyboxTruths(str(tiny_folder), pictures=3)
    prior.setup()
    conditions = [Condition("a red ball"), Condition("")]
    prior.prepare(conditions)
    assert prior.exact.texts() == ["a red ball", *OTHERS] and len(prior.exact.points) == 3 * 5
    x0 = prior.exact.points[1:2]
    x = prior.draw(x0, torch.tensor([5]), torch.randn(x0.shape), None)
    for eps in prior.predict(x, conditions):
        assert torch.allclose(eps.float(), x.eps, atol=1e-3)
    prior.prepare([Condition("a red cube")])
    assert prior.exact.texts()[-1] == "a red cube" and len(prior.exact.points) == 3 * 6
    with pytest.raises(ValueError, match="a corgi"):
        prior.prepare([Condition("a corgi")])
    assert prior.digest != ToyboxTruths(str(tiny_folder), pictures=4).digest
