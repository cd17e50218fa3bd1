"""What keeps CFG from over-saturating, against diffusers' guiders and slow loops over the samples of a batch."""

import pytest
import torch
from diffusers.guiders import AdaptiveProjectedGuidance
from diffusers.guiders.guider_utils import rescale_noise_cfg
from support.exact import B, bent, cfg, close, draw, e, e_phi, ready
from torch import Tensor

from asdkit import APG, ASD, CFG, CSD, DDS, SDS, CFGOptions, GaussianPrior, Noise, Prompt, Ramp
from asdkit.scores.fields import Field
from asdkit.scores.prior import Noised


def with_options(prior: GaussianPrior, options: CFGOptions, field: Field | None = None) -> Field:
    field = field or CFG(scale=7.5)
    field.bind("y", "z", options)
    field.setup(prior)
    return field.double()


def apg_of_diffusers(x: Noised, scale: float, eta: float, norm: float) -> Tensor:
    """Diffusers' guider in the paper's form on the x0 of each prediction, and back in eps-space."""
    form = {"adaptive_projected_guidance_rescale": norm, "use_original_formulation": True}
    guider = AdaptiveProjectedGuidance(scale - 1, eta=eta, **form)
    x0 = guider.forward(x.to_x0(e(x, "y")), x.to_x0(e(x))).pred
    return (x.x_t - x.alpha * x0) / x.sigma


@pytest.mark.parametrize("scale", [1.0, 3.0, 100.0])
@pytest.mark.parametrize(("eta", "norm"), [(0.0, 15.0), (0.25, 1.5), (1.0, 0.5)])
def test_apg_is_diffusers(prior: GaussianPrior, scale: float, eta: float, norm: float) -> None:
    x = draw(prior)
    value = with_options(prior, CFGOptions(apg=APG(eta, norm)), CFG(scale=scale))(x)
    assert close(value, apg_of_diffusers(x, scale, eta, norm))
    lengths = x.to_x0(e(x, "y")).sub(x.to_x0(e(x))).flatten(1).norm(dim=1)
    assert norm == 15 or lengths.min() < norm < lengths.max()  # some samples are shortened and some are not
    assert close(with_options(prior, CFGOptions(apg=APG(1.0, 1e6)), CFG(scale=scale))(x), cfg(x, scale))


def test_rescale_is_diffusers(prior: GaussianPrior) -> None:
    x = draw(prior)
    for share in (0.25, 0.7, 1.0):
        value = with_options(prior, CFGOptions(rescale=share))(x)
        assert close(value, rescale_noise_cfg(cfg(x, 7.5), e(x, "y"), share))
        assert close(value.flatten(1).std(1), e(x, "y").flatten(1).std(1)) == (share == 1)


def test_an_interval_of_noise_levels(prior: GaussianPrior) -> None:
    """The paper's weight: lambda where low < sigma / alpha <= high, 1 elsewhere; levels in a closed form."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = (1 - betas).cumprod(0)
    levels = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    x = draw(prior)
    low, high = (float(levels[t]) for t in (300, 700))
    for interval, guided in (((low, high), (0, 0, 1, 0)), ((0, low * 0.999), (1, 0, 0, 0)), ((0, 1e4), (1, 1, 1, 1))):
        value = with_options(prior, CFGOptions(interval=interval))(x)
        for b, scale in enumerate(7.5 if inside else 1.0 for inside in guided):
            assert close(value[b], cfg(x, scale)[b]), (interval, b)


def test_they_go_together_as_in_diffusers(prior: GaussianPrior) -> None:
    """APG, then rescale, inside the interval alone."""
    x = draw(prior)
    value = with_options(prior, CFGOptions(apg=APG(0.0, 1.5), rescale=0.5, interval=(1.0, 5.0)), CFG(scale=9.0))(x)
    expected = rescale_noise_cfg(apg_of_diffusers(x, 9.0, 0.0, 1.5), e(x, "y"), 0.5)
    inside = [1.0 < level <= 5.0 for level in (x.sigma / x.alpha).flatten().tolist()]
    assert 0 < sum(inside) < B
    for b in range(B):
        assert close(value[b], expected[b] if inside[b] else e(x, "y")[b])


def test_every_method_takes_them_and_lambda_0_and_1_stay_plain(prior: GaussianPrior, calls: list[float]) -> None:
    x, options = draw(prior, step=5), CFGOptions(apg=APG(), rescale=0.7)
    one = ready(CFG("y", 7.5, options=options), prior)(x)
    assert not close(one, cfg(x, 7.5), 1e-3)
    assert close(with_options(prior, options, SDS(7.5))(x), one - x.eps)
    assert close(with_options(prior, options, ASD(adapter=bent()))(x), one - e_phi(x, bent()))
    assert close(with_options(prior, options, CFG(scale=Ramp(0.0, 15.0, 10)))(x), one)
    source = x.on_source()
    of_source = ready(CFG("z", 7.5, options=options), prior)(source)
    assert close(with_options(prior, options, DDS())(x), one - of_source)
    assert close(with_options(prior, options, CSD())(x), cfg(x, 1.0) - cfg(x, 0.0))
    assert close(with_options(prior, options, SDS(0.0))(x), e(x) - x.eps)
    calls.clear()
    with_options(prior, options)(draw(prior, seed=7))
    assert calls == [2]  # e_null and e_y in one call, as ever


def test_ones_own_options_stay_and_the_runs_are_refused_where_no_cfg_takes_them(prior: GaussianPrior) -> None:
    x, own, runs = draw(prior), CFGOptions(rescale=1.0), CFGOptions(rescale=0.5)
    expected = [rescale_noise_cfg(cfg(x, 7.5), e(x, "y"), share) for share in (1.0, 0.5)]
    assert close(ready(CFG(options=own), prior)(x), expected[0])
    assert close(with_options(prior, runs, CFG(options=own))(x), expected[1])
    assert close(with_options(prior, runs, CFG("y", options=own) - CFG())(x), expected[0] - expected[1])
    with pytest.raises(ValueError, match="model.cfg is for the CFG of a prompt, which this guidance doesn't have"):
        (Prompt() - Noise()).bind("y", cfg=runs)


def test_what_cannot_be_is_said() -> None:
    for interval in ([1.0], [3.0, 2.0], [1.0, 1.0]):
        with pytest.raises(ValueError, match="cfg.interval takes two noise levels sigma / alpha, the lower one first"):
            CFGOptions(interval=interval)
    with pytest.raises(ValueError, match="rescale must be within"):
        CFGOptions(rescale=1.5)
    with pytest.raises(ValueError, match="norm must be"):
        APG(norm=0.0)
