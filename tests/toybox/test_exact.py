"""Exact scores of true pictures, and discriminators at their optimum."""

from functools import partial
from pathlib import Path

import pytest
import torch

from asdkit import SDS, FiniteSetPrior, ParticleASD, ToyboxTruths
from asdkit.lab import finite_set_eps
from asdkit.scores.prior import Condition
from asdkit.toybox.truths import OTHERS


@pytest.mark.parametrize("method", ["SDS", "VSD", "ASD", "jensen_shannon", "forward_kl"])
def test_the_exact_methods_are_their_formulas(method: str) -> None:
    """Of two images, by points of two prompts: e_lambda by the points, m by the particles, the images themselves.

    ASD at Eq. 10's optimum is VSD at lambda_eff. The other two have weights, h(r) (e_lambda - m) with log r =
    |m - eps|^2 - |e_y - eps|^2 per value: 2r / (1 + r), or r.
    """
    prior = FiniteSetPrior()
    own, others, x0 = (torch.rand(n, 3, 4, 4) for n in (3, 5, 2))
    prior.add("y", own), prior.add("z", others)
    x = prior.draw(x0, torch.tensor([600, 800]), torch.randn(x0.shape), None)
    sets = (own, torch.cat([own, others]), x0)
    y, null, m = (finite_set_eps(x.x_t, x.alpha, x.sigma, points) for points in sets)
    r = ((m - x.eps).square() - (y - x.eps).square()).mean((1, 2, 3), keepdim=True).exp()
    weighted = partial(ParticleASD, 1.0, gamma=0.0)
    field, expected = {
        "SDS": (SDS(7.5), null + 7.5 * (y - null) - x.eps),
        "VSD": (ParticleASD(gamma=0.0), null + 7.5 * (y - null) - m),
        "ASD": (ParticleASD(), 2 * (null + 4.25 * (y - null) - m)),
        "jensen_shannon": (weighted(divergence="jensen_shannon"), 2 * r / (1 + r) * (y - m)),
        "forward_kl": (weighted(divergence="forward_kl"), r * (y - m)),
    }[method]
    field.bind("y")
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
