"""What differs between families of diffusion models: components, noise schedule, and how a network is called."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from asdkit.core.errors import PriorUnavailable
from asdkit.core.randomness import to_device
from asdkit.core.text import first_line
from asdkit.scores.schedules import Schedule, rectified_flow, variance_preserving

Model = Any  # one of diffusers or transformers, whose settings and parts have no types
Settings = Mapping[str, tuple[str | bool | None, ...]]
Embedded = dict[str, Tensor]  # of prompts, a row for each: `text` [N L D], and what else a family needs
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
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
        found = _of_class(kind, scheduler, tokens)
    except Exception as error:  # of settings that a class doesn't take, or that make no levels
        found = f"which can't be made of its settings ({first_line(error)})"
    if isinstance(found, Schedule):
        return found
    discrete = "variance-preserving schedules of discrete steps, such as DDPMScheduler"
    taken = f"{discrete}, and flows, such as FlowMatchEulerDiscreteScheduler"
    raise PriorUnavailable(f"{model}'s scheduler is {name}, {found}; asdkit takes {taken}.")


def _of_class(kind: Any, scheduler: dict[str, Any], tokens: int) -> Schedule | str:
    """The noise levels of a class with these settings, or why asdkit can't take them."""
    from diffusers import SchedulerMixin

    known = isinstance(kind, type) and issubclass(kind, SchedulerMixin)
    if not known:
        return "which diffusers doesn't have"
    prediction = scheduler.get("prediction_type", "epsilon")
    if kind.__name__.startswith("FlowMatch"):
        return "with inverted sigmas" if scheduler.get("invert_sigmas") else _flow(scheduler, tokens)
    made = kind.from_config(scheduler)
    if "flow_shift" in inspect.signature(kind).parameters and made.config.use_flow_sigmas:
        if prediction != "flow_prediction":
            return f"with flow sigmas and the prediction {prediction!r}"
        return _flow(scheduler | {"shift": made.config.flow_shift}, tokens)
    levels, steps = getattr(made, "alphas_cumprod", None), made.config.num_train_timesteps
    if levels is None or scheduler.get("timestep_type", "discrete") != "discrete":
        return "whose noise levels are continuous or not variance-preserving"
    if levels.shape != (steps,) or not levels.isfinite().all():
        return f"whose noise levels are not {steps} numbers"
    if prediction not in ("epsilon", "v_prediction", "sample"):
        return f"with the prediction {prediction!r}"
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


class Family(ABC):
    """How to use one family of models; a guidance-distilled network is told the scale `distilled_guidance`."""

    pipelines: tuple[str, ...]  # diffusers' names of the pipelines of this family
    overlay: str  # the recipe of `recipes/priors` with the settings that it needs
    network_part = "transformer"  # the component that denoises
    network: str  # diffusers' class of it
    time = "time_text_embed"  # the name of its module whose output [N width] is the embedding of t
    targets: tuple[str, ...] = JOINT_ATTENTION  # endings of the names of its layers that a LoRA adapts
    embeds: Mapping[str, int] = {"text": 0, "pooled": 2}  # what prompts become: its place in what `encode_prompt` gives
    has_vae = True  # x0 are latents; images themselves otherwise
    patch = 1  # how many values of a channel of x0 are one channel of the network
    is_flow = False  # its networks predict eps - x0, whatever scheduler they are saved with
    settings: Settings = {}  # of a network, with the values that ask for no further input

    def __init__(self, distilled_guidance: float = 3.5) -> None:
        self.distilled_guidance = distilled_guidance

    def time_module(self, network: Model) -> Model:
        """The module whose output [N width] is the embedding of t."""
        return network.get_submodule(self.time)

    def time_width(self, network: Model) -> int:
        """Size of the embedding of t."""
        module = self.time_module(network)
        embedder: Any = getattr(module, "timestep_embedder", module)
        return embedder.linear_2.out_features

    def check(self, config: Mapping[str, Any], channels: int, model: str) -> None:
        """A network takes x0 of these channels and what this family gives it, and answers with as many, or twice."""
        taken, given = config["in_channels"], config.get("out_channels") or config["in_channels"]
        of_x0, odd = channels * self.patch, ""
        if taken != of_x0 or given not in (taken, 2 * taken):
            made = "it is made for inpainting or the like"
            odd = f"takes {taken} channels and gives {given}, where x0 has {of_x0}: {made}"
        for name, known in self.settings.items():
            if config.get(name) not in known:
                odd = f"has {name} {config[name]!r}, an input that no {type(self).__name__} has"
        if odd:
            raise PriorUnavailable(f"{model}'s network {odd}; name a model that draws pictures from text alone.")

    def widths(self, config: Mapping[str, Any]) -> dict[str, int]:
        """How many numbers a network takes for each word, in any of its blocks, and of a pooled embedding."""
        names = ("encoder_hid_dim", "joint_attention_dim", "caption_channels", "cross_attention_dim")
        width = next(config[name] for name in names if config.get(name))
        added, size = config.get("projection_class_embeddings_input_dim"), config.get("addition_time_embed_dim")
        pooled = config.get("pooled_projection_dim") or (added or 0) - 6 * (size or 0)
        return {"text": width if isinstance(width, int) else max(width)} | ({"pooled": pooled} if pooled else {})

    def embed(self, pipeline: Any, texts: list[str]) -> Embedded:
        """Prompts through the pipeline's own text encoders."""
        encoders = (part for name, part in pipeline.components.items() if part and name.startswith("text_encoder"))
        asked = {"prompt": texts, "prompt_2": None, "prompt_3": None, "device": next(encoders).device}
        asked |= {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        taken = asked.keys() & inspect.signature(pipeline.encode_prompt).parameters.keys()
        results = pipeline.encode_prompt(**{name: asked[name] for name in taken})
        return {name: results[index] for name, index in self.embeds.items()}

    @abstractmethod
    def call(self, network: Model, x_t: Tensor, time: Tensor, prompts: Embedded) -> Tensor:
        """The network's output [N K h w] at x_t [N C h w], a predicted variance last; `time` [N] is what it is told."""

    def schedule(self, scheduler: dict[str, Any], tokens: int, model: str = "the model") -> Schedule:
        """The noise schedule of a scheduler's settings; `tokens` of an image, for flows that are shifted by them."""
        schedule = noise_levels(scheduler, tokens, model)
        if self.is_flow and schedule.prediction != "flow_prediction":
            fault = f"{model} is a flow, and its scheduler, {scheduler.get('_class_name')}, is set up for none"
            advice = "save it with diffusers' FlowMatchEulerDiscreteScheduler, or with use_flow_sigmas"
            raise PriorUnavailable(f"{fault}; {advice}.")
        return schedule


class _UNet(Family):
    network_part, network, time = "unet", "UNet2DConditionModel", "time_embedding"
    targets: tuple[str, ...] = ATTENTION
    settings: Settings = {
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "dual_cross_attention": (None, False),
        "addition_embed_type": (None, "text"),
        "encoder_hid_dim_type": (None, "text_proj"),
    }
    embeds: Mapping[str, int] = {"text": 0}

    def call(self, network: Model, x_t: Tensor, time: Tensor, prompts: Embedded, **added: Any) -> Tensor:
        if width := network.config.time_cond_proj_dim:  # distilled, as LCM
            from diffusers import StableDiffusionPipeline

            scale = torch.full((len(x_t),), self.distilled_guidance - 1)
            told = StableDiffusionPipeline.get_guidance_scale_embedding(None, scale, width)
            added["timestep_cond"] = to_device(told, x_t.device).to(x_t.dtype)
        return network(x_t, time, prompts["text"], **added).sample


class StableDiffusion(_UNet):
    """Stable Diffusion 1.x and 2.x, and asdkit's own embedded prior."""

    pipelines, overlay = ("StableDiffusionPipeline",), "sd15"


class StableDiffusionXL(_UNet):
    """Stable Diffusion XL: two text encoders, a pooled embedding, and the size of the image."""

    pipelines, overlay = ("StableDiffusionXLPipeline",), "sdxl"
    settings = {**_UNet.settings, "addition_embed_type": (None, "text_time")}
    embeds = Family.embeds

    def embed(self, pipeline: Any, texts: list[str]) -> Embedded:
        text, pooled = super().embed(pipeline, texts).values()
        if pipeline.config.force_zeros_for_empty_prompt:
            not_empty = torch.tensor([bool(t) for t in texts], device=text.device)
            text, pooled = text * not_empty[:, None, None], pooled * not_empty[:, None]
        return {"text": text, "pooled": pooled}

    def call(self, network: Model, x_t: Tensor, time: Tensor, prompts: Embedded, **added: Any) -> Tensor:
        height, width = (8 * side for side in x_t.shape[-2:])
        sizes = to_device(torch.tensor([height, width, 0, 0, height, width], dtype=x_t.dtype), x_t.device)
        conditions = {"text_embeds": prompts["pooled"], "time_ids": sizes.expand(len(x_t), -1)}
        return super().call(network, x_t, time, prompts, added_cond_kwargs=conditions, **added)


class DeepFloydIF(_UNet):
    """The first stage of DeepFloyd IF: pixels of 64 x 64."""

    pipelines, overlay = ("IFPipeline",), "if"
    targets = (*ATTENTION, "add_k_proj", "add_v_proj")
    has_vae = False


class PixArt(Family):
    """PixArt-alpha and PixArt-sigma: a transformer on T5's text."""

    pipelines, overlay = ("PixArtAlphaPipeline", "PixArtSigmaPipeline"), "pixart"
    network, time = "PixArtTransformer2DModel", "adaln_single.emb"
    targets, embeds = ATTENTION, {"text": 0, "mask": 1}

    def call(self, network: Model, x_t: Tensor, time: Tensor, prompts: Embedded) -> Tensor:
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if network.use_additional_conditions:
            height, width = (8 * side for side in x_t.shape[-2:])
            size = to_device(torch.tensor([height, width], dtype=x_t.dtype), x_t.device).repeat(len(x_t), 1)
            sizes = {"resolution": size, "aspect_ratio": torch.full_like(size[:, :1], height / width)}
        text = {"encoder_hidden_states": prompts["text"], "encoder_attention_mask": prompts["mask"]}
        return network(x_t, timestep=time, added_cond_kwargs=sizes, **text).sample


class StableDiffusion3(Family):
    """Stable Diffusion 3 and 3.5: a flow, three text encoders (T5 may be left out), a pooled embedding."""

    pipelines, overlay = ("StableDiffusion3Pipeline",), "sd35"
    network, is_flow = "SD3Transformer2DModel", True

    def call(self, network: Model, x_t: Tensor, time: Tensor, prompts: Embedded) -> Tensor:
        text = {"encoder_hidden_states": prompts["text"], "pooled_projections": prompts["pooled"]}
        return network(x_t, timestep=time, **text).sample


class Flux(Family):
    """FLUX.1: a flow on patches of 2 x 2; `dev` is told the guidance scale that it was distilled for."""

    pipelines, overlay = ("FluxPipeline",), "flux"
    network, is_flow, patch = "FluxTransformer2DModel", True, 4
    embeds = {"text": 0, "pooled": 1}

    def call(self, network: Model, x_t: Tensor, time: Tensor, prompts: Embedded) -> Tensor:
        from torch.nn.functional import pixel_shuffle, pixel_unshuffle

        rows, columns = (side // 2 for side in x_t.shape[-2:])
        grid = torch.cartesian_prod(*(torch.arange(size, device=x_t.device) for size in (1, rows, columns))).to(x_t)
        places = {"img_ids": grid, "txt_ids": grid.new_zeros(prompts["text"].shape[1], 3)}
        distilled = torch.full_like(time, self.distilled_guidance).to(x_t.dtype)
        guidance = distilled if network.config.guidance_embeds else None
        told = {"timestep": (time / 1000).to(x_t.dtype), "guidance": guidance}
        text = {"encoder_hidden_states": prompts["text"], "pooled_projections": prompts["pooled"]}
        output: Tensor = network(pixel_unshuffle(x_t, 2).flatten(2).mT, **text, **told, **places).sample
        return pixel_shuffle(output.mT.unflatten(2, (rows, columns)), 2)


FAMILIES = (StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux, PixArt, DeepFloydIF)


def family_of(pipeline: str) -> type[Family]:
    """The family of a pipeline, by its name in `model_index.json`."""
    by_pipeline = {name: family for family in FAMILIES for name in family.pipelines}
    if pipeline not in by_pipeline:
        raise PriorUnavailable(f"asdkit doesn't know the kind {pipeline!r}; it knows {', '.join(by_pipeline)}.")
    return by_pipeline[pipeline]
