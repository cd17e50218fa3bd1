"""Where a radiance field keeps what it knows: features of points in [-1,1]^3."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from asdkit.core.bounds import Count, Within
from asdkit.core.parts import Part, require

Bits = Annotated[int, Within(4, 24)]
_PRIMES = (1, 2654435761, 805459861)


class Encoding(Part, nn.Module, ABC):
    """Gives the features of points in space, which the network of a NeRF reads."""

    width: int  # how many features a point has

    @abstractmethod
    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N width"]:
        """The features of points in [-1,1]^3."""


class _Grids(Encoding, ABC):
    """Grids of several resolutions, whose features stand side by side."""

    def __init__(self, grids: Iterable[Tensor], features: int) -> None:
        super().__init__()
        self.grids = nn.ParameterList(grids)
        require(len(self.grids) > 0, f"{type(self).__name__} needs a resolution; got none.")
        self.width = features * len(self.grids)

    def read(self, places: Tensor) -> list[Tensor]:
        return [grid_sample(grid, places, padding_mode="border", align_corners=True) for grid in self.grids]


class Voxels(_Grids):
    """Keeps features in dense grids of several resolutions, read trilinearly. It is the fastest encoding on a CPU.

    Args:
        resolutions: the number of grid points along each axis of each grid, at least one number.
        features: the number of features of each grid.
    """

    def __init__(
        self, resolutions: Sequence[Annotated[int, Within(2, 512)]] = (16, 32, 64), features: Count = 4
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = [(1, features, size, size, size) for size in resolutions]
        super().__init__((1e-2 * torch.randn(shape, generator=generator) for shape in shapes), features)

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N width"]:
        return torch.cat([values.flatten(2)[0] for values in self.read(points.view(1, 1, 1, -1, 3))]).T


class TriPlane(_Grids):
    """Keeps features in three planes through the origin (K-planes), which are read bilinearly and multiplied.

    It takes less memory than Voxels at high resolution.

    Args:
        resolutions: the number of grid points along each axis of the planes, at least one number.
        features: the number of features of each resolution.
    """

    def __init__(self, resolutions: Sequence[Annotated[int, Within(2, 4096)]] = (32, 128), features: Count = 8) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = [(3, features, size, size) for size in resolutions]
        super().__init__((1 + 0.1 * torch.randn(shape, generator=generator) for shape in shapes), features)

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N width"]:
        places = torch.stack([points[:, :2], points[:, ::2], points[:, 1:]])[:, None]  # x and y, x and z, y and z
        return torch.cat([values[:, :, 0].prod(0) for values in self.read(places)]).T


class HashGrid(Encoding):
    """Keeps features in Instant-NGP's hash grid, in plain torch: high resolution in little memory, meant for CUDA.

    Args:
        levels: the number of resolutions, which grow geometrically.
        coarsest: the number of cells along an axis of the coarsest level.
        finest: the number of cells along an axis of the finest level, at least `coarsest`.
        features: the number of features of each level.
        log2_size: the binary logarithm of the table's length; a longer table has fewer collisions.
    """

    corners: Tensor

    def __init__(
        self, levels: Count = 8, coarsest: Count = 16, finest: Count = 256, features: Count = 2, log2_size: Bits = 15
    ) -> None:
        super().__init__()
        require(finest >= coarsest, f"HashGrid's finest must be at least its coarsest, {coarsest}; got {finest}.")
        growth = math.log(finest / coarsest) / max(1, levels - 1)
        self.cells = [round(coarsest * math.exp(growth * level)) for level in range(levels)]
        table = torch.rand(levels, 2**log2_size, features, generator=torch.Generator().manual_seed(0))
        self.table = nn.Parameter(2e-2 * table - 1e-2)
        self.width = levels * features
        corners = torch.tensor([[bits >> axis & 1 for axis in range(3)] for bits in range(8)])
        self.register_buffer("corners", corners, persistent=False)

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N width"]:
        levels = []
        for cells, table in zip(self.cells, self.table, strict=True):
            place = (points * 0.5 + 0.5) * cells
            corner = place.floor()
            share = place - corner
            features = points.new_zeros(len(points), table.shape[1])
            for step in self.corners:
                weight = torch.where(step.bool(), share, 1 - share).prod(1, keepdim=True)
                features = features + weight * table[_slot(corner.long() + step, cells, len(table))]
            levels.append(features)
        return torch.cat(levels, dim=1)


def _slot(corner: Tensor, cells: int, size: int) -> Tensor:
    """Where a grid point is kept: in its own place if all fit, hashed otherwise."""
    x, y, z = corner.unbind(1)
    if (cells + 1) ** 3 <= size:
        x, y, z = (axis.clamp(0, cells) for axis in (x, y, z))
        return (x * (cells + 1) + y) * (cells + 1) + z
    return (x * _PRIMES[0] ^ y * _PRIMES[1] ^ z * _PRIMES[2]) % size
