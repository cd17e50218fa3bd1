"""Methods as one-line expressions of score fields: each gives the residual that Eq. 7 weighs with w(t).

One convention for all: lambda = `scale` as in e_lambda = e_null + lambda (e_y - e_null). Published numbers of the other
convention, e_y + s (e_y - e_null), are lambda - 1: docstrings say what was converted, and the paper's arXiv number.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import yaml

from asdkit.core.bounds import Count, Positive, Share, Whole
from asdkit.core.parts import preset
from asdkit.core.ramps import Ramp
from asdkit.discriminators.adapters import Embedding
from asdkit.discriminators.discriminator import Clip, Discriminator
from asdkit.discriminators.gammas import Gamma
from asdkit.discriminators.gan import Divergence, FDivergence, GANDiscriminator, GANHead, GANLoss
from asdkit.discriminators.real_samples import RealSamples, SourceImage
from asdkit.scores.fields import CFG, Factor, Field, Identity, Noise, Null, Prompt, Scale
from asdkit.scores.prior import Adapter
from asdkit.scores.redrawn import Above, Earlier, Interval, Inverted, Later, OnSource, Reweighted, Scorer, Stages

_UGLY = "oversaturated color, ugly, tiling, low quality, noisy"
_UNREAL = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"
_SHARED: dict[str, str] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
Method = TypeVar("Method", bound=Callable[..., Field])


def _method(function: Method) -> Method:
    """A preset whose docstring also explains the arguments that it shares with others."""
    doc = inspect.getdoc(function) or ""
    shared = [name for name in inspect.signature(function).parameters if name in _SHARED and f" {name}: " not in doc]
    lines = ["" if "\nArgs:" in doc else "\n\nArgs:", *(f"    {name}: {_SHARED[name]}" for name in shared)]
    function.__doc__ = doc + "\n".join(lines)
    return preset(function)


@_method
def ASD(
    scale: Scale = 7.5,
    gamma: Factor | Gamma = -0.5,
    adapter: Adapter | None = None,
    negative: str | None = None,
    real_samples: RealSamples | None = None,
    eta: Share | Ramp = 0.5,
    real_clip: Clip = 2.0,
    allow_unbounded: bool = False,
) -> Field:
    """Adversarial score distillation (2312.00739): e_lambda - e_phi. Eq. 10 trains phi, or Eq. 9 with real samples.

    Args:
        gamma: the weight of the discriminator's penalty; -0.5 in the paper's 3D experiments, -1 in its 2D ones.
        real_samples: where real samples come from. With them phi learns by Eq. 9; leave them out for Eq. 10.
        eta: the weight of the penalty on real samples; 0.5 in the paper's general case.
        real_clip: a real sample no longer counts once phi's error there is this many times the prior's own error.
    """
    phi = Discriminator(adapter, gamma, None, allow_unbounded, scale, real_samples, eta, real_clip)
    return CFG(scale=scale, negative=negative) - phi


@_method
def ReleasedASD(
    scale: Scale = 7.5, gamma: Factor = -0.75, adapter: Adapter | None = None, negative: str | None = None
) -> Field:
    """ASD as the paper's released code trains it: the noisier the sample, the closer its gamma is in effect to 0.

    The released code puts phi in a LoRA on Stable Diffusion 2.1, which predicts v, and takes 2.1-base as the prior. To
    do the same, give the adapter a `prior` of its own. The defaults of lambda and gamma are that code's.
    """
    return CFG(scale=scale, negative=negative) - Discriminator(adapter, gamma, scale=scale, released=True)


@_method
def VSD(scale: Scale = 7.5, adapter: Adapter | None = None, negative: str | None = None) -> Field:
    """Variational score distillation (ProlificDreamer, 2305.16213): e_lambda - e_phi. It equals ASD with gamma = 0."""
    return CFG(scale=scale, negative=negative) - Discriminator(adapter, 0.0, scale=scale)


@_method
def GAN(
    scale: Scale = 7.5,
    loss: GANLoss | None = None,
    adapter: Adapter | None = None,
    real_samples: RealSamples | None = None,
    sharpness: Positive = 1.0,
) -> Field:
    """e_lambda - e_phi, where a GAN's loss on D(x_t; y) = ||e_phi - eps||^2 - ||e_y - eps||^2 (per value) trains phi.

    Args:
        sharpness: the factor of D in the loss. D is a small number, and a larger factor makes it count more.
    """
    return CFG(scale=scale) - GANDiscriminator(adapter, loss, scale, real_samples, sharpness)


@_method
def DMD2(
    scale: Scale = 7.5,
    gan_weight: Factor = 1.0,
    gamma: Factor | Gamma = 0.0,
    loss: GANLoss | None = None,
    adapter: Adapter | None = None,
    real_samples: RealSamples | None = None,
) -> Field:
    """Improved distribution matching (2405.14867): VSD, or ASD if gamma is not 0, plus a GAN head on phi.

    The paper trains the discriminator 5 to 10 times in each iteration; `discriminator.steps` sets how often.
    """
    phi = Discriminator(adapter, gamma, scale=scale)
    return CFG(scale=scale) - phi + gan_weight * GANHead(phi, real_samples, loss)


@_method
def FDistill(
    scale: Scale = 7.5,
    divergence: Divergence = "jensen_shannon",
    gan_weight: Factor = 1.0,
    loss: GANLoss | None = None,
    adapter: Adapter | None = None,
    real_samples: RealSamples | None = None,
) -> Field:
    """f-distill (2502.15681): DMD2 with its residual weighted by h(r); the GAN head estimates the density ratio r.

    Args:
        divergence: the divergence between generator and prior that is minimised; reverse_kl gives DMD2.
    """
    phi = Discriminator(adapter, 0.0, scale=scale)
    head = GANHead(phi, real_samples, loss)
    return FDivergence(CFG(scale=scale) - phi, head, divergence) + gan_weight * head


@_method
def JSD(scale: Scale = 7.5, sharpness: Positive = 1.0, adapter: Adapter | None = None) -> Field:
    """VSD weighted by 2 sigmoid(log r), the bounded weight of the Jensen-Shannon divergence; phi estimates r.

    Args:
        sharpness: log r is D(x_t; y) = ||e_phi - eps||^2 - ||e_y - eps||^2 (per value) times this number.
    """
    phi = Discriminator(adapter, 0.0, scale=scale)
    return FDivergence(CFG(scale=scale) - phi, phi, "jensen_shannon", sharpness)


@_method
def SDS(scale: Scale = 100.0, negative: str | None = None) -> Field:
    """Score distillation sampling (DreamFusion, 2209.14988): e_lambda - eps.

    Args:
        scale: the CFG scale lambda; 100 in the paper (threestudio's guidance_scale 100 is 101 here).
    """
    return CFG(scale=scale, negative=negative) - Noise()


@_method
def SJC(scale: Scale = 101.0, reduce_variance: bool = True) -> Field:
    """Score Jacobian chaining (2212.00774): e_lambda - eps, where eps only reduces variance, or e_lambda alone.

    Args:
        scale: the CFG scale lambda. The published 100 follows the other convention, so it is 101 here.
        reduce_variance: whether to subtract eps, as the published code does by default.
    """
    return CFG(scale=scale) - Noise() if reduce_variance else CFG(scale=scale)


@_method
def CSD(scale: Factor = 1.0, negative_scale: Factor = 0.0, negative: str = _UGLY) -> Field:
    """Classifier score distillation (2310.19415): a (e_y - e_null) + b (e_null - e_neg), the pull of the text alone.

    Args:
        scale: the coefficient a, the strength of the pull towards the prompt.
        negative_scale: the coefficient b of the negative prompt. Refinements move it, e.g. Ramp(1, 0.5, 10000).
        negative: the negative prompt, which says what to avoid.
    """
    towards = scale * (CFG(scale=1.0) - Null())
    away = negative_scale * (Null() - Prompt(negative, view_dependent=False))
    return towards if negative_scale == 0 else towards + away


@_method
def NFSD(scale: Scale = 7.5, negative: str = _UNREAL, t_from: Share = 0.2) -> Field:
    """Noise-free score distillation (2310.17590): e_lambda, minus e_neg at high noise levels.

    Args:
        negative: the negative prompt, which describes pictures that lie outside the prior's distribution.
        t_from: e_neg is subtracted where t is at least this share of the schedule; 0.2 in the paper.
    """
    return CFG(scale=scale) - Above(Prompt(negative, view_dependent=False), t_from)


@_method
def Bridge(source: str, scale: Scale = 100.0, bridge_scale: Factor = 1.0, at: Whole = 20000) -> Field:
    """Score bridge (SDS-Bridge, 2406.09417): e_lambda - eps in the first stage, then b (e_y - e_source).

    Args:
        source: words for what is wrong with the image so far; the paper's recipes append them to the prompt.
        scale: the CFG scale lambda of the first stage; 100 in 3D, 30 in 2D.
        bridge_scale: the factor b of the second stage.
        at: the iteration at which the second stage begins; 20000 of 25000 in 3D.
    """
    return Stages(CFG(scale=scale) - Noise(), bridge_scale * (Prompt() - Prompt(source)), at)


@_method
def ISM(scale: Scale = 7.5, delta: Interval = 0.05, steps: Count = 5) -> Field:
    """Interval score matching (LucidDreamer, 2311.11284): e_lambda(x_t) - e_null(x_s). DDIM inversion gives x_s, x_t.

    Args:
        delta: the interval t - s as a share of the schedule; 0.025 to 0.08 in the paper.
        steps: the number of network calls that the inversion takes up to s; at most 5 in the paper.
    """
    return Inverted(CFG(scale=scale) - Earlier(Null()), scale=0.0, steps=steps, last=delta)


@_method
def SDI(scale: Scale = 7.5, inversion_scale: Factor = -7.5, steps: Count = 10) -> Field:
    """Score distillation via inversion (2405.15891): e_lambda - eps, where DDIM inversion of x0 finds eps.

    Args:
        scale: the CFG scale lambda; 7.5 is published (with Perp-Neg, whose convention is the one here).
        inversion_scale: the CFG scale of the inversion; -7.5 is the published value.
        steps: the number of network calls of the inversion; 10 is the published value.
    """
    return Inverted(CFG(scale=scale) - Noise(), scale=inversion_scale, steps=steps)


@_method
def AsynchronousSD(scale: Scale = 7.5, ratio: Positive = 0.1, t_min: Share = 0.02) -> Field:
    """Asynchronous score distillation (ScaleDreamer, 2407.02040): e_lambda(x_t) - e_y(x_t+), with t+ a little above t.

    Args:
        scale: the CFG scale lambda, which should be above 1; 7.5 in the paper.
        ratio: the largest shift from t to t+, as a share of t - t_min; 0.1 in the paper.
        t_min: the smallest t that the run draws, as a share of the schedule.
    """
    return CFG(scale=scale) - Later(Prompt(), ratio, t_min)


@_method
def LODS(scale: Scale = 40.0, adapter: Adapter | None = None) -> Field:
    """Learned null condition (LODS, 2312.04820): SDS whose e_null learns from the pictures that the generator shows.

    Args:
        adapter: the adapter that holds the learned null condition; an Embedding when left out.
    """
    return CFG(scale=scale, null=Discriminator(adapter or Embedding(), 0.0, text="", scale=scale)) - Noise()


@_method
def DDS(scale: Scale = 7.5) -> Field:
    """Delta denoising score (2304.07090): e_lambda_y(x) - e_lambda_z(x_source), z the source's prompt. eps cancels."""
    return CFG(scale=scale) - OnSource(CFG(scale=scale, of_source=True))


@_method
def PDS(scale: Scale = 7.5, pull: Scale = 0.1) -> Field:
    """Posterior distillation (2311.13831): DDS + pull (x0 - x0_source), which keeps an edit close to the source image.

    Args:
        scale: the CFG scale lambda. The published 2D value is 100, with a pull that follows from its stride.
        pull: the weight of the pull back to the source image, at least 0; a larger one changes less of the image.
    """
    return DDS(scale) + pull * Identity()


@_method
def ASDEdit(
    scale: Scale = 7.5,
    gamma: Factor | Gamma = -1.0,
    source_gamma: Factor | Gamma = 1.0,
    source_eta: Share | Ramp = 0.0,
    adapter: Adapter | None = None,
    source_adapter: Adapter | None = None,
    allow_unbounded: bool = True,
    pull: Factor = 0.0,
) -> Field:
    """Editing by ASD, Eq. 11: [e_lambda_y - e_phi](x) - [e_lambda_z - e_psi](x_source).

    phi learns what the edited image shows, by Eq. 10. psi learns the source's prompt z by Eq. 9: the source image is
    its only real sample, and the edited image is its fake one.

    Args:
        gamma: the weight of the penalty in phi's loss; -1 in the paper.
        source_gamma: the weight of the penalty on fake samples in psi's loss; 1 in the paper.
        source_eta: the weight of the penalty on the real sample in psi's loss; 0 in the paper.
        allow_unbounded: accept the paper's gamma = -1, where Eq. 10 has no minimum.
        pull: the weight of x0 - x0_source, a pull back to the source image; the paper has none.
    """
    phi = Discriminator(adapter, gamma, None, allow_unbounded, scale)
    psi = Discriminator(source_adapter, source_gamma, None, False, scale, SourceImage(), source_eta, of_source=True)
    return (CFG(scale=scale) - phi) - OnSource(CFG(scale=scale, of_source=True) - psi) + pull * Identity()


@_method
def DeltaASD(
    scale: Scale = 7.5,
    gamma: Factor | Gamma = -0.5,
    adapter: Adapter | None = None,
    source_adapter: Adapter | None = None,
    allow_unbounded: bool = False,
    pull: Factor = 0.0,
) -> Field:
    """Eq. 11 with both discriminators trained by Eq. 10, each on its own image; this variant is not in the paper.

    At both optima it is DDS at the scale lambda_eff: e_phi* = (eps + gamma e_y) / (1 + gamma), and eps cancels.
    """
    phi = Discriminator(adapter, gamma, None, allow_unbounded, scale)
    psi = Discriminator(source_adapter, gamma, None, allow_unbounded, scale, of_source=True, learns_source=True)
    return (CFG(scale=scale) - phi) - OnSource(CFG(scale=scale, of_source=True) - psi) + pull * Identity()


@_method
def RewardSDS(
    scorer: Scorer, scale: Scale = 100.0, draws: Count = 4, temperature: Positive = 0.1, judged_scale: Scale = 7.5
) -> Field:
    """RewardSDS (2503.09601): SDS with several noises, weighted by how a scorer likes what they denoise to.

    Args:
        scorer: the part that scores pictures, e.g. asdkit.CLIPScorer.
        draws: the number of noises for each image; 4 to 8 in the paper.
        temperature: the temperature of the softmax over the scores; a lower one follows the best noise alone.
        judged_scale: the CFG scale at which the scored pictures are denoised.
    """
    return Reweighted(CFG(scale=scale) - Noise(), scorer, draws, temperature, judged_scale)
