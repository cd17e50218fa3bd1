"""Operations of the named architectures, counted on torch's meta device: `python tests/support/architectures.py` prints
the table of docs/benchmarks.md, from the repository.
"""

from unittest import mock

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from asdkit import LoRA, Pretrained
from asdkit.priors.families import Family
from asdkit.priors.locate import ARCHITECTURES

RANK = 4


def on_meta(name: str) -> Pretrained:
    """A prior whose tensors take no memory; its schedule is real."""
    schedule = Family.schedule

    def real(self: Family, *args: object) -> object:
        with torch.device("cpu"):
            return schedule(self, *args)

    prior = Pretrained(f"random:{name}")
    with mock.patch.object(Family, "schedule", real), torch.device("meta"):
        prior.setup()
    return prior


def operations_of(prior: Pretrained, size: int) -> dict[str, float]:
    """Of one sample: f, a forward pass of the network; e and E, forward and backward through the encoder."""
    with torch.no_grad():
        found = {"f": counted(lambda: predicted(prior, size))}
    if prior.vae is not None:
        image = torch.zeros(1, 3, size, size, device="meta", requires_grad=True)
        latents: list[Tensor] = []
        found["e"] = counted(lambda: latents.append(prior.encode(image)))
        found["E"] = counted(lambda: latents[0].sum().backward())
    return found


def learning(prior: Pretrained, size: int) -> float:
    """Of one sample, L: forward and backward of the network with a LoRA of the paper's rank, whose weights learn."""
    lora = LoRA(RANK, camera=False)
    with torch.device("meta"):
        lora._inject(prior.network, list(prior.adapter_targets))  # to attach it looks at values
    with lora.within(prior):
        return counted(lambda: predicted(prior, size).sum().backward())


def predicted(prior: Pretrained, size: int) -> Tensor:
    embedded = prior.source.files.embedded("a duck")
    embedded = {name: value[None].to("meta") for name, value in embedded.items()}
    x_t = torch.zeros(1, *prior.latent_shape(size, size), device="meta")
    return prior.family.call(prior.network, x_t, torch.zeros(1, device="meta"), embedded)


def counted(act: object) -> float:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        act()
    return counter.get_total_flops()


def documented_row(name: str, size: int = 0, tiny: bool = False) -> str:
    """A row of the table: TFLOP of the parts, and of a sample in a step of SDS, VSD, ASD in the fast, the
    paper-faithful and the released code's way; and the fast way's share of the paper's. `tiny` is with TAESD."""
    prior, size = on_meta(name), size or {"if": 64, "toybox": 128}.get(name, 512)
    if tiny:
        with torch.device("meta"):
            prior.vae = AutoencoderTiny().requires_grad_(False)
    parts = operations_of(prior, size)
    f, step, encoder = parts["f"], learning(prior, size), parts.get("e", 0) + parts.get("E", 0)
    calls = (2 * f, 3 * f + step, 2 * f + step, 4 * f + step, 5 * f + step)
    columns = (f, step, encoder, *(call + encoder for call in calls))
    numbers = " | ".join(f"{column / 1e12:.3g}" for column in columns)
    return f"| `{name}`{', tiny' * tiny} | {size} | {numbers} | {columns[5] / columns[6]:.2f} |"


if __name__ == "__main__":
    for name in ARCHITECTURES:
        print(documented_row(name))
    print(documented_row("sd21", 256, tiny=True), documented_row("sd21", 512, tiny=True), sep="\n")
