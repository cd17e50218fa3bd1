"""How the views of a step are rendered."""

from dataclasses import dataclass

from asdkit.core.bounds import Share, Whole, checked


@checked
@dataclass(frozen=True)
class Rendering:
    """What stands behind the object, and how much memory the views of a step take.

    Args:
        background: grey level of the plain background, which pictures and metrics have as well.
        random_background: share of the iterations with a random plain background instead of `background`.
        chunk: how many views are rendered, encoded and denoised at a time, a divisor of their number; gradients add
            up, so that the step is the same in less memory. 0 for all at once. Images without cameras are always done
            at once.
        rerender: render a second time for the generator's gradient, instead of keeping what the first time computed
            while the prior works: less memory for one more render.
    """

    background: Share = 0.85
    random_background: Share = 0.0
    chunk: Whole = 0
    rerender: bool = False
