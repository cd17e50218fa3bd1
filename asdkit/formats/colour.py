"""Between sRGB, what displays are given and pictures hold, and linear light, what glTF's vertex colours are."""

import numpy as np
from jaxtyping import Float


def linear_light(colours: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Linear light in [0,1] of sRGB colours in [0,1]."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def from_linear_light(light: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The inverse of `linear_light`."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
