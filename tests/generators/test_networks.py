"""The general generator: its x0, noise and gradient, the average of its weights, and what others read of it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.exact import cfg, exact_prior
from support.quiet import quiet_trainer
from support.tiny import TEXT, loaded
from torch import Tensor

import asdkit
from asdkit.core.randomness import Rows, generator_for
from asdkit.rendering.cameras import Batch
from asdkit.run.export import export, opened

OTHER, SEED = "a red view", 3


def ready(prior: asdkit.Prior, *prompts: str, **settings: Any) -> asdkit.Network:
    generator = asdkit.Network(**{"size": 16, "count": 3, **settings})
    generator.take_prompts(prompts or [TEXT])
    generator.setup(prior)
    return generator


def small(*prompts: str) -> asdkit.Network:
    return ready(exact_prior(), *prompts, backbone=asdkit.SmallUNet(8), size=8)


def pipeline_of(folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    unchecked = {"safety_checker": None, "requires_safety_checker": False}
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, **unchecked)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("kind", ["tiny_folder", "kl_folder"])
@pytest.mark.parametrize("t", [0.625, 1.0])
def test_x0_is_what_diffusers_says(kind: str, t: float, request: pytest.FixtureRequest) -> None:
    """x0 = (z - sigma_t e) / alpha_t, of networks that predict v and eps, for two prompts in one evaluation."""
    folder = request.getfixturevalue(kind)
    prior, pipeline = loaded(folder), pipeline_of(folder)
    generator = ready(prior, backbone=asdkit.PriorNetwork(t), average=0.0)
    prompts, level = (TEXT, OTHER, TEXT), round(t * 999)
    x0, render = generator.encoded(prior, Batch(prompts=prompts), random=torch.Generator().manual_seed(5))
    noise = torch.randn(3, *prior.latent_shape(16, 16), generator=torch.Generator().manual_seed(5))
    text = pipeline.encode_prompt(list(prompts), "cpu", 1, False)[0]
    output = pipeline.unet(noise, level, text).sample
    pipeline.scheduler.set_timesteps(1000)
    expected = pipeline.scheduler.step(output, level, noise).pred_original_sample
    assert render is None and torch.allclose(x0, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
    assert torch.equal(generator.samples(noise, prompts), x0)


def test_a_part_of_a_step_has_the_noise_of_the_whole(tiny_folder: Path) -> None:
    prior = loaded(tiny_folder).double()
    generator, batch = ready(prior).double(), Batch(prompts=(TEXT, OTHER, OTHER, TEXT))

    def x0_of(part: Batch, seed: int = 0) -> Tensor:
        return generator.encoded(prior, part, random=torch.Generator().manual_seed(seed))[0]

    halves = batch.split(2)
    assert [part.rows for part in halves] == [Rows(0, 2, 4), Rows(2, 4, 4)]
    assert torch.allclose(torch.cat([x0_of(part) for part in halves]), x0_of(batch), rtol=0, atol=1e-9)
    assert (x0_of(batch, 1) - x0_of(batch)).abs().min() > 0
    assert len(generator.encoded(prior, Batch())[0]) == 3


def test_prompts_depend_on_seed_step_and_rank_alone(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a\n\n# no prompt\nb\nc\n")
    data = asdkit.Canvas(prompts=asdkit.PromptFile(str(file), per_step=5))
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(seed=SEED), global_rank=1, global_step=7)
    batches = iter(data.train_dataloader())
    for step in (7, 8):
        drawn = torch.randint(3, (5,), generator=generator_for(SEED, step, "prompts", 1))
        assert next(batches).prompts == ["abc"[i] for i in drawn]
    with pytest.raises(ValueError, match="no prompt, or an empty one"):
        asdkit.PromptList(["a", " "])
    assert "a red duck" in asdkit.ToyboxPrompts().texts
    assert not set(asdkit.ToyboxPrompts().texts) & set(asdkit.ToyboxPrompts(held_out=True).texts)


class Watched(asdkit.Distillation):
    """Notes the gradient that the optimiser meets, and the weights after each step."""

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.double()
        self.start = self.weights()
        self.gradients: list[Tensor] = []
        self.path: list[Tensor] = []

    def weights(self) -> Tensor:
        return torch.nn.utils.parameters_to_vector(self.generator.backbone.parameters()).detach().clone()

    def _optimizer_step(self, optimizer: Any, *how: Any) -> float:
        parameters = list(self.generator.backbone.parameters())
        self.gradients.append(torch.cat([p.grad.flatten() for p in parameters]))
        norm = super()._optimizer_step(optimizer, *how)
        self.path.append(self.weights())
        return norm


def watched(steps: int, **settings: Any) -> Watched:
    generator = asdkit.Network(asdkit.SmallUNet(8), size=8, count=2, lr=1e-3, **settings)
    module = Watched("y", exact_prior(), generator, asdkit.SDS(3.0), seed=SEED, weighting="sigma2")
    quiet_trainer(steps).fit(module, asdkit.Canvas())
    return module


def test_the_steps_gradient_by_finite_differences() -> None:
    """d/dtheta of mean_b <x0(theta), w(t) (e_lambda - eps)>, the residual held, on a prior of known scores."""
    module = watched(1)
    prior, backbone = module.prior, module.generator.backbone
    noise = torch.randn(2, 3, 8, 8, generator=generator_for(SEED, 0, "generator"))

    def x0_at(weights: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(weights, backbone.parameters())
        with torch.no_grad():
            return backbone(prior, noise, ["y", "y"])

    random = generator_for(SEED, 0, "noise")
    t = module.timesteps.draw(2, 0, 1000, random)
    eps = torch.randn(2, 3, 8, 8, generator=random).double()
    alpha, sigma = (levels[t].reshape(2, 1, 1, 1) for levels in (prior.schedule.alphas, prior.schedule.sigmas))
    x = SimpleNamespace(alpha=alpha, sigma=sigma, x_t=alpha * x0_at(module.start) + sigma * eps)
    residual = sigma**2 * (cfg(x, 3.0) - eps)
    for seed in (0, 1):
        direction = torch.randn(module.start.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ahead, behind = (x0_at(module.start + h * direction) for h in (1e-6, -1e-6))
        expected = (residual * (ahead - behind) / 2e-6).sum() / 2
        assert torch.isclose(module.gradients[0] @ direction, expected, rtol=1e-6)


def test_the_average_by_a_slow_loop() -> None:
    module = watched(4, average=0.7)
    average = module.path[0]
    for weights in module.path[1:]:
        average = 0.7 * average + 0.3 * weights
    shown = torch.nn.utils.parameters_to_vector(module.generator.shown.parameters())
    assert torch.allclose(shown, average, rtol=1e-12, atol=1e-12)
    assert (shown - module.path[-1]).abs().max() > 1e-5
    assert watched(1, average=0.0).generator.shown is not None


def test_the_average_waits_for_no_device() -> None:
    """Nobody can ask for values of tensors on torch's `meta`."""
    generator = small("y").to("meta")
    optimizer = torch.optim.Adam(generator.parameter_groups())
    for step in (0, 1):
        generator.after_step(optimizer, step, torch.Generator())
        assert next(generator.shown.parameters()).is_meta


def test_what_can_not_be(tiny_folder: Path) -> None:
    cases: dict[str, Callable[[], Any]] = {
        "GaussianPrior has no weights; take --model.generator.backbone=SmallUNet": lambda: ready(exact_prior()),
        "no embedding of prompts": lambda: ready(asdkit.FiniteSetPrior(), backbone=asdkit.SmallUNet()),
        "can't be halved 2 times": lambda: ready(exact_prior(), backbone=asdkit.SmallUNet(levels=3), size=10),
        "multiple of 4; got 9": lambda: asdkit.SmallUNet(9),
        "take --data=Canvas": lambda: ready(loaded(tiny_folder)).render(asdkit.Cameras(size=16).ring(1)),
        "only a PriorNetwork can be exported": lambda: small("y").write_model(Path("nowhere")),
    }
    for words, make in cases.items():
        with pytest.raises(ValueError, match=words):
            make()


def test_the_prompts_of_a_picture_are_all_or_some_from_all_over() -> None:
    assert [small(*"abcdefg").shown_prompts, small(*"ab").shown_prompts] == [["a", "c", "e"], ["a", "b", "a"]]


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three iterations; treat it as read-only."""
    from asdkit.commands.main import main

    root = tmp_path_factory.mktemp("onestep")
    small = [f"--model.prior.path={tiny_folder}", "--model.generator.size=16", "--model.generator.count=3"]
    short = ["--trainer.max_steps=3", "--trainer.callbacks=[]", f"--run.root={root}", "--run.name=one"]
    assert main(["fit", "--config", "onestep2d", f"--model.prompt={TEXT}", *small, *short]) == 0
    return root / "onestep2d" / "one"


def test_a_run_is_shown_from_its_checkpoint(finished: Path) -> None:
    from asdkit.commands.main import main

    assert len(list((finished / "images").iterdir())) == 3
    assert main(["predict", str(finished), "--model.generator.count=5", "--model.generator.sheet_seed=1"]) == 0
    assert (finished / "predict" / "sheet.png").is_file()
    exported, saved = opened(finished), torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    own = exported.generator.state_dict()
    assert own and all(torch.equal(value, saved["state_dict"][f"generator.{name}"]) for name, value in own.items())
    assert any(name.startswith("average.") for name in own)


def test_an_exported_model_is_diffusers_own(finished: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """One step of the plain pipeline with LCM's scheduler, which stops at x0, from the noise of the sheet."""
    from diffusers import LCMScheduler

    (folder,) = export(finished, ["diffusers"], tmp_path, False, opened(finished).choices)
    pipeline = pipeline_of(folder)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    noise = torch.randn(3, *loaded(tiny_folder).latent_shape(16, 16), generator=generator_for(0, 0, "sheet"))
    how = {"timesteps": [round(0.625 * 999)], "guidance_scale": 0.0, "output_type": "pt"}
    images = pipeline([TEXT] * 3, latents=noise, height=16, width=16, **how).images
    assert torch.allclose(images, opened(finished).render(None).image, atol=1e-4)
    assert loaded(folder).digest != loaded(tiny_folder).digest
    with pytest.raises(ValueError, match="exists; name another folder"):
        list(export(finished, ["diffusers"], tmp_path, False, opened(finished).choices))


def test_another_prompt_is_another_image_and_no_3d_object(finished: Path, tmp_path: Path) -> None:
    assert (asdkit.load(finished, "a red view").views() - asdkit.load(finished).views()).abs().max() > 0
    with pytest.raises(ValueError, match="ply holds 3D objects"):
        list(export(finished, ["ply"], tmp_path, False, opened(finished).choices))
