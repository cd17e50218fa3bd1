"""The public names of asdkit, and the module that each is defined in.

Recipes, checkpoints and documents say `asdkit.ASD`, never where ASD is defined; so files may move. This table is plain
data: the face (`asdkit/__init__.py`), the specs of parts and the check of what recipes may import all read it.
"""

from collections.abc import Callable
from typing import Any

_MODULES = {
    "distillation": "Distillation",
    "methods": "ASD ReleasedASD VSD GAN DMD2 FDistill JSD SDS SJC CSD NFSD Bridge ISM SDI AsynchronousSD LODS "
    "RewardSDS DDS PDS ASDEdit DeltaASD",
    "scores.fields": "Field Noise Null Prompt CFG Identity Sum Scaled",
    "scores.redrawn": "OnSource Later Inverted Earlier OtherPrior Stages Above Reweighted Scorer",
    "scores.cfg_options": "CFGOptions PerpNeg APG",
    "scores.draws": "Timesteps",
    "scores.prior": "Prior Adapter",
    "rendering.settings": "Rendering Overhead Orbit Distance",
    "discriminators.discriminator": "Discriminator",
    "discriminators.steps": "DiscriminatorSteps",
    "discriminators.adapters": "Embedding UNetCopy LoRA PeftAdapter",
    "discriminators.gan": "FDivergence GANDiscriminator GANHead GANLoss NonSaturating Hinge LeastSquares",
    "discriminators.gammas": "Gamma Alpha2 TargetScale SpreadControl",
    "discriminators.real_samples": "RealSamples SourceImage ImageFolder PriorSamples NearestReference",
    "generators.base": "Generator",
    "generators.images": "Pixels Latents",
    "generators.networks": "Network Backbone PriorNetwork SmallUNet",
    "generators.gaussians": "Gaussians",
    "generators.gaussian_start": "Start ShapE",
    "generators.gaussian_settings": "Initial GaussianRates Rounds GaussianPenalties",
    "generators.density_control": "Density Fraction Threshold MCMC",
    "generators.nerf": "NeRF NeRFRates NeRFPenalties",
    "generators.amortized": "Amortized3D",
    "generators.nerf_encodings": "Encoding Voxels TriPlane HashGrid",
    "priors.pretrained": "Pretrained",
    "lab": "GaussianPrior FiniteSetPrior GaussianScore ParticleScore",
    "run.judge": "CLIPJudge StabilityJudge",
    "data": "Cameras Canvas Prompts PromptList PromptFile",
    "formats.references": "PosedPictures ReferenceView PosedFolder Reconstruction",
    "core.ramps": "Ramp",
    "toybox.clip": "CLIPScorer",
    "toybox.judge": "ToyboxJudge ToyboxImageJudge ToyboxSamplesJudge",
    "toybox.objects_judge": "ToyboxObjectsJudge",
    "toybox.given": "ToyboxPrompts ToyboxCanvas ToyboxEditJudge ToyboxAwayJudge ToyboxGainJudge ToyboxCeilingJudge",
    "toybox.truths": "ToyboxTruths ParticleASD",
    "toybox.training.renders": "ToyboxData",
    "toybox.training.vae": "TrainVAE",
    "toybox.training.unet": "TrainUNet",
    "toybox.training.clip": "TrainCLIP",
}
PUBLIC_NAMES = {name: f"asdkit.{module}" for module, names in _MODULES.items() for name in names.split()}
FUNCTIONS = dict.fromkeys(("make", "load"), "asdkit.commands.make")  # of Python alone: no recipe may name them


def public_path(target: Callable[..., Any]) -> str:
    """The import path by which recipes name a class or function: the face's where asdkit exports it, or its own."""
    module, name = target.__module__, target.__qualname__
    return f"asdkit.{name}" if PUBLIC_NAMES.get(name) == module else f"{module}.{name}"
