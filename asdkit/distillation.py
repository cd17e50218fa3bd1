"""The one LightningModule: Figure 3 of the paper as a training step."""

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.profiler import record_function

from asdkit.core.parts import Part, require
from asdkit.core.randomness import Rows, generator_for, normal, to_device
from asdkit.core.trust import refusal, trusting
from asdkit.discriminators.base import Adapter
from asdkit.generators.base import Generator, Render
from asdkit.generators.from_checkpoint import INSTANTIATOR, read, started_anyhow
from asdkit.ranks import Sharded, average_gradients, check_precision, check_strategy, shard, without_reducer
from asdkit.rendering.cameras import Batch, Views
from asdkit.scores.equations import Weighting, hsv_saturation, inject, weight
from asdkit.scores.fields import Field
from asdkit.scores.perp_neg import PerpNeg
from asdkit.scores.prior import Noised, Prior
from asdkit.scores.timesteps import Timesteps

_log = logging.getLogger(__name__)


def _nothing() -> None:
    """Replaces Lightning's step counter for the discriminator's optimiser."""


class Distillation(Part, pl.LightningModule):
    """Score distillation: the generator is pulled by a guidance, whose discriminator learns in alternation.

    One iteration is one global step, whatever the number of optimisers: the generator steps first, then the
    discriminator `discriminator_steps` times. Profilers see the step in spans named asdkit.render, encode, prior (the
    frozen network's predictions), e_phi, encode_backward (the autoencoder's part of backward), backward, discriminator
    and optimizer.

    Args:
        prompt: what to make, in words.
        source: what the source image shows, in words; for methods of editing.
        prior: the frozen diffusion model.
        generator: what is optimised.
        guidance: an expression of score fields, e.g. ASD, VSD or SDS.
        timesteps: which t are drawn.
        weighting: w(t) of Eq. 7.
        discriminator_steps: discriminator steps per iteration, at least 0.
        discriminator_every: iterations from one turn of the discriminator to the next, at least 1.
        discriminator_lr: learning rate of the discriminator's AdamW.
        discriminator_clip: largest norm of the discriminator's gradient; 0 for no limit.
        share_noise: the discriminator learns on the generator step's own draw (t, eps), which saves network calls.
        random_background: share of the iterations with a random plain background instead of `background`.
        background: grey level of the plain background, 0 to 1.
        seed: of every random draw of the run.
        chunk: how many views are rendered and denoised at a time, a divisor of their number; gradients add up, so that
            the step is the same in less memory. 0 for all at once. Images without cameras are always done at once.
        rerender: render a second time for the generator's gradient, instead of keeping what the first time computed
            while the prior works: less memory for one more render.
        view_prompts: the whole prompt for single views (front, side, back, overhead, or the prior's further
            directions), in the place of the prompt with the view's words.
        perp_neg: Perp-Neg for the prompt, against several faces; see `PerpNeg`.

    Raises:
        ValueError: an empty prompt, or numbers out of range.
    """

    def __init__(
        self,
        prompt: str,
        prior: Prior,
        generator: Generator,
        guidance: Field,
        timesteps: Timesteps | None = None,
        weighting: Weighting = "sigma2",
        discriminator_steps: int = 1,
        discriminator_lr: float = 1e-3,
        discriminator_clip: float = 0.0,
        share_noise: bool = True,
        random_background: float = 0.0,
        background: float = 0.85,
        seed: int = 0,
        source: str | None = None,
        chunk: int = 0,
        rerender: bool = False,
        discriminator_every: int = 1,
        view_prompts: dict[str, str] | None = None,
        perp_neg: PerpNeg | None = None,
    ) -> None:
        super().__init__()
        if not prompt.strip():
            raise ValueError("The prompt is empty; say what to make, e.g. --model.prompt 'a yellow duck'.")
        if min(discriminator_steps, discriminator_clip, chunk) < 0 or discriminator_lr <= 0:
            raise ValueError(
                "discriminator_steps, discriminator_clip and chunk can't be negative, discriminator_lr is above 0; "
                f"got {discriminator_steps}, {discriminator_clip}, {chunk} and {discriminator_lr}."
            )
        require(discriminator_every >= 1, f"discriminator_every must be at least 1; got {discriminator_every}.")
        if not (0 <= random_background <= 1 and 0 <= background <= 1):
            raise ValueError(
                f"random_background and background must lie in [0, 1]; got {random_background} and {background}."
            )
        self.save_hyperparameters(self.spec["init_args"] | {"_instantiator": INSTANTIATOR})
        timesteps = timesteps or Timesteps()
        self.prompt, self.source, self.seed, self.background = prompt, source, seed, background
        self.prior, self.generator, self.guidance, self.timesteps = prior, generator, guidance, timesteps
        self.weighting, self.share_noise, self.random_background = weighting, share_noise, random_background
        self.discriminator_steps, self.discriminator_lr, self.discriminator_clip = (
            discriminator_steps,
            discriminator_lr,
            discriminator_clip,
        )
        self.chunk, self.rerender, self.discriminator_every = chunk, rerender, discriminator_every
        self._view_prompts, self._perp_neg = view_prompts or {}, perp_neg
        self._encoded_source: Tensor | None = None
        self._reports = False  # whether this iteration is one of those that are logged
        self.automatic_optimization = False
        self.strict_loading = False

    # ------------------------------------------------------------------------------------------------ set-up

    def setup(self, stage: str | None = None) -> None:
        """Load the prior, give the prompt to the guidance and attach its adapters.

        Raises:
            ValueError: a strategy or precision that can't work, or what a part says of its arguments.
        """
        if self._trainer:
            check_strategy(type(self.trainer.strategy))
            check_precision(self.trainer.precision)
        self.prior.setup()
        unknown = self.prior.unknown_words(self.prompt)
        if unknown:
            _log.warning("The prior has never seen %s; expect no likeness.", ", ".join(map(repr, unknown)))
        self.prior.name_views(self.prompt, self._view_prompts)
        self.guidance.bind(self.prompt, self.source, self._perp_neg)
        self.guidance.setup(self.prior)
        data = self._trainer.datamodule if self._trainer else None
        self.generator.setup(self.prior, getattr(data, "source", None))

    def configure_model(self) -> None:
        """Spread the priors' networks over the ranks, where the strategy is to; called after `setup`."""
        strategy = self._trainer and self.trainer.strategy
        if isinstance(strategy, Sharded):
            for prior in self.priors:
                if not prior.sharded:
                    shard(prior.network, strategy.device_mesh, self.guidance)
                    prior.sharded = True

    @property
    def priors(self) -> list[Prior]:
        """The prior, and the other models that discriminators adapt."""
        adapters = [part for part in self.guidance.modules() if isinstance(part, Adapter)]
        return list(dict.fromkeys([self.prior, *(adapter.model(self.prior) for adapter in adapters)]))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(self.generator.parameter_groups(), eps=1e-15)]
        phi = [parameter for parameter in self.guidance.parameters() if parameter.requires_grad]
        if phi and self.discriminator_steps:
            optimizers.append(torch.optim.AdamW(phi, lr=self.discriminator_lr, betas=(0.9, 0.99), weight_decay=0.01))
        return optimizers

    # ------------------------------------------------------------------------------------------------ the step

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        with ExitStack() as stack:
            for prior in self.priors:
                stack.enter_context(prior.in_step())
            return self._step(batch, self.global_step)

    def _step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        self._reports = (step + 1) % self.trainer.log_every_n_steps == 0
        optimizers = self.optimizers()
        pulling, *learning = optimizers if isinstance(optimizers, list) else [optimizers]
        learning = learning if self.discriminator_steps and step % self.discriminator_every == 0 else []
        for optimizer in (pulling, *learning):
            optimizer.zero_grad(set_to_none=True)

        # Generator, Eq. 7, and discriminator, Eq. 10 or Eq. 9, on the same draws; the gradients of all parts add up.
        parts = batch.split(self.chunk)
        draws, sizes, losses = [], [], []
        for part in parts:
            x, residual, render = self._pull(part, step, keep_graph=bool(learning) and self.share_noise)
            draws.append(x)
            sizes.append(residual.flatten(1).norm(dim=1).mean())
            if learning and self.share_noise:
                losses.append(self._learn(x))
        norms = {"grad_norm": self._descend(pulling, len(parts), counts=True)}
        self.generator.after_step(pulling, step, generator_for(self.seed, step, "density"))
        facts = self._diagnostics(x, part, render) if self._reports else {}

        for k in range(self.discriminator_steps if learning else 0):
            if k or not self.share_noise:
                learning[0].zero_grad(set_to_none=True)
                for x in draws:
                    self.guidance.forget(x)
                losses = [self._learn(self._again(x, part, step, k)) for x, part in zip(draws, parts, strict=True)]
            norms["discriminator_grad_norm"] = self._descend(learning[0], len(parts), counts=False)

        logs = {"residual_norm": torch.stack(sizes).mean()}
        if losses:
            logs["discriminator_loss"] = torch.stack(losses).mean()
        if self._reports:
            self.log_dict({name: float(value) for name, value in logs.items()}, prog_bar=True)
            self.log_dict(norms | facts)
        return {"x0": torch.cat([x.x0 for x in draws])} | logs | {"t": torch.cat([x.t for x in draws])}

    def _pull(self, part: Batch, step: int, keep_graph: bool) -> tuple[Noised, Float[Tensor, "B C h w"], Render | None]:
        """Backward of Eq. 7: x0 is pulled along w(t) (residual of the guidance), which is a constant.

        The gradient goes from x0 to the image first, so that the prior's part of the graph is gone when the generator's
        own begins.
        """
        x0, render = self.generator.encoded(self.prior, part.views, self.backdrop(step), self.rerender)
        x = self.draw(x0, part, step, "noise")
        residual = self.residual(x, keep_graph)
        with record_function("asdkit.backward"):
            loss = inject(x0, residual)
            if render is not None and render.image.requires_grad:
                with record_function("asdkit.encode_backward"):
                    (gradient,) = torch.autograd.grad(loss, render.image)
                loss = (render.image * gradient).sum()
            self._backward(loss + self.generator.regularizer())
        return x, residual, render

    def _learn(self, x: Noised) -> Float[Tensor, ""]:
        """Backward of the discriminator's loss at a draw."""
        with record_function("asdkit.discriminator"):
            loss = self.guidance.loss(x)
            self._backward(loss)
        return loss.detach()

    def _again(self, x: Noised, part: Batch, step: int, k: int) -> Noised:
        """What the discriminator learns on in its k-th step."""
        return x if self.share_noise else self.draw(x.x0, part, step, f"discriminator noise {k}")

    def backdrop(self, step: int) -> Float[Tensor, " 3"] | None:
        """The colour behind the object in this step; None for the generator's own background."""
        random = generator_for(self.seed, step, "background", self.global_rank)
        plain, grey = torch.rand(2, generator=random).tolist()
        if plain >= self.random_background and self.generator.owns_background:
            return None
        level = 0.5 + 0.5 * grey if plain < self.random_background else self.background
        return torch.full((3,), level, device=self.device)

    def draw(self, x0: Float[Tensor, "B C h w"], batch: Batch, step: int, purpose: str) -> Noised:
        """One noisy draw of x0, which depends on (seed, rank, step, purpose) alone, however the step is split.

        Args:
            x0: the samples.
            batch: their cameras and source, and which samples of the step they are.
            step: the iteration.
            purpose: what the draw is for.
        """
        rows = batch.rows or Rows(0, len(x0), len(x0))
        random = generator_for(self.seed, step, purpose, self.global_rank)
        t = rows.of(self.timesteps.draw(rows.total, step, len(self.prior.schedule), random))
        eps = to_device(normal(rows, x0.shape[1:], random), self.device)
        if rows.start:
            random = generator_for(self.seed, step, f"{purpose}, from {rows.start} on", self.global_rank)
        return self.prior.draw(x0, t, eps, batch.views, step=step, source=self._source(batch, x0), random=random)

    def _source(self, batch: Batch, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"] | None:
        """x0 of the source image; of a single image without cameras it is encoded once."""
        if batch.source is None:
            return None
        if batch.views is not None or self._encoded_source is None:
            with torch.no_grad():
                self._encoded_source = self.prior.encode(batch.source)
        return self._encoded_source.expand_as(x0)

    def residual(self, x: Noised, keep_graph: bool = False) -> Float[Tensor, "B C h w"]:
        """w(t) times the guidance at x, Eq. 7; `keep_graph` lets the discriminator's loss reuse the prediction."""
        with torch.set_grad_enabled(keep_graph):
            value = self.guidance(x)
        return (weight(self.weighting, x.alpha, x.sigma) * value).detach().to(x.x0.dtype)

    def _backward(self, loss: Float[Tensor, ""]) -> None:
        if loss.requires_grad:  # else no camera saw anything
            with without_reducer(self.trainer.strategy):
                self.manual_backward(loss)

    @record_function("asdkit.optimizer")
    def _descend(self, optimizer: Any, parts: int, counts: bool) -> float:
        """One optimiser step along the mean of the gradients of `parts` backward passes; only the generator's counts,
        so that an iteration is one global step.

        Returns:
            The norm of the gradient where this iteration is logged, else 0.
        """
        average_gradients(optimizer, self.trainer.world_size)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if parts > 1:
            torch._foreach_div_(gradients, parts)
        if counts:
            self.generator.before_step()
        else:
            optimizer._on_before_step = optimizer._on_after_step = _nothing
        norm = float(torch.nn.utils.get_total_norm(gradients)) if self._reports else 0.0
        optimizer.step()
        return norm

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip here, after any unscaling: the only place where the norm is the true one."""
        if self.discriminator_clip and not optimizer.param_groups[0].get("name"):
            self.clip_gradients(optimizer, self.discriminator_clip, "norm")

    @torch.no_grad()
    def _diagnostics(self, x: Noised, batch: Batch, render: Render | None) -> dict[str, float]:
        """Numbers about the samples, and about the fields that learn; the network is not asked anything for them."""
        image = (render or self.show(batch.views)).image
        facts = {"saturation": hsv_saturation(image).mean(), "x0_std": x.x0.flatten(1).std(1).mean()}
        return {name: float(value) for name, value in facts.items()} | self.guidance.diagnostics(x, ask=False)

    # ------------------------------------------------------------------------------------------------ looking

    def show(self, views: Views | None) -> Render:
        """The generator's views on the plain background, which metrics and pictures are made of."""
        return self.generator.render(views, torch.full((3,), self.background, device=self.device))

    def validation_step(self, batch: Batch, batch_idx: int) -> Render:
        return self.show(batch.views)

    test_step = predict_step = validation_step

    # ------------------------------------------------------------------------------------------------ checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **options: Any) -> "Distillation":
        """Lightning's, for files of this machine: nothing in them is executed, see `core.trust`.

        Raises:
            ValueError: the file is missing, broken, of something else, or names a class that is not trusted.
        """
        file = read(Path(checkpoint_path)).file
        try:
            with trusting():
                return super().load_from_checkpoint(file, **options | {"weights_only": True})
        except Exception as error:
            if refused := refusal(str(error), str(file)):
                raise ValueError(refused) from None
            raise

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Everything that learns; never the frozen prior."""
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if not k.startswith("prior.")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has its own weights: it does not name the file that the generator once started from."""
        checkpoint["hyper_parameters"]["generator"] = started_anyhow(self.generator.spec)
