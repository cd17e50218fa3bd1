"""How the views of a step are rendered."""

from dataclasses import dataclass

from asdkit.core.bounds import Share, Whole, checked


@checked
@dataclass(frozen=True)
class Rendering:
    """What stands behind the object, and how much memory the views of a step take.

    Args:
        background: the grey level of the plain background, which pictures and metrics have as well.
        random_background: the share of the iterations that have a random plain background instead of `background`.
        chunk: the number of views that are rendered, encoded and denoised at a time, a divisor of their total.
            Gradients add up, so a smaller chunk takes less memory and gives the same step. 0 does all at once, as is
            always done for images without cameras.
        rerender: whether to render a second time for the generator's gradient, instead of keeping the first rendering's
            intermediate results while the prior works. It saves memory for the price of one more render.
    """

    background: Share = 0.85
    random_background: Share = 0.0
    chunk: Whole = 0
    rerender: bool = False
