"""The frozen diffusion model that pulls (`Prior`), what it is asked (`Condition`), a noisy draw of it (`Noised`)."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.profiler import record_function

from asdkit.core.contexts import replaced
from asdkit.core.parts import Part, require
from asdkit.core.randomness import to_device
from asdkit.rendering.cameras import Posed, Views
from asdkit.rendering.view_words import ViewWords
from asdkit.scores.schedules import Latent, Schedule, Times

_log = logging.getLogger(__name__)
Key = TypeVar("Key")
Words = Literal["nearest", "blended", "front", "side"]


@dataclass(frozen=True)
class Condition:
    """What a prior is conditioned on: a prompt, with or without words for the view.

    Args:
        text: the prompt without view words; empty for the null condition.
        view_dependent: whether the view's words (and its camera, where the prior takes one) are added.
        words: `nearest` is the nearest direction's, `blended` the embedding between those of the two directions on
            either side of the camera. `front`, and `side` for the camera's own side, leave the camera itself out.
    """

    text: str
    view_dependent: bool = True
    words: Words = "nearest"

    @property
    def sees_camera(self) -> bool:
        """Whether the camera itself belongs to the condition."""
        return self.view_dependent and self.words in ("nearest", "blended")


NULL = Condition("", view_dependent=False)
Need = Condition | tuple["Noised", Condition]  # what is predicted for, at the draw at hand or at another of its prior
Samples = slice | Tensor  # some samples of a draw: all of them, or their numbers
Own = Mapping[str, Sequence[str]]  # of a text, what each sample of a draw has in its place


class Adapter(Part, nn.Module, ABC):
    """Changes a prior's network for e_phi, not for e_y; it holds the discriminator's parameters phi."""

    @abstractmethod
    def setup(self, prior: "Prior") -> None:
        """Attach to the prior's network, such that the adapted prediction starts exactly at the prior's own."""

    @abstractmethod
    def switched_on(self, views: Views | None, copies: int) -> AbstractContextManager[None]:
        """A context in which the prior predicts e_phi, for `copies` conditions of these views."""

    def check_weights(self) -> None:
        """Called when everything is on its device: a ValueError if the network computes with other weights than phi."""

    def model(self, prior: "Prior") -> "Prior":
        """The prior whose network is adapted: this one, or another of the same x0 and noise levels."""
        return prior

    def network(self, prior: "Prior") -> nn.Module:
        """The network that predicts e_phi, after `setup`."""
        return self.model(prior).network


class Prior(Part, nn.Module, ABC):
    """A frozen score model. `setup` loads its weights, never the constructor."""

    schedule: Schedule  # after `setup`
    network: nn.Module  # the denoising network, to which adapters attach; after `setup`
    view_words: ViewWords | None = None  # the words for the directions that it knows
    view_prompts: Mapping[str, Mapping[str, str]] = {}  # for a prompt, those that replace it in some directions
    time_width: int = 0  # the size of the network's time embedding, which cameras offset; 0 if it has none
    condition_shape: tuple[int, ...] = ()  # of one embedded prompt, which textual inversion moves; empty for none
    channels: int = 0  # of x0; 0 for any number
    # endings of the names of the layers that a LoRA adapts
    adapter_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    sharded: bool = False  # whether the network is spread over ranks, which must all call it equally often
    # makes all ranks follow the first, in decisions that each would take by its own machine; a run sets it
    agreed: Callable[[bool], bool] = bool
    _condition_offset: Tensor | None = None

    @abstractmethod
    def setup(self) -> None:
        """Load the weights. Called once, before anything else; a second call does nothing."""

    @abstractmethod
    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Latent:
        """Images in [0,1] to x0, with gradient."""

    @abstractmethod
    def decode(self, x0: Latent) -> Float[Tensor, "B 3 H W"]:
        """x0 to images in [0,1], for looking at."""

    def take_prompt(self, prompt: str, views: Mapping[str, str] | None = None) -> None:
        """The run's prompt, and prompts in its place in some directions; a ValueError of one that it doesn't know."""
        if warning := self.doubt(prompt):
            _log.warning(warning)
        known, views = self.view_words.names if self.view_words else (), views or {}
        if unknown := [name for name in views if name not in known]:
            names = f"it knows {', '.join(known)}" if known else "it knows none"
            raise ValueError(f"The prior doesn't know the direction {unknown[0]!r} of view_prompts; {names}.")
        self.view_prompts = {**self.view_prompts, prompt: dict(views)}

    @abstractmethod
    def prepare(self, conditions: Sequence[Condition]) -> None:
        """Embed prompts once, for all views, and free the text encoder."""

    @abstractmethod
    def predict(self, x: "Noised", conditions: Sequence[Condition], adapter: Adapter | None = None) -> list[Latent]:
        """Noise predictions for each condition, which `x.by_own` tells for each sample, in ONE batched network call."""

    def predict_all(self, asked: Mapping["Noised", Sequence[Condition]]) -> list[Latent]:
        """Frozen predictions at several draws, one draw after the other; in one network call if the prior can do so."""
        return [eps for x, conditions in asked.items() for eps in self.predict(x, conditions)]

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """A vector for each text, by which generators are told their prompts; a ValueError where there is none."""
        raise ValueError(f"{type(self).__name__} has no embedding of prompts that a generator could be told.")

    def write_with(self, network: nn.Module, folder: Path) -> None:
        """Write the model's folder with another network in the place of its own; a ValueError where it has none."""
        raise ValueError(f"A {type(self).__name__} is in no model's folder that could be written again.")

    def copy_network(self) -> nn.Module:
        """A copy of the network that can take its place in `swapped`."""
        return copy.deepcopy(self.network)

    def in_step(self) -> AbstractContextManager[None]:
        """A context of one training step, whose shapes come again: what is worth compiling."""
        return nullcontext()

    def swapped(self, network: nn.Module) -> AbstractContextManager[None]:
        """Predict with another network within this context."""
        return replaced(self, "network", network)

    def offset_time(self, offset: Float[Tensor, "N width"] | None) -> AbstractContextManager[None]:
        """Add to the time embedding of each row within this context; contexts add up."""
        require(offset is None, f"{type(self).__name__} has no time embedding.")
        return nullcontext()

    def offset_condition(self, offset: Float[Tensor, "..."]) -> AbstractContextManager[None]:
        """Add to every embedded prompt within this context, a tensor of `condition_shape`."""
        return replaced(self, "_condition_offset", offset)

    def moved(self, conditions: Float[Tensor, "N ..."]) -> Float[Tensor, "N ..."]:
        """Embedded prompts, a row for each sample, with the offset of the context."""
        return conditions if self._condition_offset is None else conditions + self._condition_offset

    def doubt(self, prompt: str) -> str:
        """A sentence that names the words of a prompt that this prior has never seen; empty if it doesn't say."""
        return ""

    @property
    @abstractmethod
    def digest(self) -> str:
        """A short fingerprint of the weights; it stands beside every metric."""

    @property
    def models(self) -> "list[Prior]":
        """This prior and the other models that are asked beside it, each once; all of them share the list."""
        models: list[Prior] = self.__dict__.setdefault("_models", [self])
        return models

    def beside(self, other: "Prior") -> "Prior":
        """Another model that is asked for the same x0: the one of this name and these weights that is here already, so
        that none is in memory twice, or itself from now on. It hears of this one's prompts for single views.
        """
        for model in self.models:
            if model is other or (model.spec == other.spec and model.digest == other.digest):
                return model
        other.__dict__["_models"] = self.models
        self.models.append(other)
        other.view_prompts, other.agreed = self.view_prompts, self.agreed
        return other

    def draw(self, x0: Latent, t: Times, eps: Latent, views: Views | None = None, **facts: Any) -> "Noised":
        """One noisy draw of x0; gradients do not flow into x0. `facts` are Noised's further arguments."""
        return Noised(self, x0.detach(), t, eps, views, **facts)


@dataclass(eq=False, repr=False)
class Noised:
    """One draw: (x0, t, eps) and x_t = alpha_t x0 + sigma_t eps, the latter in double precision (see `schedules`).

    Predictions are memoised per (condition, adapter), so that steps that share the draw share its network calls.
    `prompts` say of a condition's text what each sample has in its place; so fields, memo and adapters know one
    condition, whatever its samples' own are.
    """

    prior: Prior
    x0: Latent  # the clean sample, without gradient
    t: Times  # on any device
    eps: Latent
    views: Views | None = None
    step: int = 0  # the iteration, for numbers that move with it
    source: Latent | None = None  # the clean sample of the source image
    random: torch.Generator | None = None  # what fields take further random numbers from; torch's global one when None
    prompts: Own = field(default_factory=dict)
    references: Posed | None = None  # posed pictures of what the generator makes

    def __post_init__(self) -> None:
        for texts in self.prompts.values():
            require(len(texts) == len(self.t), f"There are {len(self.t)} samples, and {len(texts)} prompts for them.")
        self.drawn_t, self.t = self.t, to_device(self.t, self.x0.device)  # where it was drawn, and where it is used
        self.alpha, self.sigma = self.prior.schedule.alpha(self.t), self.prior.schedule.sigma(self.t)
        self.x_t = self.prior.schedule.add_noise(self.x0, self.t, self.eps)
        self._memo: dict[tuple[Condition, Adapter | None], Tensor] = {}
        self._derived: dict[Hashable, Noised] = {}

    def like(self, x0: Tensor, t: Tensor, eps: Tensor, views: Views | None = None) -> "Noised":
        """Another draw of the same prior, step and source; of the same views where none are given."""
        return replace(self, x0=x0, t=t, eps=eps, views=self.views if views is None else views)

    def some(self, rows: Int[Tensor, " R"], x0: Float[Tensor, "R C h w"], views: Views | None) -> "Noised":
        """Other clean samples and views at the t, eps and prompts of some samples; the numbers are on the CPU."""
        prompts = {text: [own[i] for i in rows.tolist()] for text, own in self.prompts.items()}
        t, eps = self.drawn_t[rows], self.eps[to_device(rows, self.eps.device)]
        return replace(self, x0=x0.detach(), t=t, eps=eps, views=views, source=None, prompts=prompts, references=None)

    def on(self, x0: Latent) -> "Noised":
        """The same t, eps and views on another clean sample."""
        return self.like(x0.detach(), self.drawn_t, self.eps)

    def at(self, t: Times) -> "Noised":
        """The same clean sample, eps and views at another t."""
        return self.like(self.x0, t, self.eps)

    def on_source(self) -> "Noised":
        """The same t and eps on the source image; a ValueError where there is none."""
        source = self.source
        if source is None:
            advice = "give an image with --data.image FILE, or in 3D an object with --asset RUN|FILE"
            raise ValueError(f"This method compares with a source, and there is none; {advice}.")
        return self.derived("source", lambda: self.on(source))

    def derived(self, key: Hashable, make: Callable[[], "Noised"]) -> "Noised":
        """A draw that belongs to this one, made once, so that every field that means it shares its predictions."""
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

    def own(self, condition: Condition) -> list[Condition]:
        """What a condition stands for at this draw: itself, or the different ones of the samples."""
        texts = self.prompts.get(condition.text)
        return [condition] if texts is None else [replace(condition, text=text) for text in dict.fromkeys(texts)]

    def by_own(
        self, condition: Condition, rows_of: Callable[[Condition, Samples], Mapping[Key, Tensor]]
    ) -> dict[Key, Tensor]:
        """Tensors with a row for each sample, put together from `rows_of` each condition that this one is."""
        if (texts := self.prompts.get(condition.text)) is None:
            return dict(rows_of(condition, slice(None)))
        samples = [torch.tensor([i for i, t in enumerate(texts) if t == own.text]) for own in self.own(condition)]
        parts = [rows_of(own, rows) for own, rows in zip(self.own(condition), samples, strict=True)]
        order = torch.cat(samples).argsort()
        return {key: torch.cat([part[key] for part in parts])[order] for key in parts[0]}

    def rand(self, *shape: int) -> Float[Tensor, "..."]:
        """Further uniform numbers of this draw, on its device."""
        return to_device(torch.rand(shape, generator=self.random), self.eps.device).to(self.eps)

    def randn(self, *shape: int) -> Float[Tensor, "..."]:
        """Further normal numbers of this draw, on its device."""
        return to_device(torch.randn(shape, generator=self.random), self.eps.device).to(self.eps)

    def predict(self, condition: Condition, adapter: Adapter | None = None) -> Latent:
        """The noise predicted for a condition; frozen without an adapter, with gradient into the adapter otherwise."""
        self.prefetch([condition], adapter)
        return self._memo[condition, adapter]

    def knows(self, condition: Condition, adapter: Adapter | None = None) -> bool:
        """Whether `predict` needs no network call."""
        return (condition, adapter) in self._memo

    def prefetch(self, needs: "Sequence[Need]", adapter: Adapter | None = None) -> None:
        """Predict all of these in one network call, unless they are known already; with an adapter at this draw."""
        asked: dict[Noised, list[Condition]] = {}
        for x, condition in dict.fromkeys(need if isinstance(need, tuple) else (self, need) for need in needs):
            if not x.knows(condition, adapter):
                asked.setdefault(x, []).append(condition)
        if not asked:
            return
        learns = adapter is not None and torch.is_grad_enabled()
        with torch.set_grad_enabled(learns), record_function(f"asdkit.{'prior' if adapter is None else 'e_phi'}"):
            model = self.prior if adapter is None else adapter.model(self.prior)
            (first, *others) = asked.items()
            predictions = model.predict_all(asked) if others else model.predict(*first, adapter)
        known = [(x, condition) for x, conditions in asked.items() for condition in conditions]
        for (x, condition), prediction in zip(known, predictions, strict=True):
            x._memo[condition, adapter] = prediction

    def forget(self, adapter: Adapter) -> None:
        """Drop the predictions of an adapter whose parameters have changed."""
        self._memo = {key: value for key, value in self._memo.items() if key[1] is not adapter}
        for derived in self._derived.values():
            derived.forget(adapter)

    def to_x0(self, eps: Latent) -> Latent:
        """The clean sample that a noise prediction at this draw stands for."""
        return self.prior.schedule.eps_to_x0(eps, self.x_t, self.t)
