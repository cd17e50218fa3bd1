"""The one LightningModule: Figure 3 of the paper as a training step."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import record_function

from asdkit.core.parts import Part, require
from asdkit.core.randomness import generator_for
from asdkit.core.trust import refusal, trusting
from asdkit.discriminators.steps import DiscriminatorSteps
from asdkit.generators.base import Generator, Render, computed
from asdkit.generators.from_checkpoint import INSTANTIATOR, read, started_anyhow
from asdkit.ranks import average_gradients, checked_trainer, shard, without_reducer
from asdkit.rendering.cameras import Batch, Views
from asdkit.rendering.settings import Rendering
from asdkit.scores.cfg_options import PLAIN_CFG, CFGOptions
from asdkit.scores.draws import Draws, Timesteps
from asdkit.scores.equations import Weighting, hsv_saturation, inject, weight
from asdkit.scores.fields import Field
from asdkit.scores.prior import Adapter, Condition, Noised, Prior


class Distillation(Part, pl.LightningModule):
    """Score distillation: a guidance pulls the generator towards the prompt, and its discriminator learns in turn.

    An iteration is one global step, whatever the number of optimisers: the generator takes a step first, then the
    discriminator takes `discriminator.steps` of them. Profilers see the spans asdkit.render, encode, prior (predictions
    of the frozen network), e_phi, backward (which contains encode_backward), discriminator and optimizer.

    Args:
        prompt: what to make, in words; it may not be empty.
        prior: the frozen diffusion model that judges the images.
        generator: the object or the images that the run optimises.
        guidance: the method, an expression of score fields such as ASD, VSD or SDS.
        source: what the source image shows, in words. Only methods of editing need it.
        timesteps: the range from which each step draws its noise levels t.
        weighting: the factor w(t) of Eq. 7, which weighs the gradient by noise level.
        discriminator: how often and how fast the discriminator learns.
        rendering: what stands behind the object, and how much memory the views of a step take.
        seed: the seed of every random draw of the run; change it to get another result.
        view_prompts: whole prompts for single views (front, side, back, overhead, or the prior's further directions).
            Each replaces the prompt with that view's words.
        cfg: how every CFG of the prompt is computed: Perp-Neg against several faces, and remedies for over-saturation.
    """

    def __init__(
        self,
        prompt: str,
        prior: Prior,
        generator: Generator,
        guidance: Field,
        source: str | None = None,
        timesteps: Timesteps | None = None,
        weighting: Weighting = "sigma2",
        discriminator: DiscriminatorSteps = DiscriminatorSteps(),
        rendering: Rendering = Rendering(),
        seed: int = 0,
        view_prompts: dict[str, str] | None = None,
        cfg: CFGOptions = PLAIN_CFG,
    ) -> None:
        super().__init__()
        require(bool(prompt.strip()), "The prompt is empty; say what to make, e.g. --model.prompt 'a yellow duck'.")
        self.save_hyperparameters(self.spec["init_args"] | {"_instantiator": INSTANTIATOR})
        self.prompt, self.source, self.view_prompts, self.cfg = prompt, source, view_prompts, cfg
        self.prior, self.generator, self.guidance = prior, generator, guidance
        self.timesteps, self.weighting, self.seed = timesteps or Timesteps(), weighting, seed
        self.draws = Draws(prior, self.timesteps, seed, prompt)
        generator.take_prompts([prompt])
        self.discriminator, self.rendering = discriminator, rendering
        self._reports = False  # whether this iteration is one of those that are logged
        self.automatic_optimization = self.strict_loading = False

    def setup(self, stage: str | None = None) -> None:
        """Load the prior, give the prompt to the guidance and attach its adapters."""
        trainer = checked_trainer(self)
        data = getattr(trainer, "datamodule", None)
        if trainer:
            self.prior.agreed = trainer.strategy.broadcast
        self.prior.setup()
        self.prior.take_prompt(self.prompt, self.view_prompts)
        texts = prompts.texts if (prompts := getattr(data, "prompts", None)) else ()
        if texts:
            self.prior.prepare([Condition(text) for text in texts])
            self.generator.take_prompts(texts)
        self.guidance.bind(self.prompt, self.source, self.cfg)
        self.generator.setup(self.prior, getattr(data, "source", None))  # before adapters change the network
        self.guidance.setup(self.prior)
        for other in self.prior.models[1:] if texts else []:
            other.prepare([Condition(text) for text in texts])

    def configure_model(self) -> None:  # called after `setup`
        shard(self, self.prior.models, self.guidance)

    def configure_optimizers(self) -> list[Optimizer]:
        """Called after the module was moved to its device."""
        for adapter in (part for part in self.guidance.modules() if isinstance(part, Adapter)):
            adapter.check_weights()
        theta = torch.optim.Adam(self.generator.parameter_groups(), eps=1e-15, foreach=True)
        theta.register_step_pre_hook(lambda *_: self.generator.before_step())
        phi = [parameter for parameter in self.guidance.parameters() if parameter.requires_grad]
        return [theta, self.discriminator.optimizer(phi)] if phi and self.discriminator.steps else [theta]

    def on_train_start(self) -> None:
        """The discriminator of a run that goes on learns as fast as its option says, not as fast as before."""
        for group in (group for phi in self.trainer.optimizers[1:] for group in phi.param_groups):
            group["lr"] = self.discriminator.lr

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One iteration of Figure 3: first the generator's pipeline, then the discriminator's.

        It returns x0 [B,C,h,w], the residual's norm, the discriminator's loss and t [B]; causes first.
        """
        step, parts = self.global_step, batch.split(self.rendering.chunk)
        draws, norms, losses, differences = [], [], [], []
        theta, *learning = self._optimizers(step)
        shared = bool(learning) and self.discriminator.share_noise
        with ExitStack() as in_steps:
            for prior in self.prior.models:
                in_steps.enter_context(prior.in_step())
            for part in parts:  # whose gradients add up
                # The generator, Eq. 7: w(t) (e_null + lambda (e_y - e_null) - e_phi) reaches theta through x0.
                x, norm, render = self._generator_backward(part, step, keep_graph=shared)
                differences += self._reconstruction_backward(part)
                draws.append(x)
                norms.append(norm)
                if shared:  # The discriminator, Eq. 10, or Eq. 9 with real samples, at the same t and eps.
                    losses.append(self._discriminator_backward(x))
            facts = {"grad_norm": self._optimizer_step(theta, len(parts))}
            self.generator.after_step(theta, step, generator_for(self.seed, step, "density"))
            facts |= self._diagnostics(x, part, render) if self._reports else {}
            for k, phi in enumerate(learning * self.discriminator.steps):
                learned = draws
                if k or not shared:  # Eq. 10 or Eq. 9 once more, with phi as it is now or on draws of its own.
                    phi.zero_grad(set_to_none=True)
                    learned = [self._discriminator_draw(*pair, step, k) for pair in zip(draws, parts, strict=True)]
                    losses = [self._discriminator_backward(x) for x in learned]
                facts["discriminator_grad_norm"] = self._optimizer_step(phi, len(parts), self.discriminator.clip)
                self.guidance.observe(learned)
        logs = {"residual_norm": norms, "discriminator_loss": losses, "reconstruction": differences}
        means = {name: torch.stack(values).mean() for name, values in logs.items() if values}
        self._log(means, facts)
        return {"x0": torch.cat([x.x0 for x in draws])} | means | {"t": torch.cat([x.t for x in draws])}

    def _optimizers(self, step: int) -> list[Optimizer]:
        """The generator's optimiser and, where it is its turn, the discriminator's, with no gradients left."""
        # Lightning counts the steps of the optimisers that it wraps. The discriminator's is taken unwrapped, so that an
        # iteration is one global step; it misses the scaling of 16-bit losses alone, which `check_precision` rules out.
        trainer: Any = self.trainer
        self._reports = (step + 1) % trainer.log_every_n_steps == 0
        wrapped: Any = self.optimizers()
        theta = wrapped[0] if isinstance(wrapped, list) else wrapped
        optimizers = [theta, *(trainer.optimizers[1:] if self.discriminator.at(step) else [])]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        return optimizers

    def _generator_backward(self, part: Batch, step: int, keep_graph: bool) -> tuple[Noised, Tensor, Render | None]:
        """Backward pass of Eq. 7; returns the draw, the mean norm of the residual, and the render if there is one."""
        # From x0 to the image first, so that the prior's part of the graph is gone when the generator's own begins.
        own = generator_for(self.seed, step, "generator", self.global_rank)
        x0, render = self.generator.encoded(self.prior, part, self.backdrop(step), self.rendering.rerender, own)
        x = self.draws.draw(x0, part, step, "noise", self.global_rank)
        with torch.set_grad_enabled(keep_graph):
            value = self.guidance(x)
        residual = (weight(self.weighting, x.alpha, x.sigma) * value).detach().to(x.x0.dtype)
        with record_function("asdkit.backward"):
            loss = inject(x0, residual)
            if render is not None and render.image.requires_grad:
                with record_function("asdkit.encode_backward"):
                    (gradient,) = torch.autograd.grad(loss, render.image)
                loss = (render.image * gradient).sum()
            self._backward(loss + self.generator.regularizer())
        return x, residual.flatten(1).norm(dim=1).mean(), render

    def _reconstruction_backward(self, part: Batch) -> list[Float[Tensor, ""]]:
        """Backward pass of how the generator differs from the references; returns the loss if there are any."""
        references = part.references
        if references is None or not any(references.weights):
            return []
        render = computed(self.rendering.rerender, self.generator.render, references.views, references.behind)
        loss = references.difference(render.image, render.alpha)
        self._backward(loss)
        return [loss.detach()]

    def _discriminator_backward(self, x: Noised) -> Float[Tensor, ""]:
        """Backward pass of Eq. 10 or Eq. 9 at a draw; returns the loss."""
        with record_function("asdkit.discriminator"):
            loss = self.guidance.loss(x)
            assert loss is not None, "a guidance with parameters has a loss"
            self._backward(loss)
        return loss.detach()

    def _backward(self, loss: Float[Tensor, ""]) -> None:
        if loss.requires_grad:  # else no camera saw anything
            with without_reducer(self.trainer.strategy):
                self.manual_backward(loss)

    def _optimizer_step(self, optimizer: Optimizer, parts: int, clip: float = 0.0) -> float:
        """One step along the mean gradient of all ranks and `parts`; returns its norm, or 0 where none is logged."""
        with record_function("asdkit.optimizer"):
            gradients = average_gradients(optimizer, self.trainer.world_size, parts)
            norm = float(torch.nn.utils.get_total_norm(gradients)) if self._reports else 0.0
            if clip:
                torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
            optimizer.step()
        return norm

    def _discriminator_draw(self, x: Noised, part: Batch, step: int, k: int) -> Noised:
        """What the discriminator's k-th step learns on, with nothing that it predicted before."""
        self.guidance.forget(x)
        purpose = f"critic noise {k}"  # what it was first called
        return x if self.discriminator.share_noise else self.draws.draw(x.x0, part, step, purpose, self.global_rank)

    def _log(self, means: dict[str, Tensor], facts: dict[str, float]) -> None:
        """Logs where this iteration is one of those that are logged, for a GPU waits for it."""
        if self._reports:  # tensors of the CPU, for Lightning looks at the progress bar's after every further step
            self.log_dict({name: mean.float().cpu() for name, mean in means.items()}, prog_bar=True)
            self.log_dict({name: torch.tensor(fact, device="cpu") for name, fact in facts.items()})

    @torch.no_grad()
    def _diagnostics(self, x: Noised, part: Batch, render: Render | None) -> dict[str, float]:
        """Numbers about the samples, and about the fields that learn; the network is not asked anything for them."""
        image = (render or self.show(part.views)).image
        facts = {"saturation": hsv_saturation(image).mean(), "x0_std": x.x0.flatten(1).std(1).mean()}
        return {name: float(value) for name, value in facts.items()} | self.guidance.diagnostics(x, ask=False)

    # What it does besides learning: it shows what it has made, and can be built again.

    def backdrop(self, step: int) -> Float[Tensor, " 3"] | None:
        """The colour behind the object in this step; None for the generator's own background."""
        share, grey = torch.rand(2, generator=generator_for(self.seed, step, "background", self.global_rank)).tolist()
        if share < self.rendering.random_background:
            return torch.full((3,), 0.5 + 0.5 * grey, device=self.device)
        return None if self.generator.owns_background else self.plain_background

    @property
    def plain_background(self) -> Float[Tensor, " 3"]:
        """The colour behind the object in metrics and pictures."""
        return torch.full((3,), self.rendering.background, device=self.device)

    def show(self, views: Views | None) -> Render:
        """The generator's views on the plain background, which metrics and pictures are made of."""
        return self.generator.render(views, self.plain_background)

    def validation_step(self, batch: Batch, batch_idx: int) -> Render:  # type: ignore[override]
        return self.show(batch.views)

    test_step = predict_step = validation_step  # type: ignore[assignment]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **options: Any) -> "Distillation":  # type: ignore[override]
        """Lightning's, which executes nothing in a file, see `core.trust`; one that is missing, broken, of something
        else, or names a class that is not trusted, is a ValueError.
        """
        file = read(Path(checkpoint_path)).file
        try:
            with trusting():
                return super().load_from_checkpoint(file, **options | {"weights_only": True})
        except Exception as error:
            if refused := refusal(str(error), str(file)):
                raise ValueError(refused) from None
            raise

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Everything that learns; never the frozen prior."""
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if not k.startswith("prior.")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has its own weights: it does not name the file that the generator once started from."""
        checkpoint["hyper_parameters"]["generator"] = started_anyhow(self.generator.spec)
