"""What methods are made of: fields on other draws or in stages, what they ask, and draws that belong together."""

import pytest
import torch
from support.exact import B, Brightness, bent, cfg, close, draw, e, e_phi, randn, ready, state

from asdkit import Above, Discriminator, GaussianPrior, Ramp, Reweighted, Stages
from asdkit.rendering.cameras import ring
from asdkit.scores.fields import CFG, Identity, Noise, Null, Prompt
from asdkit.scores.prior import NULL, Condition
from asdkit.scores.redrawn import Earlier, Inverted, Later, OnSource

Y, Z = Condition("y"), Condition("z")


def test_cfg_with_a_field_for_the_null_condition_and_what_its_scale_needs(prior: GaussianPrior) -> None:
    x, null = draw(prior), e_phi(draw(prior), bent(), "z")
    field = ready(CFG(scale=3.0, null=Discriminator(bent(), text="z")), prior)
    assert close(field(x), null + 3 * (e(x, "y") - null))
    assert field.conditions() == [Z, Y] and field.needs(x) == [Y]
    assert close(ready(CFG(scale=2.0, null=Noise()), prior)(x), 2 * e(x, "y") - x.eps)
    x = draw(prior, step=4)
    for scale, asked in ((0.0, [NULL]), (1.0, [Y]), (3.0, [NULL, Y])):
        for number in (scale, Ramp(9.0, scale, 4), Ramp(scale, 9.0, 4, begin=4)):
            field = ready(CFG(scale=number), prior)
            assert field.needs(x) == asked and close(field(x), cfg(x, scale))
            assert field.conditions() == [NULL, Y]


def test_words_of_the_source_are_needed_only_where_they_are_meant() -> None:
    for field in (CFG(of_source=True), Prompt(of_source=True), Discriminator(bent(), of_source=True)):
        for source in (None, ""):
            with pytest.raises(ValueError, match="words for what the source shows"):
                field.bind("y", source)
        field.bind("y", "z")
        assert Z in field.conditions()
    for field in (CFG(), Prompt("y", of_source=True), Discriminator(bent(), text="y", of_source=True)):
        field.bind("y")
        assert Y in field.conditions()


def test_a_scale_that_moves_and_stages(prior: GaussianPrior, calls: list[float]) -> None:
    field = ready(Ramp(0.0, 4.0, 4) * Prompt(), prior)
    assert torch.equal(field(draw(prior)), torch.zeros_like(draw(prior).eps)) and not calls
    for step, factor in enumerate((0, 1, 2, 3, 4, 4)):
        assert close(field(draw(prior, step=step)), factor * e(draw(prior), "y"))
    assert field.needs(draw(prior)) == [] and field.needs(draw(prior, step=1)) == [Y]
    assert field.conditions() == [Y]
    field = ready(Stages(Prompt(), Null(), 3), prior)
    for step, text in ((0, "y"), (2, "y"), (3, ""), (9, "")):
        x = draw(prior, step=step)
        assert close(field(x), e(x, text)) and field.needs(x) == ([Y] if text else [NULL])
    assert field.conditions() == [Y, NULL]


def test_on_source_is_the_same_noise_on_the_source(prior: GaussianPrior, calls: list[float]) -> None:
    x = draw(prior)
    value = ready(OnSource(Prompt()) + 2 * OnSource(Prompt()), prior)(x)
    assert x.on_source() is x.on_source() and calls == [1]  # one draw for all
    assert close(value, 3 * e(state(x, x0=x.source), "y")) and torch.equal(OnSource(Noise())(x), x.eps)
    bright = x.source.clone().requires_grad_()
    assert not prior.draw(x.x0, x.t, x.eps, source=bright).on_source().x_t.requires_grad
    assert OnSource(Prompt("y")).needs(x) == [(x.on_source(), Y)] and OnSource(Prompt("y")).conditions() == [Y]


def test_what_cannot_be_is_said(prior: GaussianPrior) -> None:
    x = draw(prior)
    with pytest.raises(ValueError, match="a negative prompt or a null field, not both"):
        CFG(negative="z", null=Null())
    with pytest.raises(ValueError, match="only makes sense inside Inverted"):
        Earlier(Noise())(x)
    bare = prior.draw(x.x0, x.t, x.eps)
    for field in (Identity(), OnSource(Noise())):
        with pytest.raises(ValueError, match="source, and there is none; give an image with --data.image"):
            field(bare)


def test_above_is_per_sample_and_asks_nothing_below(prior: GaussianPrior, calls: list[float]) -> None:
    field, low, high = ready(Above(Prompt(), 0.98), prior), draw(prior), draw(prior, levels=(20, 30, 40, 980))
    assert field.needs(low) == [] and field.needs(high) == [Y] and field.conditions() == [Y]
    assert torch.equal(field(low), torch.zeros_like(low.eps)) and not calls
    assert field(high)[3].abs().min() > 0 and calls == [1]
    value = ready(Above(Prompt(), 0.3), prior)(low)
    assert torch.equal(value[0], torch.zeros_like(value[0])) and close(value[1:], e(low, "y")[1:])
    assert torch.equal(ready(Above(Prompt(), 0.0), prior)(low), ready(Prompt(), prior)(low))


def test_later_is_uniform_up_to_its_ratio_and_drawn_once(prior: GaussianPrior) -> None:
    """t+ - t over many draws has the mean and the largest value of u ratio (t - t_min)."""
    levels = (0, 19, 700, 999)
    found = torch.stack([Later(Null(), 0.2).redraw(draw(prior, seed, levels=levels)).t for seed in range(300)])
    assert (found[:, [0, 1, 3]] == torch.tensor([0, 19, 999])).all(), "never earlier, nor beyond the schedule"
    shifts, most = (found[:, 2] - 700).double(), 0.2 * (700 - 0.02 * 999)
    assert shifts.mean().item() == pytest.approx(most / 2, rel=0.1)
    assert 0 <= shifts.min() < 0.05 * most and 0.95 * most < shifts.max() <= most + 0.5
    x, later = draw(prior), Later(Prompt("y"))
    there = later.redraw(x)
    assert torch.equal(there.x0, x.x0) and torch.equal(there.eps, x.eps) and (there.t > x.t)[1:3].all()
    assert later.redraw(x) is there and Later(Null()).redraw(x) is there
    assert Later(Null(), 0.3).redraw(x) is not there and Later(Null(), t_min=0.1).redraw(x) is not there
    assert later.needs(x) == [(there, Y)] and later.conditions() == [Y]


def test_an_inversion_is_made_once_and_its_noise_leads_back(prior: GaussianPrior, calls: list[float]) -> None:
    """The draw that is reached has x's x0 and t, and the noise that adds up to its x_t, whatever noise was drawn."""
    field, x = ready(Inverted(Prompt() - Earlier(Prompt()), steps=3, last=0.1), prior), draw(prior)
    field(x)
    assert field.redraw(x) is field.redraw(x) and calls == [1] * 5
    assert field.needs(x) == [] and Y in field.conditions()
    field = ready(Inverted(Noise(), 1.0, 7), prior)
    there = field.redraw(x)
    assert torch.equal(field(x), field(prior.draw(x.x0, x.t, randn(*x.eps.shape, seed=9))))
    assert torch.equal(there.x0, x.x0) and torch.equal(there.t, x.t)
    assert close(there.x_t, there.alpha * x.x0 + there.sigma * there.eps)
    assert not torch.allclose(there.eps, x.eps, atol=0.1)


def test_reweighted_draws_carry_their_cameras_and_sources_and_are_made_once(prior: GaussianPrior, calls: list) -> None:
    x = draw(prior, step=6)
    field = ready(Reweighted(Prompt(), Brightness(), 4, scale=1.0), prior)
    assert torch.equal(field(x), field(x)) and calls == [4]
    x.views = ring(B)
    copies = Reweighted(Noise(), Brightness(), draws=3)._copies(x)
    assert len(copies.views) == 3 * B and torch.equal(copies.views.azimuth, x.views.azimuth.repeat(3))
    for own, wide in ((x.x0, copies.x0), (x.source, copies.source), (x.t, copies.t)):
        assert all(torch.equal(part, own) for part in wide.chunk(3))
    first, second, third = copies.eps.chunk(3)
    assert torch.equal(first, x.eps) and not torch.equal(second, third) and copies.step == 6


def test_facts_and_random_numbers_of_a_draw(prior: GaussianPrior) -> None:
    """Draws made from it keep the facts; numbers follow its own generator, in its precision; without one, torch's."""
    x = draw(prior, step=8)
    x.views = ring(B)
    for other in (x.on(x.x0 + 1), x.at(x.t - 1), x.on_source(), x.like(x.x0, x.t, x.eps)):
        assert other.step == 8 and other.source is x.source and other.random is x.random and other.views is x.views
    assert x.like(x.x0, x.t, x.eps, ring(B, distance=9.0)).views is not x.views
    x, same = draw(prior, 0), torch.Generator().manual_seed(1)
    assert torch.equal(x.rand(5), torch.rand(5, generator=same).double())
    assert torch.equal(x.randn(2, 3), torch.randn(2, 3, generator=same).double())
    bare = prior.draw(x.x0, x.t, x.eps)
    torch.manual_seed(5)
    first = bare.rand(3)
    torch.manual_seed(5)
    assert torch.equal(first, torch.rand(3).double())


def test_forgetting_reaches_kin(prior: GaussianPrior) -> None:
    """What phi said on the source or later is stale once phi has learned."""
    x, phi = draw(prior), bent()
    field = ready(OnSource(Discriminator(phi)) + Later(Discriminator(phi)), prior)
    before = field(x)
    with torch.no_grad():
        phi.offset += 1
    assert torch.equal(field(x), before)
    field.forget(x)
    assert close(field(x), before + 2)


def test_an_offset_condition_moves_the_mean_of_a_lab_prior(prior: GaussianPrior) -> None:
    shift = torch.tensor([0.5, -0.25, 1.0], dtype=torch.float64).reshape(3, 1, 1)
    before = draw(prior).predict(Y)
    with prior.offset_condition(shift):
        x = draw(prior)
        gain = x.alpha * x.sigma / (x.alpha**2 * 0.25 + x.sigma**2)
        assert close(x.predict(Y), e(x, "y") - gain * shift)
        with prior.offset_condition(2 * shift):
            assert close(draw(prior).predict(Y), e(x, "y") - 2 * gain * shift)
        assert torch.equal(prior.moved(shift), 2 * shift)
    assert prior.moved(shift) is shift
    assert torch.equal(draw(prior).predict(Y), before)
    with pytest.raises(RuntimeError, match="inside"), prior.offset_condition(shift):
        raise RuntimeError("inside")
    assert torch.equal(draw(prior).predict(Y), before)
