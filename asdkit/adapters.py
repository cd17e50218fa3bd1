"""Adapters: where the discriminator's parameters phi live."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from asdkit.camera import CameraEmbedding
from asdkit.discriminator import Adapter
from asdkit.prior import Prior
from asdkit.views import Views


class LoRA(Adapter):
    """Low-rank adapters on the attention layers of the prior's network, through peft.

    They start at exactly zero, so that e_phi = e_y at step 0. Switching them is a flag on a kept list of layers.

    Args:
        rank: of the updates; the paper's code uses 4.
        alpha: scale of the updates times rank; alpha = rank (the default when 0) means a scale of 1.
        targets: endings of the layer names that get an update.
        camera: condition e_phi on the camera, by a zero-initialised offset of the time embedding.
        init_seed: of the random half of each update.

    Raises:
        ValueError: a rank below 1, or no layer of the network has such a name (in `setup`).
    """

    def __init__(
        self,
        rank: int = 4,
        alpha: float = 0.0,
        targets: Sequence[str] = ("to_q", "to_k", "to_v", "to_out.0"),
        camera: bool = True,
        init_seed: int = 0,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"The LoRA rank must be at least 1; got {rank}.")
        self.rank, self.alpha, self.targets, self.init_seed = rank, alpha or float(rank), tuple(targets), init_seed
        self.weights = nn.ParameterDict()
        self.camera: CameraEmbedding | None = None
        self._use_camera = camera
        self._layers: list[nn.Module] = []
        self._prior: list[Prior] = []
        self._waiting: dict[str, torch.Tensor] = {}

    def setup(self, prior: Prior) -> None:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        if self._layers:
            return
        network = prior.network
        keys = [key for key, _ in network.named_parameters()]
        name = f"phi{len({key.split('.lora_A.')[1] for key in keys if '.lora_A.' in key})}"
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=list(self.targets), lora_dropout=0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.init_seed)
            try:
                inject_adapter_in_model(config, network, adapter_name=name)
            except ValueError as error:
                names = ", ".join(self.targets)
                raise ValueError(f"The prior's network has no layer named {names}; set targets.") from error
            if self._use_camera:
                self.camera = CameraEmbedding(prior.time_width)
        self._layers = [layer for layer in network.modules() if isinstance(layer, LoraLayer)]
        self._prior = [prior]
        self._name = name
        for key, parameter in network.named_parameters():
            if f".{name}." in key:
                self.weights[key.replace(".", "/")] = parameter.requires_grad_(True)
        self._set(disabled=True)
        if self._waiting:
            self.load_state_dict(self._waiting)
            self._waiting = {}

    @contextmanager
    def switched_on(self, views: Views | None, copies: int) -> Iterator[None]:
        prior = self._prior[0]
        self._set(disabled=False)
        try:
            if self.camera is None or views is None:
                yield
            else:
                with prior.offset_time(self.camera(views).repeat(copies, 1)):
                    yield
        finally:
            self._set(disabled=True)

    def _set(self, disabled: bool) -> None:
        for layer in self._layers:
            layer.__dict__["_disable_adapters"] = disabled
            layer.__dict__["_active_adapter"] = [self._name]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Weights that arrive before `setup` wait for it; a checkpoint is loaded without its prior."""
        if not self._layers:
            mine = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
            self._waiting = {key.removeprefix(prefix): value.clone() for key, value in mine.items()}
        super()._load_from_state_dict(state_dict, prefix, *args)
