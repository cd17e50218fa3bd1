"""Measures by closed forms, slow loops and repeated draws."""

import math
from itertools import product

import pytest
import torch

from asdkit.toybox import measures


def wave(cycles: float, amplitude: float, size: int = 128) -> torch.Tensor:
    row = 0.5 + amplitude * torch.cos(2 * math.pi * cycles * torch.arange(size) / size)
    return row.expand(1, 3, size, size)


def test_differences_of_pictures_and_silhouettes_by_hand() -> None:
    black, white = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert measures.psnr(0.6 * white, 0.5 * white).item() == pytest.approx(20, abs=1e-4)
    assert measures.diversity(black) == 0
    assert [measures.diversity(torch.cat([black, white * level])) for level in (1, 0.5)] == pytest.approx([1, 0.5])
    assert measures.diversity(torch.cat([black, white, white])) == pytest.approx(2 / 3)
    left, all_of_it = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    left[..., :2] = 0.6
    assert measures.silhouette_iou(left, all_of_it).item() == 0.5
    assert measures.silhouette_iou(left * 0.5, left * 0.5).item() == 1, "two empty silhouettes agree"
    assert measures.silhouette_iou(left * 0.5, left).item() == 0


def test_the_spectrum_has_half_a_waves_squared_amplitude_in_its_band_and_adds_up_to_the_mean_square() -> None:
    """What lies beyond half the width is left out, so the picture is band limited: enlarged by zeros in frequency."""
    expected = torch.zeros(64)
    expected[0], expected[9] = 0.5**2, 0.2**2 / 2
    assert torch.allclose(measures.spectrum(wave(9, 0.2))[0], expected, atol=1e-6)
    coefficients = torch.zeros(2, 3, 32, 32, dtype=torch.complex128)
    coefficients[..., :8, :8] = torch.randn(2, 3, 8, 8, dtype=torch.complex128)
    images = torch.fft.ifft2(coefficients).real
    assert torch.allclose(measures.spectrum(images).sum(1), images.square().mean((1, 2, 3)).float())


def test_texture_power_and_the_distance_of_spectra_by_hand() -> None:
    coarse, both = wave(3, 0.2), wave(3, 0.2) + wave(20, 0.1) - 0.5
    assert measures.texture_power(both).item() == pytest.approx(0.25, rel=1e-4)
    noise = torch.rand(1, 3, 128, 128)
    assert measures.texture_power(coarse).item() < 1e-4 and measures.texture_power(noise).item() > 10
    weaker = 0.5 + (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.5
    noise = 0.5 + (weaker - 0.5) * 2
    assert measures.spectrum_distance(weaker, noise) == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_the_palette_distance_is_how_far_colours_are_moved_and_sees_how_channels_go_together() -> None:
    """Red and turquoise, or white and black: each channel is half 0 and half 1 in both."""
    colours, move = torch.rand(512, 3), torch.tensor([0.1, -0.2, 0.05])
    assert measures.palette_distance(colours, colours[torch.randperm(512)]) == 0
    assert measures.palette_distance(colours, colours + move) == pytest.approx(move.norm().item(), rel=0.03)
    assert math.isnan(measures.palette_distance(colours, colours[:0]))
    pairs = (torch.tensor([[1.0, 0, 0], [0, 1, 1]]), torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    first, second = (pair.repeat(300, 1) for pair in pairs)
    on_a_sphere = torch.nn.functional.normalize(torch.randn(4000, 3))
    slow = 2 * torch.stack([(a @ on_a_sphere.T).sort(0).values for a in pairs]).diff(dim=0).abs().mean().item()
    assert measures.palette_distance(first, second) == pytest.approx(slow, rel=0.05) and slow > 0.2
    assert measures.palette_distance(first, second[:100]) == pytest.approx(slow, rel=0.07)


def test_mottle_is_what_is_rough_where_the_truth_is_smooth() -> None:
    """Noise of deviation s has a mean |laplacian| of s sqrt(2.5 / pi); by rounding to 8 bits it is 0.001."""
    truth, alpha = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 1, 64, 64)
    alpha[..., 8:56, 8:56] = 1
    truth[..., 30:34] = 0.9  # an edge, near which nothing counts
    assert measures.mottle(truth, truth, alpha) == 1
    rounded = (truth + (torch.rand_like(truth) - 0.5) / 255).expand(1, 3, 64, 64)
    assert measures.mottle(rounded, truth, alpha) == pytest.approx(2, abs=0.05)
    noisy = truth + 0.05 * torch.randn_like(truth)
    rounding = 0.2575 / 255
    expected = (0.05 * math.sqrt(2.5 / math.pi) + rounding) / rounding
    assert measures.mottle(noisy, truth, alpha) == pytest.approx(expected, rel=0.05)
    elsewhere = torch.where(alpha > 0, truth, torch.rand_like(truth))
    elsewhere[..., 29:35] = 0.2
    assert measures.mottle(elsewhere, truth, alpha) == pytest.approx(1, abs=1e-4), "neither outside nor at edges"
    assert math.isnan(measures.mottle(truth, truth, alpha * 0))


def test_kid_by_slow_loops_and_its_error_by_the_deviation_over_new_draws() -> None:
    x, y = torch.randn(5, 4), torch.randn(3, 4) + 1

    def mean(first: torch.Tensor, second: torch.Tensor, same: bool) -> float:
        pairs = [(a, b) for a, b in product(range(len(first)), range(len(second))) if not (same and a == b)]
        return sum((float(first[a] @ second[b]) / 4 + 1) ** 3 for a, b in pairs) / len(pairs)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert measures.kid(x, y) == pytest.approx(expected, rel=1e-5)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(60, 4), torch.randn(60, 4) + 0.7

    spread = torch.tensor([measures.kid(*draw()) for _ in range(200)]).std().item()
    errors = torch.tensor([measures.kid_error(*draw()) for _ in range(8)]).mean().item()
    assert errors == pytest.approx(spread, rel=0.25)
