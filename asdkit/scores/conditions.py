"""What a prior is conditioned on: a prompt, with or without the words for the view."""

from dataclasses import dataclass
from typing import Literal

Words = Literal["nearest", "blended", "front", "side"]


@dataclass(frozen=True)
class Condition:
    """What a prior is conditioned on: a prompt, with or without words for the view.

    Args:
        text: the prompt without view words; empty for the null condition.
        view_dependent: whether the view's words (and its camera, where the prior takes one) are added.
        words: the words that a view-dependent prompt gets. `nearest` takes the nearest direction's. `blended` takes the
            embedding between the prompts of the two directions on either side of the camera. `front`, and `side` for
            the camera's own side, take these wherever the camera stands, and leave the camera itself out.
    """

    text: str
    view_dependent: bool = True
    words: Words = "nearest"

    @property
    def sees_camera(self) -> bool:
        """Whether the camera itself belongs to the condition."""
        return self.view_dependent and self.words in ("nearest", "blended")


NULL = Condition("", view_dependent=False)
