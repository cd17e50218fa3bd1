"""What the numbers of a run mean, in words."""

from typing import NamedTuple


class Meaning(NamedTuple):
    """A title, what the number says, and its unit."""

    title: str
    text: str
    unit: str = ""


MEANINGS = {
    "psnr": Meaning("Nearness to the truth", "PSNR to the true object's pictures; 20 is alike, 30 the same", "dB"),
    "iou": Meaning("Outline", "overlap of its silhouette with the true one; 1 is the same"),
    "azimuth": Meaning("Right way round", "share of eight directions that show the side they should; 1 is all"),
    "r_precision": Meaning("Recognised", "share of its pictures that a CLIP gives this prompt among others; 1 is all"),
    "clip_score": Meaning("Likeness to the prompt", "cosine of its pictures and the prompt in a CLIP; more is better"),
    "view_consistency": Meaning("Consistency", "cosine of neighbouring views in a CLIP; 1 is the same"),
    "janus": Meaning("Second face", "share of the views from behind that look like a front; 0 is none"),
    "saturation": Meaning("Colourfulness", "mean saturation of its colours; 0 is grey, 1 is pure"),
    "sharpness": Meaning("Sharpness", "mean difference of a pixel from its neighbours"),
    "drift": Meaning("Unrest", "mean change of the pictures in the last fifth of the steps; 0 has settled"),
    "movement": Meaning(
        "Movement", "mean change of the pictures from a late fifth of the steps to the next; 0 has settled"
    ),
    "structure": Meaning("Change of structure", "the same of where pictures are bright and dark; 0 stays in its place"),
    "outside": Meaning("Change elsewhere", "mean change of an edit outside of both silhouettes; 0 is none"),
    "gain": Meaning("Gain", "what the run has added to the nearness to the truth of what it was given", "dB"),
    "change": Meaning("Change", "mean difference from the source picture; 0 is none"),
    "similarity": Meaning("Likeness to the prompt", "cosine of the pictures and the prompt in a CLIP; more is better"),
    "diversity": Meaning("Variety", "mean difference of two pictures of a prompt; 0 is a collapse"),
    "kid": Meaning("Distance from the prior", "kernel distance of its pictures from the prior's own; 0 is none"),
    "residual_norm": Meaning("Pull", "how strongly the prior still asks for changes: the norm of Eq. 7's residual"),
    "discriminator_loss": Meaning("Discriminator's loss", "what the field that learns is trained by, Eq. 10"),
}
REFERENCES = {"true_": "the truth has", "teacher_": "the prior's own pictures have", "source_": "the source has"}


def meaning(name: str) -> Meaning:
    """What a number of this name means; a figure of a CLIP's ends in the CLIP's name."""
    known = MEANINGS.get(name) or next((m for key, m in MEANINGS.items() if name.startswith(f"{key}_")), None)
    return known or Meaning(name.replace("_", " ").capitalize(), "")
