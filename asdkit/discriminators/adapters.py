"""Adapters: where the discriminator's parameters phi live."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from asdkit.core.parts import require
from asdkit.discriminators.base import Adapter
from asdkit.rendering.cameras import Views
from asdkit.scores.camera_embedding import CameraEmbedding
from asdkit.scores.prior import Prior


class _Attached(Adapter):
    """What adapters share: the camera's network, weights that may arrive before there is a prior to attach to, and
    whether they adapt the prior itself or another model, whose frozen weights are in no checkpoint.
    """

    def __init__(self, camera: bool, init_seed: int = 0, prior: Prior | None = None) -> None:
        super().__init__()
        self.init_seed = init_seed
        self._other = [] if prior is None else [prior]  # in a list, so that it is no submodule
        self.weights = nn.ParameterDict()
        self.camera: CameraEmbedding | None = None
        self._use_camera = camera
        self._prior: list[Prior] = []  # in a list, so that it is no submodule
        self._waiting: dict[str, torch.Tensor] = {}

    @abstractmethod
    def attach(self, prior: Prior) -> None:
        """Make `weights` (dots in their names written as slashes), such that the prediction does not change."""

    @abstractmethod
    def within(self, prior: Prior) -> AbstractContextManager:
        """A context in which the prior predicts with `weights`."""

    def setup(self, prior: Prior) -> None:
        if self._prior:
            return
        for other in self._other:
            _require_alike(prior, other)
            other.view_prompts = prior.view_prompts
        prior = self.model(prior)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.init_seed)
            self.attach(prior)
            if self._use_camera and prior.time_width:
                self.camera = CameraEmbedding(prior.time_width)
        self._prior = [prior]
        if self._waiting:
            self.load_state_dict(self._waiting)
            self._waiting = {}

    def model(self, prior: Prior) -> Prior:
        return self._other[0] if self._other else prior

    def _apply(self, function: Any, recurse: bool = True) -> "_Attached":
        """The other model moves with the adapter."""
        super()._apply(function, recurse)
        for other in self._other:
            other._apply(function, recurse)
        return self

    @contextmanager
    def switched_on(self, views: Views | None, copies: int) -> Iterator[None]:
        prior = self._prior[0]
        offset = None if self.camera is None or views is None else self.camera(views).repeat(copies, 1)
        with self.within(prior), prior.offset_time(offset):
            yield

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Weights that arrive before `setup` wait for it; a checkpoint is loaded without its prior."""
        if not self._prior:
            mine = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
            self._waiting = {key.removeprefix(prefix): value.clone() for key, value in mine.items()}
        super()._load_from_state_dict(state_dict, prefix, *args)


def _require_alike(prior: Prior, other: Prior) -> None:
    """Another model answers for the same x_t only if x0 and noise levels are the same."""
    mine, its = prior.schedule.alphas, other.schedule.alphas
    require(
        mine.shape == its.shape and bool(torch.allclose(mine, its, atol=1e-4)) and prior.channels == other.channels,
        "The model that phi adapts must have the prior's own latents and noise levels; choose one of the same family, "
        "such as Stable Diffusion 2.1 beside 2.1-base.",
    )


class LoRA(_Attached):
    """Low-rank adapters on layers of the prior's network, through peft.

    They start at exactly zero, so that e_phi = e_y at step 0. Switching them is a flag on a kept list of layers. Their
    weights are in single precision, whatever the network computes in.

    Args:
        rank: of the updates; the paper's code uses 4.
        alpha: scale of the updates times rank; alpha = rank (the default when 0) means a scale of 1.
        targets: endings of the layer names that get an update; the attention of the model's family when left out.
        camera: condition e_phi on the camera, by a zero-initialised offset of the time embedding.
        init_seed: of the random half of each update.
        prior: another model that phi adapts (in the paper's code Stable Diffusion 2.1, which predicts v, beside
            2.1-base as prior); the prior itself when left out. e_phi then starts as that model's own prediction.

    Raises:
        ValueError: a rank below 1, or no layer of the network has such a name (in `setup`).
    """

    def __init__(
        self,
        rank: int = 4,
        alpha: float = 0.0,
        targets: Sequence[str] = (),
        camera: bool = True,
        init_seed: int = 0,
        prior: Prior | None = None,
    ) -> None:
        super().__init__(camera, init_seed, prior)
        if rank < 1:
            raise ValueError(f"The LoRA rank must be at least 1; got {rank}.")
        self.rank, self.alpha, self.targets = rank, alpha or float(rank), tuple(targets)
        self._layers: list[nn.Module] = []

    def attach(self, prior: Prior) -> None:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        network = prior.network
        keys = [key for key, _ in network.named_parameters()]
        name = f"phi{len({key.split('.lora_A.')[1] for key in keys if '.lora_A.' in key})}"
        targets = list(self.targets or prior.adapter_targets)
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=targets, lora_dropout=0.0)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*multiple adapters in the model.*")
                inject_adapter_in_model(config, network, adapter_name=name)
        except ValueError as error:
            names = ", ".join(targets)
            raise ValueError(f"The prior's network has no layer named {names}; set targets.") from error
        self._layers = [layer for layer in network.modules() if isinstance(layer, LoraLayer)]
        self._name = name
        for key, parameter in network.named_parameters():
            if f".{name}." in key:
                parameter.data = parameter.data.float()
                self.weights[key.replace(".", "/")] = parameter.requires_grad_(True)
        self._set(disabled=True)

    @contextmanager
    def within(self, prior: Prior) -> Iterator[None]:
        self._set(disabled=False)
        try:
            yield
        finally:
            self._set(disabled=True)

    def _set(self, disabled: bool) -> None:
        for layer in self._layers:
            layer.__dict__["_disable_adapters"] = disabled
            layer.__dict__["_active_adapter"] = [self._name]


class Embedding(_Attached):
    """Textual inversion: phi is an offset of the prompt's embedding, zero at first, so that e_phi = e_y at step 0.

    Args:
        tokens: how many tokens it moves, from the first word on; 0 for the whole sequence.
        camera: condition e_phi on the camera, by a zero-initialised offset of the time embedding.
        prior: another model that phi adapts; the prior itself when left out.

    Raises:
        ValueError: a negative number of tokens, or a prior without an embedding to move (in `setup`).
    """

    def __init__(self, tokens: int = 0, camera: bool = True, prior: Prior | None = None) -> None:
        super().__init__(camera, prior=prior)
        if tokens < 0:
            raise ValueError(f"Embedding's tokens can't be negative; got {tokens}.")
        self.tokens = tokens

    def attach(self, prior: Prior) -> None:
        shape = prior.condition_shape
        if not shape:
            raise ValueError(f"{type(prior).__name__} has no embedding of prompts that could be learned; use a LoRA.")
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


class UNetCopy(_Attached):
    """phi is a whole copy of the prior's network: as free as a discriminator can be, and as large.

    Args:
        camera: condition e_phi on the camera, by a zero-initialised offset of the time embedding.

    Raises:
        ValueError: the prior's network has no parameters (in `setup`).
    """

    def __init__(self, camera: bool = True) -> None:
        super().__init__(camera)
        self._network: list[nn.Module] = []

    def attach(self, prior: Prior) -> None:
        network = prior.copy_network().requires_grad_(True)
        for key, parameter in network.named_parameters():
            if ".lora_" not in key:  # of another discriminator; it is off in the copy
                self.weights[key.replace(".", "/")] = parameter
        if not self.weights:
            raise ValueError(f"The network of {type(prior).__name__} has no parameters that a copy could learn.")
        self._network = [network]

    def _apply(self, function: Any, recurse: bool = True) -> "UNetCopy":
        """The copy's buffers move with its parameters."""
        super()._apply(function, recurse)
        for network in self._network:
            network._apply(function, recurse)
        return self

    def within(self, prior: Prior) -> AbstractContextManager:
        return prior.swapped(self._network[0])
