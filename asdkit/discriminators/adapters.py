"""Adapters: where the discriminator's parameters phi live."""

import re
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asdkit.core.bounds import Whole
from asdkit.core.parts import require
from asdkit.core.randomness import seeded
from asdkit.core.unregistered import keep_unregistered
from asdkit.rendering.cameras import Views
from asdkit.scores.camera_embedding import CameraEmbedding
from asdkit.scores.prior import Adapter, Prior


class Attached(Adapter):
    """What adapters share: the camera's network, weights that may arrive before there is a prior to attach to, and
    whether they adapt the prior itself or another model, whose frozen weights are in no checkpoint.
    """

    _prior: Prior | None
    _other_prior: Prior | None

    def __init__(self, camera: bool, init_seed: int = 0, prior: Prior | None = None) -> None:
        super().__init__()
        self.init_seed = init_seed
        self.weights = nn.ParameterDict()
        self.camera: CameraEmbedding | None = None
        self._use_camera = camera
        self._early_state: dict[str, Tensor] = {}
        keep_unregistered(self, "_other_prior", prior)
        keep_unregistered(self, "_prior", None)

    @abstractmethod
    def attach(self, prior: Prior) -> None:
        """Make `weights` (dots in their names written as slashes), such that the prediction does not change."""

    @abstractmethod
    def within(self, prior: Prior) -> AbstractContextManager[None]:
        """A context in which the prior predicts with `weights`."""

    def setup(self, prior: Prior) -> None:
        if self._prior is not None:
            return
        if self._other_prior is not None:
            keep_unregistered(self, "_other_prior", self.model(prior))
            _require_alike(prior, self._other_prior)
        prior = self.model(prior)
        with seeded(self.init_seed):
            self.attach(prior)
            if self._use_camera and prior.time_width:
                self.camera = CameraEmbedding(prior.time_width)
        keep_unregistered(self, "_prior", prior)
        if self._early_state:
            self.load_state_dict(self._early_state)
            self._early_state = {}

    def model(self, prior: Prior) -> Prior:
        return prior if self._other_prior is None else prior.beside(self._other_prior)

    def check_weights(self) -> None:
        """On some devices moving a module replaces its parameters; those of phi are the network's, too."""
        assert self._prior is not None, "see setup"
        with self.within(self._prior):
            network = dict(self._prior.network.named_parameters())
        for name, weight in self.weights.items():
            computes_with = network.get(name.replace("/", "."), weight)  # an embedding's offset is in no network
            require(
                computes_with is weight,
                f"On {weight.device} the network no longer computes with the {type(self).__name__}'s weights, so that "
                "phi would never learn: moving the module has replaced its parameters; call "
                "torch.__future__.set_swap_module_params_on_conversion(True) before.",
            )

    def _apply(self, function: Any, recurse: bool = True) -> "Attached":
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        if self._other_prior is not None:
            self._other_prior._apply(function, recurse)  # type: ignore[no-untyped-call]
        return self

    @contextmanager
    def switched_on(self, views: Views | None, copies: int) -> Iterator[None]:
        if self._prior is None:
            raise ValueError(f"{type(self).__name__} is not attached to a prior; call setup(prior) first.")
        offset = None if self.camera is None or views is None else self.camera(views).repeat(copies, 1)
        with self.within(self._prior), self._prior.offset_time(offset):
            yield

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Weights that arrive before `setup` wait for it; a checkpoint is loaded without its prior."""
        if self._prior is None:
            own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
            self._early_state = {key: value.clone() for key, value in own.items()}
        super()._load_from_state_dict(state_dict, prefix, *args)


def _require_alike(prior: Prior, other: Prior) -> None:
    """Another model answers for the same x_t only if x0 and noise levels are the same."""
    alphas, other_alphas = prior.schedule.alphas, other.schedule.alphas
    same_levels = alphas.shape == other_alphas.shape and torch.allclose(alphas, other_alphas, atol=1e-4)
    require(
        same_levels and prior.channels == other.channels,
        "The model that the discriminator adapts must have the prior's own latents and noise levels; choose one of the "
        "same family, such as Stable Diffusion 2.1 beside 2.1-base.",
    )


class Embedding(Attached):
    """Textual inversion: phi is an offset of the prompt's embedding. It starts at zero, so e_phi = e_y at step 0.

    Args:
        tokens: the number of tokens that the offset moves, counted from the first word; 0 for the whole sequence.
        camera: whether e_phi also knows the camera, by a zero-initialised offset of the time embedding.
        prior: another model that is adapted in place of the prior; the prior itself when left out.

    Raises:
        ValueError: a prior without an embedding to move (in `setup`).
    """

    def __init__(self, tokens: Whole = 0, camera: bool = True, prior: Prior | None = None) -> None:
        super().__init__(camera, prior=prior)
        self.tokens = tokens

    def attach(self, prior: Prior) -> None:
        shape = prior.condition_shape
        require(bool(shape), f"{type(prior).__name__} has no embedding of prompts that could be learned; use a LoRA.")
        self._rows = slice(1, 1 + self.tokens) if self.tokens else slice(None)
        self._shape = shape
        self.weights["offset"] = nn.Parameter(torch.zeros(shape)[self._rows].clone())

    @contextmanager
    def within(self, prior: Prior) -> Iterator[None]:
        offset = self.weights["offset"]
        whole = offset.new_zeros(self._shape)
        whole[self._rows] = offset
        with prior.offset_condition(whole):
            yield


class UNetCopy(Attached):
    """phi is a whole copy of the prior's network. It can learn the most of all adapters, and takes the most memory.

    Args:
        camera: whether e_phi also knows the camera, by a zero-initialised offset of the time embedding.

    Raises:
        ValueError: the prior's network has no parameters (in `setup`).
    """

    _network: nn.Module

    def __init__(self, camera: bool = True) -> None:
        super().__init__(camera)
        keep_unregistered(self, "_network", nn.Module())

    def attach(self, prior: Prior) -> None:
        network = prior.copy_network().requires_grad_(True)
        for key, parameter in network.named_parameters():
            if not adapter_of(key):  # else of another discriminator; it is off in the copy
                self.weights[key.replace(".", "/")] = parameter
        require(bool(self.weights), f"The network of {type(prior).__name__} has no parameters that a copy could learn.")
        keep_unregistered(self, "_network", network)

    def _apply(self, function: Any, recurse: bool = True) -> "Attached":
        """The copy's buffers move with its parameters."""
        super()._apply(function, recurse)
        self._network._apply(function, recurse)
        return self

    def network(self, prior: Prior) -> nn.Module:
        """The copy."""
        return self._network

    def within(self, prior: Prior) -> AbstractContextManager[None]:
        return prior.swapped(self._network)


def adapter_of(key: str) -> str:
    """The name of the adapter that a parameter of a network belongs to; empty for the network's own."""
    return next((part for part in key.split(".") if re.fullmatch(r"phi\d+", part)), "")
