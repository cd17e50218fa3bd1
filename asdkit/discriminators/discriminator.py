"""The discriminator: the score field that learns. It supplies e_phi and trains phi by Eq. 10 or Eq. 9."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.core.bounds import MoreThan, Share
from asdkit.core.ramps import Ramp, bounds, value_at
from asdkit.discriminators.adapters import LoRA
from asdkit.discriminators.gammas import Gamma
from asdkit.discriminators.real_samples import RealSamples
from asdkit.scores.cfg_options import CFGOptions
from asdkit.scores.equations import discriminator_loss, effective_scale, faded_gamma, real_loss, released_loss
from asdkit.scores.fields import Factor, Field, bound_text
from asdkit.scores.prior import Adapter, Condition, Noised, Prior

Clip = Annotated[float, MoreThan(1, at_most=1e6)]


class Discriminator(Field):
    """e_phi, the score field that learns: the prior's network with an adapter, trained on what the generator shows.

    Its loss (Eq. 10) is ||e_phi - eps||^2 + gamma ||e_y - e_phi||^2. At the optimum ASD is VSD at the CFG scale
    lambda_eff = 1 + (1 + gamma)(lambda - 1). With real samples x_r (Eq. 9) the loss gets two further terms, -
    ||e_phi(x_r) - eps||^2 + eta ||e_y(x_r) - e_phi(x_r)||^2. The first of them has no lower bound, so a sample no
    longer counts once phi's error on it is `real_clip` times the prior's own.

    Args:
        adapter: the part that holds the parameters phi; a LoRA of rank 4 when None.
        gamma: the weight of the penalty on fake samples: the paper's 3D value is -0.5, and 0 gives VSD. The loss has no
            minimum at or below -1.
        text: the prompt y that e_phi starts from; the run's own prompt when None.
        allow_unbounded: accept gamma <= -1, where only the learning rate keeps phi bounded; the paper's 2D value is -1.
        scale: the CFG scale lambda of the whole expression. lambda_eff is logged from it, and a Gamma may use it.
        real_samples: where the real samples of Eq. 9 come from; None for Eq. 10.
        eta: the weight of the penalty on real samples: 0.5 in the paper's general case, 0 for editing.
        real_clip: how many times the prior's own error phi's error may be before a real sample no longer counts.
        of_source: when `text` is None, take the words for the source image instead of the run's prompt.
        learns_source: take the source image for the fake sample, not what the generator shows.
        released: learn by the loss of the paper's released code instead of Eq. 10.
    """

    def __init__(
        self,
        adapter: Adapter | None = None,
        gamma: Factor | Gamma = -0.5,
        text: str | None = None,
        allow_unbounded: bool = False,
        scale: Factor = 7.5,
        real_samples: RealSamples | None = None,
        eta: Share | Ramp = 0.5,
        real_clip: Clip = 2.0,
        of_source: bool = False,
        learns_source: bool = False,
        released: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(gamma, Gamma) and (lowest := min(bounds(gamma))) <= -1 and not allow_unbounded:
            fault = f"gamma must be above -1, where Eq. 10 has a minimum; got {lowest}."
            raise ValueError(f"{fault} Set allow_unbounded to true if you mean it.")
        self.adapter, self.gamma, self.scale, self.text = adapter or LoRA(), gamma, scale, text
        self.real_samples, self.eta, self.real_clip, self.of_source = real_samples, eta, real_clip, of_source
        self.learns_source, self.released = learns_source, released

    def take_words(self, prompt: str, source: str | None, cfg: CFGOptions) -> None:
        self.text = bound_text(self.text, prompt, source, self.of_source)

    def setup(self, prior: Prior) -> None:
        for model in (prior, self.adapter.model(prior)):
            model.setup()
            model.prepare(self.conditions())
        self.adapter.setup(prior)
        if isinstance(self.gamma, Gamma):
            self.gamma.setup(prior, self.condition())

    def conditions(self) -> list[Condition]:
        return [self.condition()]

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return x.predict(self.condition(), self.adapter)

    def opinion(self, x: Noised) -> Float[Tensor, " B"]:
        """D(x_t; y) = ||e_phi - eps||^2 - ||e_y - eps||^2 per value: large where the prior explains x_t better."""
        e_phi, e_y = self(x), x.predict(self.condition())
        return ((e_phi - x.eps).square() - (e_y - x.eps).square()).flatten(1).mean(1)

    def log_ratio(self, x: Noised) -> Float[Tensor, " B"]:
        """An estimate of log r, r the ratio of the prior's density at x_t to the generator's, up to a factor."""
        return self.opinion(x).detach()

    def gamma_at(self, x: Noised) -> float | Float[Tensor, "B 1 1 1"]:
        """gamma at a draw."""
        if isinstance(self.gamma, Gamma):
            return self.gamma(x, value_at(self.scale, x.step))
        return value_at(self.gamma, x.step)

    def loss(self, x: Noised) -> Float[Tensor, ""]:
        """Eq. 10, or Eq. 9 for samples that have a real one, at one draw; gradients reach the adapter alone."""
        x = self._fake(x)
        gamma, e_phi = self.gamma_at(x), self(x)
        e_y = e_phi.detach() if isinstance(gamma, float | int) and gamma == 0 else x.predict(self.condition())
        if self.released:
            loss = released_loss(e_phi, x.eps, e_y, gamma, x.alpha)
        else:
            loss = discriminator_loss(e_phi, x.eps, e_y, gamma)
        if self.real_samples is None:
            return loss
        real = self.real_draw(x)
        if not len(real.t):
            return loss
        e_y, share = real.predict(self.condition()), len(real.t) / len(x.t)
        return loss + share * real_loss(self(real), real.eps, e_y, value_at(self.eta, x.step), self.real_clip)[0]

    def _fake(self, x: Noised) -> Noised:
        return x.on_source() if self.learns_source else x

    def real_draw(self, x: Noised) -> Noised:
        """Real samples at x's t and eps, of those that have one."""
        real_samples = self.real_samples
        if real_samples is None:
            raise ValueError("This discriminator has no real_samples; give it some, e.g. PriorSamples().")
        return x.derived(self, lambda: real_samples.draw(x, self.condition()))

    def observe(self, draws: Sequence[Noised]) -> None:
        if isinstance(self.gamma, Gamma):
            self.gamma.observe([self._fake(x) for x in draws])

    def forget(self, x: Noised) -> None:
        x.forget(self.adapter)

    def diagnostics(self, x: Noised, ask: bool = True) -> dict[str, float]:
        """`gap` is ||e_phi - eps||^2 - ||e_y - eps||^2 per value (the discriminator's estimate of a log-density ratio),
        `distance` is ||e_phi - e_y||^2 per value, `rho` the ratio ||e_phi - e_y|| / ||e_phi - eps||, and `lambda_eff`
        the CFG scale that VSD would have at this gamma's optimum. Of Eq. 9, `real_clipped` is the share of the real
        samples that no longer count.
        """
        x = self._fake(x)
        if not (ask or self._known(x)):
            return {}
        with torch.no_grad():
            e_phi, e_y = self(x).detach(), x.predict(self.condition())
            fake, text = (e_phi - x.eps).square().mean(), (e_y - x.eps).square().mean()
            distance = (e_phi - e_y).square().mean()
            gamma = self.gamma_at(x)
            effective = torch.as_tensor(faded_gamma(gamma, x.alpha) if self.released else gamma).mean().item()
            numbers = {
                "gap": (fake - text).item(),
                "distance": distance.item(),
                "rho": (distance / fake).sqrt().item(),
                "gamma": torch.as_tensor(gamma).mean().item(),
                "lambda_eff": effective_scale(value_at(self.scale, x.step), effective),
            }
            real = None if self.real_samples is None else self.real_draw(x)
            if real is not None and len(real.t) and (ask or self._known(real)):
                e_y = real.predict(self.condition())
                numbers["real_clipped"] = real_loss(self(real), real.eps, e_y, 0.0, self.real_clip)[1].item()
            return numbers

    def _known(self, x: Noised) -> bool:
        return x.knows(self.condition()) and x.knows(self.condition(), self.adapter)

    def condition(self) -> Condition:
        """What e_phi is conditioned on: the prompt y."""
        if self.text is None:
            raise ValueError("The discriminator has no text; give it one, or bind the prompt with field.bind(prompt).")
        return Condition(self.text, view_dependent=bool(self.text))
