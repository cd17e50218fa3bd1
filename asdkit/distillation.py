"""The one LightningModule: Figure 3 of the paper as a training step."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from asdkit.fields import Field
from asdkit.generators.base import Generator, Render
from asdkit.generators.saved import started_anyhow
from asdkit.objectives import Weighting, inject, saturation, weight
from asdkit.part import Part
from asdkit.prior import Noised, Prior
from asdkit.randomness import generator_for
from asdkit.timesteps import Timesteps
from asdkit.views import Shot, Views

_log = logging.getLogger(__name__)


def _nothing() -> None:
    """Replaces Lightning's step counter for the discriminator's optimiser."""


class Distillation(Part, pl.LightningModule):
    """Score distillation: the generator is pulled by a guidance, whose discriminator learns in alternation.

    One iteration is one global step, whatever the number of optimisers: the generator steps first, then the
    discriminator `critic_steps` times.

    Args:
        prompt: what to make, in words.
        source: what the source image shows, in words; for methods of editing.
        prior: the frozen diffusion model.
        generator: what is optimised.
        guidance: an expression of score fields, e.g. ASD, VSD or SDS.
        timesteps: which t are drawn.
        weighting: w(t) of Eq. 7.
        critic_steps: discriminator steps per iteration, at least 0.
        critic_lr: learning rate of the discriminator's AdamW.
        critic_clip: largest norm of the discriminator's gradient; 0 for no limit.
        share_noise: the discriminator learns on the generator step's own draw (t, eps), which saves network calls.
        random_background: share of the iterations with a random plain background instead of `background`.
        background: grey level of the plain background, 0 to 1.
        seed: of every random draw of the run.

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
        critic_steps: int = 1,
        critic_lr: float = 1e-3,
        critic_clip: float = 0.0,
        share_noise: bool = True,
        random_background: float = 0.0,
        background: float = 0.85,
        seed: int = 0,
        source: str | None = None,
    ) -> None:
        super().__init__()
        if not prompt.strip():
            raise ValueError("The prompt is empty; say what to make, e.g. --model.prompt 'a yellow duck'.")
        if critic_steps < 0 or critic_lr <= 0 or critic_clip < 0:
            raise ValueError(
                "critic_steps and critic_clip can't be negative and critic_lr must be positive; "
                f"got {critic_steps}, {critic_clip} and {critic_lr}."
            )
        if not (0 <= random_background <= 1 and 0 <= background <= 1):
            raise ValueError(
                f"random_background and background must lie in [0, 1]; got {random_background} and {background}."
            )
        self.save_hyperparameters(
            self.spec["init_args"] | {"_instantiator": "pytorch_lightning.cli.instantiate_module"}
        )
        timesteps = timesteps or Timesteps()
        self.prompt, self.source, self.seed, self.background = prompt, source, seed, background
        self.prior, self.generator, self.guidance, self.timesteps = prior, generator, guidance, timesteps
        self.weighting, self.share_noise, self.random_background = weighting, share_noise, random_background
        self.critic_steps, self.critic_lr, self.critic_clip = critic_steps, critic_lr, critic_clip
        self._encoded_source: Tensor | None = None
        self._reports = False  # whether this iteration is one of those that are logged
        self.automatic_optimization = False
        self.strict_loading = False

    # ------------------------------------------------------------------------------------------------ set-up

    def setup(self, stage: str | None = None) -> None:
        """Load the prior, give the prompt to the guidance and attach its adapters."""
        self.prior.setup()
        unknown = self.prior.unknown_words(self.prompt)
        if unknown:
            _log.warning("The prior has never seen %s; expect no likeness.", ", ".join(map(repr, unknown)))
        self.guidance.bind(self.prompt, self.source)
        self.guidance.setup(self.prior)
        data = self._trainer.datamodule if self._trainer else None
        self.generator.setup(self.prior, getattr(data, "source", None))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(self.generator.parameter_groups(), eps=1e-15)]
        phi = [parameter for parameter in self.guidance.parameters() if parameter.requires_grad]
        if phi and self.critic_steps:
            optimizers.append(torch.optim.AdamW(phi, lr=self.critic_lr, betas=(0.9, 0.99), weight_decay=0.01))
        return optimizers

    # ------------------------------------------------------------------------------------------------ the step

    def training_step(self, batch: Views | Shot, batch_idx: int) -> dict[str, Tensor]:
        step, shot = self.global_step, batch if isinstance(batch, Shot) else Shot(batch)
        self._reports = (step + 1) % self.trainer.log_every_n_steps == 0
        optimizers = self.optimizers()
        generator_optimizer, *critic_optimizer = optimizers if isinstance(optimizers, list) else [optimizers]

        # Generator, Eq. 7: x0 is pulled along w(t) (residual of the guidance), which is a constant.
        x0, render = self.generator.encoded(self.prior, shot.views, self.backdrop(step))
        x = self.draw(x0, shot, step, "noise")
        residual = self.residual(x, keep_graph=bool(critic_optimizer) and self.share_noise)
        loss = inject(x0, residual) + self.generator.regularizer()
        norms = {"grad_norm": self._descend(generator_optimizer, loss, counts=True)}
        self.generator.after_step(generator_optimizer, step, generator_for(self.seed, step, "density"))

        # Discriminator, Eq. 10 or Eq. 9: phi learns from what the generator has just shown.
        logs = {"residual_norm": residual.flatten(1).norm(dim=1).mean()}
        for k in range(self.critic_steps if critic_optimizer else 0):
            fake = x if self.share_noise else self.draw(x0, shot, step, f"critic noise {k}")
            loss = self.guidance.loss(fake)
            norms["phi_grad_norm"] = self._descend(critic_optimizer[0], loss, counts=False)
            self.guidance.forget(fake)
            logs["critic_loss"] = loss.detach()
        if self._reports:
            self.log_dict({name: float(value) for name, value in logs.items()}, prog_bar=True)
            self.log_dict(norms | self._diagnostics(x, shot, render))
        return {"x0": x.x0} | logs | {"t": x.t}

    def backdrop(self, step: int) -> Float[Tensor, " 3"] | None:
        """The colour behind the object in this step; None for the generator's own background."""
        random = generator_for(self.seed, step, "background", self.global_rank)
        grey = torch.rand(2, generator=random)
        if grey[0] >= self.random_background and self.generator.owns_background:
            return None
        level = 0.5 + 0.5 * grey[1] if grey[0] < self.random_background else torch.tensor(self.background)
        return level.expand(3).to(self.device)

    def draw(self, x0: Float[Tensor, "B C h w"], shot: Shot, step: int, purpose: str) -> Noised:
        """One noisy draw of x0, which depends on (seed, rank, step, purpose) alone."""
        random = generator_for(self.seed, step, purpose, self.global_rank)
        t = self.timesteps.draw(len(x0), step, len(self.prior.schedule), random).to(self.device)
        eps = torch.randn(x0.shape, generator=random).to(self.device)
        return self.prior.draw(x0, t, eps, shot.views, step=step, source=self._source(shot, x0), random=random)

    def _source(self, shot: Shot, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"] | None:
        """x0 of the source image; of a single image without cameras it is encoded once."""
        if shot.source is None:
            return None
        if shot.views is not None or self._encoded_source is None:
            with torch.no_grad():
                self._encoded_source = self.prior.encode(shot.source)
        return self._encoded_source.expand_as(x0)

    def residual(self, x: Noised, keep_graph: bool = False) -> Float[Tensor, "B C h w"]:
        """w(t) times the guidance at x, Eq. 7; `keep_graph` lets the discriminator's loss reuse the prediction."""
        with torch.set_grad_enabled(keep_graph):
            value = self.guidance(x)
        return (weight(self.weighting, x.alpha, x.sigma) * value).detach()

    def _descend(self, optimizer: Any, loss: Float[Tensor, ""], counts: bool) -> float:
        """One optimiser step; only the generator's counts, so that an iteration is one global step.

        Returns:
            The norm of the gradient where this iteration is logged, else 0.
        """
        optimizer.zero_grad(set_to_none=True)
        with self._no_reducer():
            self.manual_backward(loss)
        self._average_gradients(optimizer)
        if counts:
            self.generator.before_step()
        else:
            optimizer._on_before_step = optimizer._on_after_step = _nothing
        norm = 0.0
        if self._reports:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
        optimizer.step()
        return norm

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip here, after any unscaling: the only place where the norm is the true one."""
        if self.critic_clip and not optimizer.param_groups[0].get("name"):
            self.clip_gradients(optimizer, self.critic_clip, "norm")

    def _no_reducer(self) -> AbstractContextManager:
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return block() if block else nullcontext()

    def _average_gradients(self, optimizer: Any) -> None:
        """Mean over ranks, explicitly: right whatever parameters are unused or have grown."""
        if self.trainer.world_size == 1:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.trainer.world_size
        for parameter, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = mean.view_as(parameter).clone()

    @torch.no_grad()
    def _diagnostics(self, x: Noised, shot: Shot, render: Render | None) -> dict[str, float]:
        """Numbers about the samples, and about the fields that learn."""
        image = (render or self.show(shot.views)).image
        facts = {"saturation": saturation(image).mean(), "x0_std": x.x0.flatten(1).std(1).mean()}
        return {name: float(value) for name, value in facts.items()} | self.guidance.diagnostics(x)

    # ------------------------------------------------------------------------------------------------ looking

    def show(self, views: Views | None) -> Render:
        """The generator's views on the plain background, which metrics and pictures are made of."""
        return self.generator.render(views, torch.full((3,), self.background, device=self.device))

    def validation_step(self, batch: Views | Shot, batch_idx: int) -> Render:
        return self.show(batch.views if isinstance(batch, Shot) else batch)

    def test_step(self, batch: Views | Shot, batch_idx: int) -> Render:
        return self.show(batch.views if isinstance(batch, Shot) else batch)

    def predict_step(self, batch: Views | Shot, batch_idx: int) -> Render:
        return self.show(batch.views if isinstance(batch, Shot) else batch)

    # ------------------------------------------------------------------------------------------------ checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Everything that learns; never the frozen prior."""
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if not k.startswith("prior.")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has its own weights: it does not name the file that the generator once started from."""
        checkpoint["hyper_parameters"]["generator"] = started_anyhow(self.generator.spec)
