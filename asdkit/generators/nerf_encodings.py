"""Where a radiance field keeps what it knows: features of points in [-1,1]^3."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from asdkit.core.parts import Part

_PRIMES = (1, 2654435761, 805459861)


class Encoding(Part, nn.Module, ABC):
    """Features of points.

    Attributes:
        width: how many features a point has.
    """

    width: int

    @abstractmethod
    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N width"]:
        """The features of points in [-1,1]^3."""


class Voxels(Encoding):
    """Dense grids of several resolutions, read trilinearly; the fastest on a CPU.

    Args:
        resolutions: grid points along each axis, each within 2 and 512.
        features: of each grid.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, resolutions: Sequence[int] = (16, 32, 64), features: int = 4) -> None:
        super().__init__()
        if not resolutions or not all(2 <= size <= 512 for size in resolutions) or features < 1:
            raise ValueError(
                f"Voxels need resolutions within 2 and 512 and a feature at least; got {resolutions} and {features}."
            )
        generator = torch.Generator().manual_seed(0)
        self.grids = nn.ParameterList(
            1e-2 * torch.randn(1, features, size, size, size, generator=generator) for size in resolutions
        )
        self.width = features * len(resolutions)

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N width"]:
        where = points.view(1, 1, 1, -1, 3)
        read = [grid_sample(grid, where, padding_mode="border", align_corners=True) for grid in self.grids]
        return torch.cat([features.flatten(2)[0] for features in read]).T


class TriPlane(Encoding):
    """Three planes through the origin, read bilinearly and multiplied (K-planes); less memory at high resolution.

    Args:
        resolutions: grid points along each axis of the planes, each within 2 and 4096.
        features: of each resolution.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, resolutions: Sequence[int] = (32, 128), features: int = 8) -> None:
        super().__init__()
        if not resolutions or not all(2 <= size <= 4096 for size in resolutions) or features < 1:
            raise ValueError(
                f"TriPlane needs resolutions within 2 and 4096 and a feature; got {resolutions} and {features}."
            )
        generator = torch.Generator().manual_seed(0)
        self.planes = nn.ParameterList(
            1 + 0.1 * torch.randn(3, features, size, size, generator=generator) for size in resolutions
        )
        self.width = features * len(resolutions)

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N width"]:
        where = torch.stack([points[:, axes] for axes in ([0, 1], [0, 2], [1, 2])])[:, None]
        read = [grid_sample(plane, where, padding_mode="border", align_corners=True) for plane in self.planes]
        return torch.cat([features[:, :, 0].prod(0) for features in read]).T


class HashGrid(Encoding):
    """Instant-NGP's hash grid in plain torch: high resolution in little memory; meant for CUDA.

    Args:
        levels: resolutions, growing geometrically, at least 1.
        coarsest: cells along an axis of the coarsest level, at least 1.
        finest: cells along an axis of the finest level, at least `coarsest`.
        features: of each level.
        log2_size: logarithm of the table's length, within 4 and 24.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self, levels: int = 8, coarsest: int = 16, finest: int = 256, features: int = 2, log2_size: int = 15
    ) -> None:
        super().__init__()
        if min(levels, coarsest, features) < 1 or finest < coarsest or not 4 <= log2_size <= 24:
            raise ValueError(
                "HashGrid needs levels, coarsest and features of 1 or more, finest >= coarsest and log2_size within 4 "
                f"and 24; got {levels}, {coarsest}, {features}, {finest} and {log2_size}."
            )
        growth = math.log(finest / coarsest) / max(1, levels - 1)
        self.cells = [round(coarsest * math.exp(growth * level)) for level in range(levels)]
        table = torch.rand(levels, 2**log2_size, features, generator=torch.Generator().manual_seed(0))
        self.table = nn.Parameter(2e-2 * table - 1e-2)
        self.width = levels * features
        corners = torch.tensor([[bits >> axis & 1 for axis in range(3)] for bits in range(8)])
        self.register_buffer("corners", corners, persistent=False)

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N width"]:
        found = []
        for cells, table in zip(self.cells, self.table, strict=True):
            place = (points * 0.5 + 0.5) * cells
            corner = place.floor()
            share = place - corner
            features = points.new_zeros(len(points), table.shape[1])
            for step in self.corners:
                weight = torch.where(step.bool(), share, 1 - share).prod(1, keepdim=True)
                features = features + weight * table[_slot(corner.long() + step, cells, len(table))]
            found.append(features)
        return torch.cat(found, dim=1)


def _slot(corner: Tensor, cells: int, size: int) -> Tensor:
    """Where a grid point is kept: in its own place if all fit, hashed otherwise."""
    x, y, z = corner.unbind(1)
    if (cells + 1) ** 3 <= size:
        x, y, z = (axis.clamp(0, cells) for axis in (x, y, z))
        return (x * (cells + 1) + y) * (cells + 1) + z
    return (x * _PRIMES[0] ^ y * _PRIMES[1] ^ z * _PRIMES[2]) % size
