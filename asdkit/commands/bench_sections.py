"""The step of a run, taken apart for measuring: without Lightning, as the paper has it, and in sections."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from asdkit.distillation import Distillation

NEVER = 10**12
OTHER = "other"
LOGGING = "logging"
LEARNING = "discriminator loss"


@contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """An object has these attributes of its own within this context."""
    before = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in attributes:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)


# ------------------------------------------------------------------------------------------------ without Lightning


class Plain:
    """Steps of a module whose trainer has started, in a loop without Lightning: plain optimisers and backward passes.

    Args:
        module: what steps, as its trainer would from its present step on; the trainer does not count these steps.
        every: how often the steps log, to nowhere; as often as the trainer's when None.
    """

    def __init__(self, module: Distillation, every: int | None = None) -> None:
        self.module, self.trainer = module, module.trainer
        self.every = every or self.trainer.log_every_n_steps
        self.step, self.batches = self.trainer.global_step, iter(self.trainer.datamodule.train_dataloader())

    def run(self, count: int) -> None:
        """Take so many steps."""
        context = self.trainer.precision_plugin.train_step_context
        with self._alone() as stand_in:
            for _ in range(count):
                stand_in.global_step = self.step
                with context():
                    self.module.training_step(next(self.batches).to(self.module.device), self.step)
                self.step += 1

    @contextmanager
    def _alone(self) -> Iterator[SimpleNamespace]:
        """The module meets a stand-in for its trainer, which counts and does nothing else."""
        optimizers, clip = self.trainer.optimizers, torch.nn.utils.clip_grad_norm_
        stand_in = SimpleNamespace(
            global_step=0, global_rank=0, world_size=1, strategy=self.trainer.strategy, log_every_n_steps=self.every
        )
        hooks = [
            optimizer.register_step_pre_hook(lambda o, *_: self.module.on_before_optimizer_step(o))
            for optimizer in optimizers
        ]
        with replaced(
            self.module,
            _trainer=stand_in,
            optimizers=lambda: optimizers,
            manual_backward=lambda loss: loss.backward(),
            log_dict=lambda *_, **__: None,
            clip_gradients=lambda o, value, _: clip([p for g in o.param_groups for p in g["params"]], value),
        ):
            yield stand_in
        for hook in hooks:
            hook.remove()


# ------------------------------------------------------------------------------------------------ as the paper has it


@contextmanager
def paper_faithful(module: Distillation) -> Iterator[None]:
    """The discriminator learns on draws of its own, and each prediction is a call of the network of its own."""
    with ExitStack() as stack:
        for prior in module.priors:
            stack.enter_context(replaced(prior, predict=_one_at_a_time(prior.predict)))
        stack.enter_context(replaced(module, share_noise=False))
        yield


def _one_at_a_time(predict: Callable) -> Callable:
    return lambda x, conditions, adapter=None: [predict(x, [c], adapter)[0] for c in conditions]


@contextmanager
def counted(module: Distillation) -> Iterator[list[dict[str, Any]]]:
    """A list of the network calls within this context: how many predictions each makes, whose, and of what shape."""
    calls: list[dict[str, Any]] = []

    def counting(predict: Callable) -> Callable:
        def counts(x: Any, conditions: Any, adapter: Any = None) -> Any:
            learns = adapter is not None and torch.is_grad_enabled()
            facts = {"predictions": len(conditions), "adapted": adapter is not None, "with_gradient": learns}
            calls.append(facts | {"x0": list(x.x0.shape)})
            return predict(x, conditions, adapter)

        return counts

    with ExitStack() as stack:
        for prior in module.priors:
            stack.enter_context(replaced(prior, predict=counting(prior.predict)))
        yield calls


# ------------------------------------------------------------------------------------------------ in sections


def seconds(device: torch.device) -> Callable[[], float]:
    """A clock that waits for the device."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


class Sections:
    """What a meter counts, by sections that may lie within each other; each has what its inner ones have not.

    Args:
        meter: gives a number that grows: seconds, or operations.
    """

    def __init__(self, meter: Callable[[], float]) -> None:
        self.meter, self.totals = meter, defaultdict[str, float](float)
        self.open, self._last = [OTHER], meter()

    def close(self) -> dict[str, float]:
        """Count what is open until now; the totals of all sections."""
        now = self.meter()
        self.totals[self.open[-1]] += now - self._last
        self._last = now
        return dict(self.totals)

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """A section. Logging has none within: all that it calls is its own."""
        self.close()
        self.open.append(LOGGING if LOGGING in self.open else name)
        try:
            yield
        finally:
            self.close()
            self.open.pop()

    def around(self, function: Callable, name: str | Callable[..., str]) -> Callable:
        """The function as a section, whose name may depend on the arguments."""

        def within(*args: Any, **kwargs: Any) -> Any:
            with self.within(name if isinstance(name, str) else name(*args, **kwargs)):
                return function(*args, **kwargs)

        return within


@contextmanager
def apart(module: Distillation, sections: Sections) -> Iterator[None]:
    """The module's steps count by sections within this context."""

    def backward(*_: Any, **__: Any) -> str:
        return "discriminator backward" if LEARNING in sections.open else "render backward"

    def forward(x: Any, conditions: Any, adapter: Any = None) -> str:
        return "base forwards" if adapter is None else "discriminator forward"

    def descent(optimizer: Any, parts: int, counts: bool) -> str:
        return "generator optimiser" if counts else "discriminator optimiser"

    names: list[tuple[Any, dict[str, str | Callable[..., str]]]] = [
        (module.generator, {"render": "render", "after_step": "density control"}),
        (module, {"_learn": LEARNING, "_backward": backward, "_descend": descent, "_diagnostics": LOGGING}),
        *((prior, {"encode": "encode", "predict": forward}) for prior in module.priors),
        (torch.autograd, {"grad": "encode backward"}),
    ]
    with ExitStack() as stack:
        for owner, functions in names:
            wrapped = {name: sections.around(getattr(owner, name), label) for name, label in functions.items()}
            stack.enter_context(replaced(owner, **wrapped))
        yield
