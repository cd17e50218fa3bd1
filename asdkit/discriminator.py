"""The discriminator: the score field that learns. It supplies e_phi and trains phi by Eq. 10."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asdkit.fields import Field
from asdkit.objectives import discriminator_loss
from asdkit.part import Part
from asdkit.prior import Noised, Prior
from asdkit.prompts import Condition
from asdkit.views import Views


class Adapter(Part, nn.Module, ABC):
    """Where phi lives: a change of the prior's network that is switched on for e_phi and off for e_y."""

    @abstractmethod
    def setup(self, prior: Prior) -> None:
        """Attach to the prior's network, such that the adapted prediction starts exactly at the prior's own."""

    @abstractmethod
    def switched_on(self, views: Views | None, copies: int) -> AbstractContextManager:
        """A context in which the network predicts e_phi, for `copies` conditions of these views."""


class Discriminator(Field):
    """e_phi: the prior's network with an adapter, trained on what the generator shows.

    Loss (Eq. 10): ||e_phi - eps||^2 + gamma ||e_y - e_phi||^2. At its optimum ASD is VSD at the CFG scale
    lambda_eff = 1 + (1 + gamma)(lambda - 1).

    Args:
        adapter: where phi lives.
        gamma: weight of the gradient penalty; the paper's 3D value is -0.5, 0 gives VSD. Must be above -1: at or
            below -1 the loss has no minimum.
        text: the prompt y that e_phi starts from; the run's own when None.
        allow_unbounded: accept gamma <= -1 (the paper's 2D experiments use -1; only the learning rate holds phi).

    Raises:
        ValueError: gamma <= -1 without `allow_unbounded`.
    """

    def __init__(
        self, adapter: Adapter, gamma: float = -0.5, text: str | None = None, allow_unbounded: bool = False
    ) -> None:
        super().__init__()
        if gamma <= -1 and not allow_unbounded:
            raise ValueError(
                f"gamma must be above -1, where Eq. 10 has a minimum; got {gamma}. "
                "Set allow_unbounded to true if you mean it."
            )
        self.adapter, self.gamma, self.text = adapter, gamma, text

    def bind(self, prompt: str) -> None:
        self.text = prompt if self.text is None else self.text

    def setup(self, prior: Prior) -> None:
        prior.prepare(self.conditions())
        self.adapter.setup(prior)

    def conditions(self) -> list[Condition]:
        return [self._condition()]

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        return x.predict(self._condition(), self.adapter)

    def loss(self, x: Noised) -> Float[Tensor, ""]:
        """Eq. 10 at one draw; gradients reach the adapter alone."""
        e_y = x.predict(self._condition())
        return discriminator_loss(self(x), x.eps, e_y, self.gamma)

    def forget(self, x: Noised) -> None:
        x.forget(self.adapter)

    def diagnostics(self, x: Noised) -> dict[str, float]:
        """What to log: the gap ||e_phi - eps||^2 - ||e_y - eps||^2 per value, and how far e_phi has left e_y."""
        with torch.no_grad():
            e_phi, e_y = self(x).detach(), x.predict(self._condition())
            fake, text = (e_phi - x.eps).square().mean(), (e_y - x.eps).square().mean()
            return {"gap": (fake - text).item(), "distance": (e_phi - e_y).square().mean().item()}

    def _condition(self) -> Condition:
        if self.text is None:
            raise ValueError(
                "The discriminator has no text; give it one, or bind the run's prompt with field.bind(prompt)."
            )
        return Condition(self.text)
