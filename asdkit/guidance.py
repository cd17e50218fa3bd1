"""Methods as one-line expressions of score fields. The residual of each is what Eq. 7 weighs with w(t)."""

from asdkit.adapters import LoRA
from asdkit.discriminator import Adapter, Discriminator
from asdkit.fields import CFG, Field, Noise
from asdkit.part import records_spec


@records_spec
def ASD(
    scale: float = 7.5,
    gamma: float = -0.5,
    adapter: Adapter | None = None,
    negative: str | None = None,
    allow_unbounded: bool = False,
) -> Field:
    """Adversarial score distillation: e_null + lambda (e_y - e_null) - e_phi, phi trained by Eq. 10.

    Args:
        scale: the CFG scale lambda; 7.5 in the paper.
        gamma: weight of the discriminator's penalty; -0.5 in the paper's 3D experiments.
        adapter: where phi lives; a LoRA of rank 4 when left out.
        negative: a negative prompt in the place of the null condition.
        allow_unbounded: accept gamma <= -1, where Eq. 10 has no minimum.
    """
    phi = Discriminator(adapter or LoRA(), gamma, allow_unbounded=allow_unbounded)
    return CFG(scale=scale, negative=negative) - phi


@records_spec
def VSD(scale: float = 7.5, adapter: Adapter | None = None, negative: str | None = None) -> Field:
    """Variational score distillation (ProlificDreamer): ASD with gamma = 0.

    Args:
        scale: the CFG scale lambda; 7.5 in ProlificDreamer.
        adapter: where phi lives; a LoRA of rank 4 when left out.
        negative: a negative prompt in the place of the null condition.
    """
    return CFG(scale=scale, negative=negative) - Discriminator(adapter or LoRA(), gamma=0.0)


@records_spec
def SDS(scale: float = 100.0, negative: str | None = None) -> Field:
    """Score distillation sampling (DreamFusion): e_null + lambda (e_y - e_null) - eps.

    Args:
        scale: the CFG scale lambda; 100 in DreamFusion (threestudio's guidance_scale 100 is 101 here).
        negative: a negative prompt in the place of the null condition.
    """
    return CFG(scale=scale, negative=negative) - Noise()
