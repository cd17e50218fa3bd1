"""The frozen diffusion model that pulls (`Prior`) and one noisy draw of it (`Noised`)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from asdkit.part import Part
from asdkit.prompts import Condition, ViewWords
from asdkit.schedules import Schedule
from asdkit.views import Views


@runtime_checkable
class Switch(Protocol):
    """What a prior needs of an adapter: a context in which its network predicts with the adapter on."""

    def switched_on(self, views: Views | None, copies: int) -> AbstractContextManager: ...


class Prior(Part, nn.Module, ABC):
    """A frozen score model. Weights are loaded by `setup`, never by the constructor.

    Attributes:
        schedule: its noise schedule, after `setup`.
        view_words: the words for directions that it knows; None if it knows none.
        network: the denoising network, which adapters attach to.
    """

    schedule: Schedule
    network: nn.Module
    view_words: ViewWords | None = None

    @abstractmethod
    def setup(self) -> None:
        """Load the weights. Called once, before anything else; a second call does nothing."""

    @abstractmethod
    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Images in [0,1] to x0, with gradient."""

    @abstractmethod
    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """x0 to images in [0,1], for looking at."""

    @abstractmethod
    def prepare(self, conditions: Sequence[Condition]) -> None:
        """Embed prompts once, for all views, and free the text encoder."""

    @abstractmethod
    def predict(
        self, x: "Noised", conditions: Sequence[Condition], adapter: Switch | None = None
    ) -> list[Float[Tensor, "B C h w"]]:
        """Noise predictions for each condition, in ONE batched network call."""

    def unknown_words(self, text: str) -> list[str]:
        """The words of a prompt that this prior has never seen; none where it does not say what it knows."""
        return []

    @property
    @abstractmethod
    def digest(self) -> str:
        """A short fingerprint of the weights; it stands beside every metric."""

    def draw(
        self,
        x0: Float[Tensor, "B C h w"],
        t: Int[Tensor, " B"],
        eps: Float[Tensor, "B C h w"],
        views: Views | None = None,
    ) -> "Noised":
        """One noisy draw of x0; gradients do not flow into x0."""
        return Noised(self, x0.detach(), t, eps, views)


class Noised:
    """One draw: (x0, t, eps) and x_t = alpha_t x0 + sigma_t eps.

    Predictions are memoised per (condition, adapter), so that a generator step and a discriminator step that share
    the draw share its network calls.
    """

    def __init__(
        self,
        prior: Prior,
        x0: Float[Tensor, "B C h w"],
        t: Int[Tensor, " B"],
        eps: Float[Tensor, "B C h w"],
        views: Views | None = None,
    ) -> None:
        self.prior, self.x0, self.t, self.eps, self.views = prior, x0, t, eps, views
        self.alpha, self.sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        self.x_t = prior.schedule.add_noise(x0, t, eps)
        self._memo: dict[tuple[Condition, Switch | None], Tensor] = {}

    def on(self, x0: Float[Tensor, "B C h w"]) -> "Noised":
        """The same t, eps and views on another clean sample."""
        return Noised(self.prior, x0.detach(), self.t, self.eps, self.views)

    def at(self, t: Int[Tensor, " B"]) -> "Noised":
        """The same clean sample, eps and views at another t."""
        return Noised(self.prior, self.x0, t, self.eps, self.views)

    def predict(self, condition: Condition, adapter: Switch | None = None) -> Float[Tensor, "B C h w"]:
        """The noise predicted for a condition; frozen without an adapter, with gradient into the adapter otherwise."""
        self.prefetch([condition], adapter)
        return self._memo[condition, adapter]

    def prefetch(self, conditions: Sequence[Condition], adapter: Switch | None = None) -> None:
        """Predict all of these conditions in one network call, unless they are known already."""
        missing = [c for c in dict.fromkeys(conditions) if (c, adapter) not in self._memo]
        if not missing:
            return
        with torch.set_grad_enabled(adapter is not None and torch.is_grad_enabled()):
            predictions = self.prior.predict(self, missing, adapter)
        for condition, prediction in zip(missing, predictions, strict=True):
            self._memo[condition, adapter] = prediction

    def forget(self, adapter: Switch) -> None:
        """Drop the predictions of an adapter whose parameters have changed."""
        self._memo = {key: value for key, value in self._memo.items() if key[1] is not adapter}

    def to_x0(self, eps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """The clean sample that a noise prediction at this draw stands for."""
        return self.prior.schedule.eps_to_x0(eps, self.x_t, self.t)
