"""GANs on a diffusion model: the discriminator's own opinion, or a head on its features, told real from fake.

Either estimates how likely samples are real, by which FDivergence weights them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, relu, softplus

from asdkit.core.bounds import Count, Positive
from asdkit.core.parts import Part
from asdkit.core.randomness import seeded
from asdkit.core.unregistered import keep_unregistered
from asdkit.discriminators.discriminator import Discriminator
from asdkit.discriminators.real_samples import PriorSamples, RealSamples
from asdkit.scores.cfg_options import CFGOptions
from asdkit.scores.fields import Expression, Factor, Field
from asdkit.scores.prior import Adapter, Noised, Prior, Samples

Logits = Float[Tensor, " B"]
Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "hellinger"]

_WEIGHTS: dict[Divergence, Callable[[Tensor], Tensor]] = {  # h of log r
    "reverse_kl": torch.ones_like,
    "forward_kl": torch.exp,
    "jensen_shannon": lambda log_ratio: 2 * torch.sigmoid(log_ratio),
    "hellinger": lambda log_ratio: torch.exp(log_ratio / 2),
}


class GANLoss(Part, ABC):
    """The loss of a kind of GAN: three functions of the logits D, which are large where a sample looks real."""

    @abstractmethod
    def real(self, logits: Logits) -> Logits:
        """What the discriminator minimises at real samples."""

    @abstractmethod
    def fake(self, logits: Logits) -> Logits:
        """What the discriminator minimises at the generator's."""

    @abstractmethod
    def generator(self, logits: Logits) -> Logits:
        """What the generator minimises."""


class NonSaturating(GANLoss):
    """Cross entropy, as in the first GAN (1406.2661); the generator minimises -log sigmoid(D). D's optimum is log r."""

    def real(self, logits: Logits) -> Logits:
        return softplus(-logits)

    def fake(self, logits: Logits) -> Logits:
        return softplus(logits)

    generator = real


class Hinge(GANLoss):
    """The hinge loss (1705.02894): relu(1 - D) at real and relu(1 + D) at fake samples; the generator minimises -D."""

    def real(self, logits: Logits) -> Logits:
        return relu(1 - logits)

    def fake(self, logits: Logits) -> Logits:
        return relu(1 + logits)

    def generator(self, logits: Logits) -> Logits:
        return -logits


class LeastSquares(GANLoss):
    """Squared errors (1611.04076): (D - 1)^2 / 2 at real, D^2 / 2 at fake samples; the generator's is the first."""

    def real(self, logits: Logits) -> Logits:
        return (logits - 1).square() / 2

    def fake(self, logits: Logits) -> Logits:
        return logits.square() / 2

    generator = real


class GANDiscriminator(Discriminator):
    """e_phi, trained by a GAN's loss on its own opinion D(x_t; y) (see `Discriminator.opinion`).

    Eq. 9 takes the same D as a Wasserstein discriminator.

    Args:
        adapter: the part that holds the parameters phi; a LoRA of rank 4 when None.
        loss: NonSaturating when None, Hinge, LeastSquares or your own GANLoss.
        scale: the CFG scale lambda of the expression that contains this field.
        real_samples: where real samples come from; the prior's own samples when None.
        sharpness: the factor of D in the loss; a larger one makes its small numbers count more.
        text: the prompt y that e_phi starts from; the run's own prompt when None.
    """

    def __init__(
        self,
        adapter: Adapter | None = None,
        loss: GANLoss | None = None,
        scale: Factor = 7.5,
        real_samples: RealSamples | None = None,
        sharpness: Positive = 1.0,
        text: str | None = None,
    ) -> None:
        super().__init__(adapter, 0.0, text, scale=scale, real_samples=real_samples or PriorSamples())
        self.gan_loss, self.sharpness = loss or NonSaturating(), sharpness

    def loss(self, x: Noised) -> Float[Tensor, ""]:
        """The mean over the batch of what D minimises at fake and at real samples, where there is a real one."""
        assert self.real_samples is not None
        rows = self.real_samples.rows(x)
        return _told_apart(self.gan_loss, lambda draw: self.sharpness * self.opinion(draw), x, self.real_draw(x), rows)


class GANHead(Field):
    """DMD2's GAN (2405.14867): a small head tells real from fake by the middle features of a discriminator's network.

    Its value is the gradient of the generator's loss with respect to x0, so it can be added to a residual like any
    field. Its own loss trains the head, and phi through the features. The head calls phi's network by itself: once for
    the value and twice for the loss.

    Args:
        phi: the discriminator whose features the head reads; it also has its own place in the expression.
        real_samples: where real samples come from; the prior's own samples when None.
        loss: NonSaturating when None, Hinge, LeastSquares or your own GANLoss.
        hidden: the width of the head's hidden layer.
        init_seed: the seed of the head's first weights.
    """

    _phi: Discriminator

    def __init__(
        self,
        phi: Discriminator,
        real_samples: RealSamples | None = None,
        loss: GANLoss | None = None,
        hidden: Count = 64,
        init_seed: int = 0,
    ) -> None:
        super().__init__()
        keep_unregistered(self, "_phi", phi)
        self.real_samples, self.gan_loss = real_samples or PriorSamples(), loss or NonSaturating()
        self.head = nn.Sequential(nn.LazyLinear(hidden), nn.SiLU(), nn.LazyLinear(1))
        self.init_seed = init_seed
        self._features: Tensor | None = None

    def take_words(self, prompt: str, source: str | None, cfg: CFGOptions) -> None:
        self._phi.take_words(prompt, source, cfg)

    def setup(self, prior: Prior) -> None:
        self._phi.setup(prior)
        middle, width = _middle(self._phi.adapter.network(prior), prior.channels or 3)
        middle.register_forward_hook(lambda module, args, output: setattr(self, "_features", output))
        with seeded(self.init_seed):
            self.head(torch.zeros(1, width))

    def logits(self, x: Noised) -> Float[Tensor, " B"]:
        """D(x_t), the head's mean over the places of the features; large where a sample looks real."""
        phi = self._phi
        phi.adapter.model(x.prior).predict(x, [phi.condition()], phi.adapter)
        seen: Any = self._features
        self._features = None  # and the graph with it
        places = seen.flatten(2).mT if isinstance(seen, Tensor) and seen.ndim == 4 else seen  # [B, places, width]
        places = places[-1] if isinstance(places, tuple) else places  # of a transformer's two streams, the image's
        places = places.to(next(self.head.parameters()).dtype)
        logits: Tensor = self.head(layer_norm(places, places.shape[-1:])).flatten(1).mean(1)
        return logits

    def log_ratio(self, x: Noised) -> Float[Tensor, " B"]:
        """log r, r the ratio of the real samples' density at x_t to the fake ones': D, once it is trained well."""
        with torch.no_grad():
            return self.logits(x)

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        probe = x.on(x.x0)
        probe.x_t.requires_grad_(True)
        with torch.enable_grad():
            loss = self.gan_loss.generator(self.logits(probe)).sum()
        (gradient,) = torch.autograd.grad(loss, probe.x_t)
        return x.alpha * gradient

    def loss(self, x: Noised) -> Float[Tensor, ""]:
        """The mean over the batch of what the head minimises at fake and at real samples, where there is a real one."""
        real = x.derived(self, lambda: self.real_samples.draw(x, self._phi.condition()))
        return _told_apart(self.gan_loss, self.logits, x, real, self.real_samples.rows(x))


class FDivergence(Expression):
    """Descends another divergence than reverse KL: h(r) times the residual e_real - e_fake (f-distill, 2502.15681).

    For a divergence E_q[f(p/q)] of the fake density q from the real density p, h(r) = r^2 f''(r), divided here by its
    value at r = 1. It is 1 for reverse KL (VSD and DMD), r for forward KL, 2r / (1 + r) for Jensen-Shannon and sqrt(r)
    for Hellinger. Jensen-Shannon's h stays below 2.

    Args:
        field: the residual that is weighted.
        judge: the part that estimates log r: a GANHead, or a Discriminator by its own opinion. It learns where it
            stands elsewhere in the expression.
        divergence: the divergence that is descended.
        sharpness: a factor of log r; above 1 the weights differ more.
        limit: the largest |log r| after that factor; it keeps weights from exploding.
    """

    _judge: Any  # has log_ratio

    def __init__(
        self,
        field: Field,
        judge: Field,
        divergence: Divergence = "jensen_shannon",
        sharpness: Positive = 1.0,
        limit: Positive = 5.0,
    ) -> None:
        super().__init__()
        self.field, self.divergence, self.sharpness, self.limit = field, divergence, sharpness, limit
        keep_unregistered(self, "_judge", judge)

    def forward(self, x: Noised) -> Float[Tensor, "B C h w"]:
        value = self.field(x)
        log_ratio = (self.sharpness * self._judge.log_ratio(x)).clamp(-self.limit, self.limit)
        return _WEIGHTS[self.divergence](log_ratio)[:, None, None, None] * value


def _told_apart(loss: GANLoss, logits: Callable[[Noised], Tensor], x: Noised, real: Noised, rows: Samples) -> Tensor:
    """What D minimises at the fake samples that have a real one, `rows` of x, and at these, over the whole batch."""
    if not len(real.t):
        return x.x_t.new_zeros(())
    return (loss.fake(logits(x)[rows]) + loss.real(logits(real))).sum() / len(x.t)


def _middle(network: Any, channels: int) -> tuple[nn.Module, int]:
    """The module whose output a head looks at, and that output's width: of a network of unknown kind the prediction."""
    parts = dict(network.named_children())
    if "mid_block" in parts:
        return parts["mid_block"], network.config.block_out_channels[-1]
    if blocks := parts.get("transformer_blocks"):
        return blocks[len(blocks) // 2], network.inner_dim
    return network, channels
