"""What a discriminator is made of: an adapter that holds phi, a gamma, and real samples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from asdkit.core.parts import Part
from asdkit.rendering.cameras import Views
from asdkit.scores.conditions import Condition
from asdkit.scores.prior import Noised, Prior


class Adapter(Part, nn.Module, ABC):
    """Where the discriminator's parameters phi live: a change of the prior's network, on for e_phi and off for e_y."""

    @abstractmethod
    def setup(self, prior: Prior) -> None:
        """Attach to the prior's network, such that the adapted prediction starts exactly at the prior's own."""

    @abstractmethod
    def switched_on(self, views: Views | None, copies: int) -> AbstractContextManager[None]:
        """A context in which the prior predicts e_phi, for `copies` conditions of these views."""

    def model(self, prior: Prior) -> Prior:
        """The prior whose network is adapted."""
        return prior


class Gamma(Part, nn.Module, ABC):
    """A gamma that depends on the draw: a weight of Eq. 10's penalty for each sample."""

    if TYPE_CHECKING:  # torch's own says Any

        def __call__(self, x: Noised, scale: float) -> Tensor: ...

    def setup(self, prior: Prior, condition: Condition) -> None:
        """Called once, before the first step."""

    def observe(self, draws: Sequence[Noised]) -> None:
        """Called once after each of the discriminator's steps, with a draw for each part of its views."""

    @abstractmethod
    def forward(self, x: Noised, scale: float) -> Float[Tensor, "B 1 1 1"]:
        """gamma at a draw of the generator, above -1; `scale` is the CFG scale lambda of the expression."""


class RealSamples(Part, nn.Module, ABC):
    """Where Eq. 9's real samples come from."""

    @abstractmethod
    def draw(self, x: Noised, condition: Condition) -> Noised:
        """Real samples of the condition at x's t and eps."""
