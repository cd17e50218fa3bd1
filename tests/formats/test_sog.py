"""SOG bundles: what PlayCanvas's own reader makes of them, and how near their numbers are."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.splat_tools import near, near_quats, opacities, splat_transform, splats

from asdkit.formats import sog
from asdkit.formats.splat_files import read_splats, write_splats
from asdkit.formats.splats import Splats


def through_playcanvas(original: Splats, folder: Path) -> tuple[Splats, Splats]:
    """What splat-transform reads, and the Gaussians nearest to these."""
    write_splats(folder / "a.sog", original)
    splat_transform(folder / "a.sog", folder / "a.ply")
    read = read_splats(folder / "a.ply")
    nearest = np.linalg.norm(read.means[:, None] - original.means[None], axis=2).argmin(axis=1)
    assert sorted(nearest) == list(range(len(original.means)))
    return read, Splats(*(values[nearest] for values in original))


def as_good_as_even_steps(read: np.ndarray, written: np.ndarray) -> None:
    """The codebook's errors are no larger than those of 256 numbers at even distances."""
    step = (written.max() - written.min()) / 255
    even = np.rint((written - written.min()) / step) * step + written.min()
    assert np.sqrt(np.mean((read - written) ** 2)) <= np.sqrt(np.mean((even - written) ** 2))
    assert np.abs(read - written).max() <= 2 * step


@pytest.mark.parametrize("degree", [0, 3])
def test_playcanvas_reads_what_was_written(tmp_path: Path, degree: int) -> None:
    """Half a step of each: 65536 between the ends of ln(1 + |x|), and bytes of opacities and smaller components."""
    original = splats(count=300, degree=degree)
    original.opacity_logits[:2] = [40, -40]  # where a picture is clear its colours count all the same
    read, written = through_playcanvas(original, tmp_path)
    logs = np.sign(original.means) * np.log1p(np.abs(original.means))
    steps = (logs.max(axis=0) - logs.min(axis=0)) / 65535
    assert (np.abs(read.means - written.means) <= 0.51 * steps * (1 + np.abs(written.means)) + 1e-6).all()
    near(opacities(read), opacities(written), 0.5 / 255)
    near_quats(read.quats, written.quats, 3.1 * np.sqrt(2) * 0.5 / 255)
    as_good_as_even_steps(read.log_scales, written.log_scales)
    as_good_as_even_steps(read.sh[:, 0], written.sh[:, 0])
    assert read.sh.shape == written.sh.shape
    if degree:
        as_good_as_even_steps(read.sh[:, 1:], written.sh[:, 1:])


def test_equal_gaussians(tmp_path: Path) -> None:
    """Between their least and their largest number is no way."""
    original = Splats(*(np.repeat(values, 5, axis=0) for values in splats(count=1, degree=1)))
    write_splats(tmp_path / "a.sog", original)
    splat_transform(tmp_path / "a.sog", tmp_path / "a.ply")
    read = read_splats(tmp_path / "a.ply")
    for name in ("means", "log_scales", "sh"):
        near(getattr(read, name), getattr(original, name), 1e-6)


def test_the_file_is_as_the_specification_says(tmp_path: Path) -> None:
    """Names and facts of version 2; pictures are lossless, of one size, and their sides are multiples of four."""
    original = splats(count=300, degree=2)
    data = sog.encode_sog(tmp_path / "a.sog", original)
    assert data == sog.encode_sog(tmp_path / "a.sog", original)
    bundle = zipfile.ZipFile(BytesIO(data))
    meta = json.loads(bundle.read("meta.json"))
    names = [name for part in ("means", "scales", "quats", "sh0", "shN") for name in meta[part]["files"]]
    assert bundle.namelist() == ["meta.json", *names]
    assert (meta["version"], meta["count"], meta["shN"]["count"], meta["shN"]["bands"]) == (2, 300, 300, 2)
    assert [len(meta[part]["codebook"]) for part in ("scales", "sh0", "shN")] == [256] * 3
    pictures = {name: Image.open(BytesIO(bundle.read(name))) for name in names}
    assert pictures.pop("shN_centroids.webp").size == (64 * 8, 5)
    assert {picture.size for picture in pictures.values()} == {(20, 16)}
    assert all(b"VP8L" in bundle.read(name)[:40] for name in names)


def test_neighbours_in_space_are_neighbours_in_the_file() -> None:
    """The bits of the cells' coordinates, z y x from the highest on, make numbers that ascend."""
    means = np.random.default_rng(0).normal(size=(200, 3))
    low, high = means.min(axis=0), means.max(axis=0)
    codes = []
    for x, y, z in ((means - low) / (high - low) * 1023).astype(int)[sog._along_curve(means)].tolist():
        codes.append(int("".join("".join(bits) for bits in zip(*(f"{v:010b}" for v in (z, y, x)), strict=True)), 2))
    assert codes == sorted(codes)


def test_a_palette_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four kinds are found again; each set is the mean of the Gaussians that have it."""
    monkeypatch.setattr(sog, "_PALETTE", 4)
    draws = np.random.default_rng(0)
    kinds = draws.permutation(np.repeat(np.arange(4), 25))
    sh = draws.normal(size=(4, 3, 3))[kinds] + 1e-3 * draws.normal(size=(100, 3, 3))
    palette, labels = sog._palette(sh)
    assert np.abs(palette[labels] - sh).max() < 0.01
    for label in range(4):
        np.testing.assert_allclose(palette[label], sh[labels == label].mean(axis=0), atol=1e-12)
    enough, own = sog._palette(sh[:4])
    np.testing.assert_array_equal(enough[own], sh[:4])
