"""The noise schedule that a model's folder tells by its scheduler's class and settings."""

import inspect
from typing import Any

import torch

from asdkit.core.errors import PriorUnavailable
from asdkit.core.text import first_line
from asdkit.scores.schedules import Schedule, rectified_flow, variance_preserving

MOST_STEPS = 100_000


def noise_levels(scheduler: dict[str, Any], tokens: int, model: str = "the model") -> Schedule:
    """The schedule that a network was trained on, from the `scheduler_config.json` that it is sampled with.

    Some flows are shifted by the `tokens` of an image; `model` is what messages call it.
    """
    import diffusers

    name = str(scheduler.get("_class_name"))
    steps = scheduler.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise PriorUnavailable(f"{model}'s scheduler has {steps!r} steps of noise; asdkit takes 1 to {MOST_STEPS}.")
    kind = getattr(diffusers, name if name != "DPMSolverSDEScheduler" else "DDPMScheduler", None)  # that needs torchsde
    try:
        if not isinstance(kind, type) or not issubclass(kind, diffusers.SchedulerMixin):
            raise _Unfit("which diffusers doesn't have")
        return _of_class(kind, scheduler, tokens)
    except _Unfit as error:
        reason = str(error)
    except Exception as error:  # of settings that a class doesn't take, or that make no levels
        reason = f"which can't be made of its settings ({first_line(error)})"
    raise PriorUnavailable(
        f"{model}'s scheduler is {name}, {reason}; asdkit takes variance-preserving schedules of discrete steps, "
        "such as DDPMScheduler, and flows, such as FlowMatchEulerDiscreteScheduler."
    )


class _Unfit(Exception):
    """Why a scheduler has no noise levels for asdkit."""


def _of_class(kind: Any, scheduler: dict[str, Any], tokens: int) -> Schedule:
    prediction = scheduler.get("prediction_type", "epsilon")
    if kind.__name__.startswith("FlowMatch"):
        if scheduler.get("invert_sigmas"):
            raise _Unfit("with inverted sigmas")
        return _flow(scheduler, tokens)
    made = kind.from_config(scheduler)
    if "flow_shift" in inspect.signature(kind).parameters and made.config.use_flow_sigmas:
        if prediction != "flow_prediction":
            raise _Unfit(f"with flow sigmas and the prediction {prediction!r}")
        return _flow(scheduler | {"shift": made.config.flow_shift}, tokens)
    levels, steps = getattr(made, "alphas_cumprod", None), made.config.num_train_timesteps
    if levels is None or scheduler.get("timestep_type", "discrete") != "discrete":
        raise _Unfit("whose noise levels are continuous or not variance-preserving")
    if levels.shape != (steps,) or not levels.isfinite().all():
        raise _Unfit(f"whose noise levels are not {steps} numbers")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise _Unfit(f"with the prediction {prediction!r}")
    return variance_preserving(levels, prediction)


def _flow(scheduler: dict[str, Any], tokens: int) -> Schedule:
    """A flow's sigmas, shifted as its settings say, by tokens as diffusers' pipelines do it."""
    from diffusers import FlowMatchEulerDiscreteScheduler as Flow
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    flow = Flow.from_config({name: scheduler[name] for name in scheduler.keys() & inspect.signature(Flow).parameters})
    sigmas = flow.sigmas.flip(0).double()
    if flow.config.use_dynamic_shifting:
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        mu = calculate_shift(tokens, *(flow.config[name] for name in names))
        sigmas = torch.as_tensor(flow.time_shift(mu, 1.0, sigmas))
    return rectified_flow(sigmas, flow.config.num_train_timesteps)
