"""Every family of models, as tiny random pipelines, against diffusers' own pipelines; and whole runs on each."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.quiet import quiet_trainer
from support.tiny import loaded
from support.tiny_families import PIPELINES, make
from torch import Tensor
from torch.utils.data import DataLoader

from asdkit import DiscriminatorSteps, Distillation, Field, Gaussians, Generator, Pixels, Pretrained, Rounds
from asdkit.discriminators.adapters import Embedding, LoRA
from asdkit.methods import ASD, SDS
from asdkit.priors.families import family_of
from asdkit.rendering.cameras import Batch, ring
from asdkit.scores.prior import NULL, Condition

PROMPT = "a red duck"
Y = Condition(PROMPT, view_dependent=False)
WITH_AN_INPUT_MORE = ("lcm", "pixart_1024")  # which are told the guidance, or the size of the image


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Folder and pipeline of every family."""
    root = tmp_path_factory.mktemp("families")
    return {name: make(name, root / name) for name in (*PIPELINES, *WITH_AN_INPUT_MORE)}


def network_of(pipeline: Any) -> Any:
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


def first_call(name: str, pipeline: Any, x_t: Tensor) -> tuple[Tensor, Tensor]:
    """What diffusers' own pipeline tells its network first, and what that answers, as x0-shaped tensors."""
    seen: list[tuple[Any, Tensor]] = []

    def record(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        time = kwargs["timestep"] if "timestep" in kwargs else args[1]
        seen.append((time, output[0]))

    hook = network_of(pipeline).register_forward_hook(record, with_kwargs=True)
    pipeline.set_progress_bar_config(disable=True)
    height, width = (8 * side for side in x_t.shape[-2:])
    extra: dict[str, Any] = {"height": height, "width": width, "latents": x_t, "output_type": "latent"}
    if name == "flux":
        extra["latents"] = pipeline._pack_latents(x_t, 1, *x_t.shape[1:])
    if name.startswith("pixart"):
        extra |= {"use_resolution_binning": False, "clean_caption": False}
    if name == "deepfloyd":
        extra = {"output_type": "pt", "clean_caption": False, "height": height // 8, "width": width // 8}
        pipeline.prepare_intermediate_images = lambda *args, **kwargs: x_t
    guidance = 3.5 if name in ("flux", "lcm") else 1.0
    pipeline(PROMPT, num_inference_steps=2, guidance_scale=guidance, **extra)
    hook.remove()
    time, output = seen[0]
    if name == "flux":
        output = pipeline._unpack_latents(output, height, width, 8)
        time = time * 1000
    return torch.as_tensor(time).expand(1), output[:, : x_t.shape[1]]


@pytest.mark.parametrize("name", [*PIPELINES, *WITH_AN_INPUT_MORE])
def test_the_network_is_called_as_its_own_pipeline_calls_it(name: str, families: dict) -> None:
    folder, pipeline = families[name]
    prior = loaded(folder, Y)
    height, width = (16, 32) if name == "deepfloyd" else (4, 8)
    x_t = torch.randn(1, prior.channels, height, width, generator=torch.Generator().manual_seed(1))
    time, expected = first_call(name, pipeline, x_t)
    prompts = {key: value[None] for key, value in prior.prompts.embedded[Y.text].items()}
    with torch.no_grad():
        output = prior.runner(prior.family, prior.network, x_t, time.to(prior.schedule.times.dtype), prompts)
        at_another_time = prior.runner(prior.family, prior.network, x_t, 0.3 * time, prompts)
    assert torch.allclose(output, expected, atol=1e-5)
    assert not torch.allclose(at_another_time, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["lcm", "flux"])
def test_a_distilled_network_is_told_the_guidance_that_is_asked_for(name: str, families: dict) -> None:
    told = []
    for scale in (3.5, 8.0):
        prior = loaded(families[name][0], distilled_guidance=scale)
        x_t = torch.zeros(1, prior.channels, 4, 4)
        told.append(prior.predict(prior.draw(x_t, torch.tensor([5]), x_t), [Y])[0])
    assert not torch.allclose(*told, atol=1e-4)


def test_a_flow_that_shifts_by_the_size_of_the_image_is_the_pipelines(families: dict) -> None:
    """FLUX at 512 px: 1024 tokens; its pipeline's sigmas for 4 steps, from 1 down by quarters, are ours at these t."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    folder, pipeline = families["flux"]
    prior = loaded(folder, image_size=512)
    scheduler = pipeline.scheduler
    mu = calculate_shift(1024, 256, 4096, 0.5, 1.15)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    sigmas = prior.schedule.sigmas[torch.tensor([999, 749, 499, 249])]
    assert torch.allclose(sigmas.float(), scheduler.sigmas[:4], atol=1e-6)


@pytest.mark.parametrize("name", PIPELINES)
def test_images_become_x0_and_back(name: str, families: dict) -> None:
    folder, pipeline = families[name]
    prior = loaded(folder)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x0 = prior.encode(images)
    if name == "deepfloyd":
        small = torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)
        assert torch.allclose(x0, small * 2 - 1) and torch.allclose(prior.decode(x0), small, atol=1e-6)
        assert prior.latent_shape(16, 16) == (3, 16, 16)
        assert prior.decode(9 * x0).aminmax() == (0, 1), "what lies beyond is cut off"
        return
    vae, config = pipeline.vae, pipeline.vae.config
    with torch.no_grad():
        mean = vae.encode(images * 2 - 1).latent_dist.mean
        assert torch.allclose(x0, (mean - (config.shift_factor or 0)) * config.scaling_factor, atol=1e-6)
        decoded = vae.decode(mean).sample
    assert torch.allclose(prior.decode(x0), pipeline.image_processor.denormalize(decoded), atol=1e-4)
    assert tuple(x0.shape[1:]) == prior.latent_shape(32, 32) and prior.decode(x0).shape[-2] == 32


def test_an_empty_prompt_of_sdxl_is_zero_as_its_settings_say(families: dict, tmp_path: Path) -> None:
    folder, pipeline = families["sdxl"]
    prior = loaded(folder, NULL, Y)
    assert not any(bool(value.any()) for value in prior.prompts.embedded[""].values())
    text, negative, pooled, negative_pooled = pipeline.encode_prompt(PROMPT, device="cpu")
    assert torch.allclose(prior.prompts.embedded[PROMPT]["text"], text[0], atol=1e-6)
    assert torch.allclose(prior.prompts.embedded[PROMPT]["pooled"], pooled[0], atol=1e-6)
    assert torch.equal(prior.prompts.embedded[""]["pooled"], negative_pooled[0]) and not bool(negative.any())
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    pipeline.save_pretrained(tmp_path / "other")
    pipeline.register_to_config(force_zeros_for_empty_prompt=True)
    other = loaded(tmp_path / "other", NULL)
    assert bool(other.prompts.embedded[""]["text"].any())


METHODS = {
    "SDS": lambda: SDS(scale=7.5),
    "ASD": lambda: ASD(scale=7.5, gamma=-0.5, adapter=LoRA(rank=2)),
    "ASD of an embedding": lambda: ASD(scale=7.5, gamma=-0.5, adapter=Embedding()),
}


def new_generator(space: str) -> Generator:
    return Pixels(size=32) if space == "2D" else Gaussians(count=40, capacity=60, rounds=Rounds(every=2, first=2))


def train(prior: Pretrained, guidance: Field, space: str, steps: int = 2) -> Distillation:
    how = {"discriminator": DiscriminatorSteps(lr=1e-2), "weighting": "sigma2"}
    model = Distillation(PROMPT, prior, new_generator(space), guidance, **how)
    trainer = quiet_trainer(steps, log_every_n_steps=steps)
    shots = [Batch() if space == "2D" else Batch(ring(2, size=32, offset_deg=30.0 * step)) for step in range(steps)]
    trainer.fit(model, DataLoader(shots, batch_size=None))
    assert trainer.global_step == steps
    return model


RUNS = [*((method, "2D") for method in METHODS), ("ASD", "3D")]


@pytest.mark.parametrize(("method", "space"), RUNS)
@pytest.mark.parametrize("name", PIPELINES)
def test_some_iterations_on_every_family(name: str, method: str, space: str, families: dict) -> None:
    """The generator moves, phi starts as e_y exactly and learns in every part of it, the prior stays what it was."""
    prior = loaded(families[name][0])
    frozen = {key: value.clone() for key, value in prior.network.state_dict().items()}
    guidance = METHODS[method]()
    guidance.bind(PROMPT)
    guidance.setup(prior)
    views = None if space == "2D" else ring(2, size=32)
    x0 = prior.encode(torch.rand(2, 3, 32, 32))
    x = prior.draw(x0, torch.tensor([300, 900]), torch.randn(x0.shape), views)
    phi = [leaf for leaf in guidance.leaves() if hasattr(leaf, "adapter")]
    for leaf in phi:
        assert torch.equal(leaf(x).detach(), x.predict(leaf.condition()))
    before = {key: value.detach().clone() for key, value in guidance.named_parameters()}
    model = train(prior, guidance, space)
    for key, value in guidance.named_parameters():
        never_asked = name == "sd3" and "1/attn/add_q_proj/lora_B" in key  # nobody reads its last block's text
        assert torch.isfinite(value).all()
        assert torch.equal(value, before[key]) == (never_asked or (space == "2D" and "camera" in key)), key
    start = new_generator(space)
    start.setup(prior)
    pairs = zip(model.generator.parameters(), start.parameters(), strict=True)
    assert not any(torch.equal(now, then) for now, then in pairs)
    own = {key: value for key, value in prior.network.state_dict().items() if ".lora_" not in key}
    assert all(torch.equal(value, frozen[key.replace(".base_layer", "")]) for key, value in own.items())


def test_an_autoencoder_that_overflows_is_kept_in_single(families: dict) -> None:
    """SDXL's says so by `force_upcast`; bfloat16 has the range."""
    folder, pipeline = families["sdxl"]
    assert pipeline.vae.config.force_upcast
    for dtype, expected in (("float16", torch.float32), ("bfloat16", torch.bfloat16)):
        prior = loaded(folder, dtype=dtype)
        assert prior.vae.dtype == expected and prior.network.dtype == getattr(torch, dtype)
        x0 = prior.encode(torch.rand(1, 3, 32, 32))
        assert x0.dtype == torch.float32 and prior.decode(x0).dtype == torch.float32


def test_unknown_models_and_networks_without_blocks_that_repeat_are_refused(families: dict) -> None:
    with pytest.raises(ValueError, match="doesn't know the kind 'KolorsPipeline'; it knows StableDiffusionP"):
        family_of("KolorsPipeline")
    for name in ("sd", "flux"):
        loaded(families[name][0], compile="blocks")
    for name in ("sd3", "pixart"):
        with pytest.raises(ValueError, match="^compile=blocks: diffusers knows no block to compile; say true.$"):
            loaded(families[name][0], compile="blocks")
