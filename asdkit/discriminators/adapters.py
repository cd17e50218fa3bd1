"""Adapters: where the discriminator's parameters phi live: in peft's layers, in an embedding, or in a whole copy."""

import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from asdkit.core.bounds import Count, Weight, Whole
from asdkit.core.parts import require
from asdkit.core.randomness import seeded
from asdkit.core.text import first_line
from asdkit.core.unregistered import keep_unregistered
from asdkit.rendering.cameras import Views
from asdkit.scores.camera_embedding import CameraEmbedding
from asdkit.scores.prior import Adapter, Prior

_KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # what peft calls otherwise, or has no default for
    "DORA": ("LORA", {"use_dora": True}),
    "KRONA": ("LOKR", {}),
    "IA3": ("IA3", {"feedforward_modules": []}),
}


class Attached(Adapter):
    """What adapters share: the camera's network, weights that may arrive before `setup`, and the model they adapt."""

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
            fault = f"the network no longer computes with the {type(self).__name__}'s weights"
            reason = "so that phi would never learn: moving the module has replaced its parameters"
            advice = "call torch.__future__.set_swap_module_params_on_conversion(True) before"
            require(computes_with is weight, f"On {weight.device} {fault}, {reason}; {advice}.")

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
    rule = "The model that the discriminator adapts must have the prior's own latents and noise levels"
    advice = "choose one of the same family, such as Stable Diffusion 2.1 beside 2.1-base"
    require(same_levels and prior.channels == other.channels, f"{rule}; {advice}.")


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
        super()._apply(function, recurse)
        self._network._apply(function, recurse)  # its buffers, too
        return self

    def network(self, prior: Prior) -> nn.Module:
        return self._network

    def within(self, prior: Prior) -> AbstractContextManager[None]:
        return prior.swapped(self._network)


def adapter_of(key: str) -> str:
    """The name of the adapter that a parameter of a network belongs to; empty for the network's own."""
    return next((part for part in key.split(".") if re.fullmatch(r"phi\d+", part)), "")


class PeftAdapter(Attached):
    """Takes any kind of fine-tuning from the package peft as phi, e.g. DoRA, LoHa, LoKr (KronA), IA3, OFT, BOFT or HRA.

    e_phi starts at e_y: exactly, or to 1e-5 where a kind rounds, as HRA does. `setup` refuses kinds that can't start
    there, that change the network's own weights (PiSSA) or that share weights between layers (VeRA). The weights are in
    single precision, whatever the network computes in. Switching them is a flag on a kept list.

    Args:
        kind: peft's name of the kind, in small or capital letters.
        options: options of peft's configuration of that kind, e.g. {r: 8, alpha: 8}; the others keep peft's defaults.
            Dropout is refused, because e_phi is asked more than once at a draw.
        targets: endings of the names of the layers that are adapted; the family's attention layers when left out.
        camera: whether e_phi also knows the camera, by a zero-initialised offset of the time embedding.
        init_seed: the seed of random initial weights.
        prior: another model that is adapted in place of the prior; the prior itself when left out.

    Raises:
        ValueError: a kind that can't be phi, or options that peft refuses (in `setup`).
    """

    def __init__(
        self,
        kind: str = "LoHa",
        options: dict[str, bool | int | float | str | list[str]] | None = None,
        targets: Sequence[str] = (),
        camera: bool = True,
        init_seed: int = 0,
        prior: Prior | None = None,
    ) -> None:
        super().__init__(camera, init_seed, prior)
        self.kind, self.options, self.targets = kind, options or {}, tuple(targets)
        self._layers: list[Any] = []
        dropped = [name for name, value in self.options.items() if "dropout" in name and value]
        require(not dropped, f"phi can't have {', '.join(dropped)}: its predictions must be the same when asked again.")

    def attach(self, prior: Prior) -> None:
        network, targets = prior.network, list(self.targets or prior.adapter_targets)
        if not any(f".{name}".endswith(f".{target}") for name, _ in network.named_modules() for target in targets):
            raise ValueError(f"The prior's network has no layer named {', '.join(targets)}; set targets.")
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        intact = [(parameter, _sample(parameter)) for parameter in network.parameters()]
        try:
            self._inject(network, targets)
            shift = max(self._shift(layer) for layer in self._layers)
        except Exception as error:  # peft's, of many kinds
            raise ValueError(f"{self.kind} can't be phi of this network: {first_line(error)}.") from error
        same = all(torch.equal(_sample(parameter), before) for parameter, before in intact)
        require(same, f"{self.kind} with these options changes the prior's own weights, and so e_y; take others.")
        rounding = max(1e-5, 4 * torch.finfo(next(network.parameters()).dtype).eps)
        require(shift <= rounding, f"{self.kind} does not start at e_y; its options in peft, e.g. init_weights, may.")
        for parameter in learning:  # of other adapters, which peft has frozen
            parameter.requires_grad_(True)

    def _inject(self, network: nn.Module, targets: list[str]) -> None:
        from peft import inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        self._name = name = f"phi{len({adapter_of(key) for key, _ in network.named_parameters()} - {''})}"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*multiple adapters in the model.*")
            inject_adapter_in_model(self.config(targets), network, adapter_name=name)
        layers = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
        self._layers = [layer for layer in layers if any(name in getattr(layer, k) for k in layer.adapter_layer_names)]
        for layer in self._layers:
            layer.eval()  # else LoHa and its like ask torch's global generator whether to leave themselves out
        for key, parameter in network.named_parameters():
            if adapter_of(key) == name and parameter.requires_grad:
                parameter.data = parameter.data.float()
                self.weights[key.replace(".", "/")] = parameter
        self._switch(on=False)

    @torch.no_grad()
    def _shift(self, layer: Any) -> float:
        """How far the weights, as they are, move the output of one of the layers, as a share of it."""
        weight, groups = layer.get_base_layer().weight, getattr(layer.get_base_layer(), "groups", 1)
        shape = 1, weight.shape[1] * groups, *(side + 2 for side in weight.shape[2:])  # several patches, which overlap
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight)
        off = layer(x)
        self._switch(on=True)
        moved = (layer(x) - off).abs().max()
        self._switch(on=False)
        return float(moved / off.abs().max()) if moved != 0 else 0.0

    @contextmanager
    def within(self, prior: Prior) -> Iterator[None]:
        self._switch(on=True)
        try:
            yield
        finally:
            self._switch(on=False)

    def _switch(self, on: bool) -> None:
        """Let the layers add this adapter's updates, or none: by the attributes behind peft's read-only ones."""
        # Its public switches change `requires_grad` as well, and autograd drops the gradient of a weight that is
        # frozen when the backward pass comes.
        for layer in self._layers:
            vars(layer).update(_disable_adapters=not on, _active_adapter=[self._name])

    def config(self, targets: list[str]) -> Any:
        """peft's configuration for the layers whose names end in these."""
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING

        configs: dict[Any, Any] = PEFT_TYPE_TO_CONFIG_MAPPING
        kind, defaults = _KINDS.get(self.kind.upper(), (self.kind.upper(), {}))
        require(kind in configs, f"there is no such kind; there are {', '.join(sorted({*configs, *_KINDS}))}")
        known = {field.name for field in fields(configs[kind])}
        unknown = sorted(self.options.keys() - known)
        require(not unknown, f"it has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return configs[kind](target_modules=targets, **defaults | self.options)


class LoRA(PeftAdapter):
    """Low-rank adapters on layers of the prior's network, through peft: the default place of phi.

    They start at exactly zero, so that e_phi = e_y at step 0.

    Args:
        rank: the rank of the updates. A higher one can learn more and costs more; the paper's code uses 4.
        alpha: the scale of the updates times the rank. 0, the default, means alpha = rank, which is a scale of 1.
        targets: endings of the names of the layers that get an update; the family's attention layers when left out.
        camera: whether e_phi also knows the camera, by a zero-initialised offset of the time embedding.
        init_seed: the seed of the random half of each update.
        prior: another model that is adapted; the prior itself when left out. The paper's code adapts Stable Diffusion
            2.1, which predicts v, beside 2.1-base as prior. e_phi then starts as the prediction of that other model.

    Raises:
        ValueError: no layer of the network has such a name (in `setup`).
    """

    def __init__(
        self,
        rank: Count = 4,
        alpha: Weight = 0.0,
        targets: Sequence[str] = (),
        camera: bool = True,
        init_seed: int = 0,
        prior: Prior | None = None,
    ) -> None:
        scale = {"r": rank, "lora_alpha": alpha or float(rank)}  # a float, which peft divides by r, though it says int
        super().__init__("LoRA", {**scale}, targets, camera, init_seed, prior)


def _sample(parameter: Tensor) -> Tensor:
    return parameter.detach().flatten()[:64].clone()
