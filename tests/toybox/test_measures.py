"""The measures of pictures against closed forms and slow loops."""

import math

import pytest
import torch

from asdkit.toybox import measures


def pictures(count: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_psnr() -> None:
    """Errors of 0.1 everywhere, of 0.5 in a quarter of the pixels, and of nothing."""
    truth = torch.full((3, 3, 8, 8), 0.5)
    images = truth.clone()
    images[0] += 0.1
    images[1, :, :4, :4] += 0.5
    assert measures.psnr(images, truth).tolist() == pytest.approx(
        [20.0, -10 * math.log10(0.25 / 4), math.inf], abs=1e-4
    )


def test_sharpness() -> None:
    """A checkerboard of one pixel differs by 1 from its neighbours, a slope by nothing."""
    row = torch.arange(8)
    board = ((row[:, None] + row) % 2).float().expand(3, 8, 8)
    slope = (row / 8).expand(3, 8, 8)
    assert measures.sharpness(torch.stack([board, slope])).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(("across", "down", "ring"), [(3, 0, 3), (0, 5, 5), (3, 4, 5), (1, 1, 1)])
def test_the_power_of_a_wave_lies_in_its_ring(across: int, down: int, ring: int) -> None:
    """A wave of amplitude a has the power a^2 / 4 at two frequencies, shared by all of its ring."""
    row = torch.arange(32) * 2 * math.pi / 32
    image = (0.5 + 0.4 * torch.cos(across * row + down * row[:, None])).expand(1, 3, 32, 32)
    power = measures.radial_power(image)[0]
    frequencies = [(i, j) for i in range(-16, 16) for j in range(-16, 16) if round(math.hypot(i, j)) == ring]
    assert power[ring - 1].item() == pytest.approx(2 * 0.4**2 / 4 / len(frequencies), rel=1e-4)
    assert power.sum().item() == pytest.approx(power[ring - 1].item(), rel=1e-4)


def test_spectral_distance_is_in_decibels() -> None:
    """Half the contrast is a quarter of the power: 6.02 dB at each frequency."""
    images = pictures(4)
    assert measures.spectral_distance(images, images) == 0
    assert measures.spectral_distance(0.5 * images, images) == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_palette_distance() -> None:
    """It doesn't see where colours lie; a shift of all colours moves each direction by its share."""
    images = pictures(3)
    shuffled = images.flatten(2)[:, :, torch.randperm(256, generator=torch.Generator().manual_seed(1))].unflatten(
        2, (16, 16)
    )
    assert measures.palette_distance(shuffled, images) == pytest.approx(0, abs=1e-6)
    expected = (3 * 0.2 + 0.2 * math.sqrt(3) + 3 * 0.2 / math.sqrt(3)) / 7
    assert measures.palette_distance(images + 0.2, images) == pytest.approx(expected, rel=1e-4)
    expected = (0.2 + 4 * 0.2 / math.sqrt(3)) / 7
    assert measures.palette_distance(images + torch.tensor([0.2, 0, 0])[:, None, None], images) == pytest.approx(
        expected, rel=1e-4
    )


def test_pairwise_distance() -> None:
    images = pictures(5)
    pairs = [(images[i] - images[j]).square().mean().sqrt().item() for i in range(5) for j in range(i)]
    assert measures.pairwise_distance(images) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


def test_kid_is_the_unbiased_estimate_of_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 4, generator=generator), torch.randn(7, 4, generator=generator) + 0.5

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 4 + 1) ** 3)

    within = sum(kernel(a[i], a[j]) for i in range(6) for j in range(6) if i != j) / 30
    among = sum(kernel(b[i], b[j]) for i in range(7) for j in range(7) if i != j) / 42
    across = sum(kernel(x, y) for x in a for y in b) / 42
    assert measures.kid(a, b)[0] == pytest.approx(within + among - 2 * across, rel=1e-5)


def test_kids_error_is_its_spread_over_draws() -> None:
    """Of 200 pairs of sets of two normal distributions."""
    values, errors = [], []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        a, b = torch.randn(60, 3, generator=generator), torch.randn(50, 3, generator=generator) + 0.8
        value, error = measures.kid(a, b)
        values.append(value)
        errors.append(error)
    spread = torch.tensor(values).std().item()
    assert sum(errors) / 200 == pytest.approx(spread, rel=0.2)
    same = [
        measures.kid(*torch.randn(2, 60, 3, generator=torch.Generator().manual_seed(seed)))[0] for seed in range(200)
    ]
    assert abs(sum(same) / 200) < 4 * torch.tensor(same).std().item() / 200**0.5
