"""Pictures as cameras, scanners, printers and painters leave them; expected values come from their pixels."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from asdkit.formats.pictures import read_picture, save_grid

CORNER = np.zeros((2, 3, 3), np.uint8)
CORNER[0, 0] = 255  # white at the top left, black elsewhere


def white_at(path: Path) -> tuple[list[int], list[int]]:
    """The size of a picture, and where it is brightest."""
    image = read_picture(path).mean(0)
    return list(image.shape), np.unravel_index(int(image.argmax()), image.shape)


@pytest.mark.parametrize(
    ("orientation", "size", "place"),
    [(1, [2, 3], (0, 0)), (2, [2, 3], (0, 2)), (3, [2, 3], (1, 2)), (4, [2, 3], (1, 0)), (6, [3, 2], (0, 1)),
     (8, [3, 2], (2, 0)), (5, [3, 2], (0, 0)), (7, [3, 2], (2, 1))],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_a_camera_that_was_turned(tmp_path: Path, suffix: str, orientation: int, size: list, place: tuple) -> None:
    """Orientation 6 means: row 0 is the right side of the scene, so that the stored corner belongs to the right."""
    picture, exif = Image.fromarray(CORNER), Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    picture.save(tmp_path / f"a{suffix}", exif=exif, **options)
    assert white_at(tmp_path / f"a{suffix}") == (size, place)


@pytest.mark.parametrize(("kind", "white"), [("<u2", 65535), (">u2", 65535), ("<f4", 1)])
def test_numbers_of_more_than_eight_bits(tmp_path: Path, kind: str, white: int) -> None:
    values = (np.linspace(0, white, 12).reshape(3, 4)).astype(kind)
    swapped = kind == ">u2"  # which Pillow writes under its own name alone
    picture = Image.frombytes("I;16B", (4, 3), values.tobytes()) if swapped else Image.fromarray(values)
    picture.save(tmp_path / "a.tiff")
    expected = np.broadcast_to(values.astype(float) / white, (3, 3, 4))
    np.testing.assert_allclose(read_picture(tmp_path / "a.tiff"), expected, atol=0.5 / 255 + 1e-6)


def test_numbers_without_a_known_white(tmp_path: Path) -> None:
    for values, kind, words in (
        ([0.0, 200.0], "f4", "within 0 and 1"),
        ([0.5, np.nan], "f4", "within 0 and 1"),
        ([0, 255], "i4", "the white of signed whole numbers of 32 bits is not known"),
    ):
        Image.fromarray(np.array([values], kind)).save(tmp_path / "a.tiff")
        with pytest.raises(ValueError, match=words):
            read_picture(tmp_path / "a.tiff")


@pytest.mark.parametrize(("bits", "photometric"), [(12, 1), (16, 1), (16, 0)])
def test_grey_of_a_scanner(tmp_path: Path, bits: int, photometric: int) -> None:
    """Two pixels, a quarter and white; where zero is white, three quarters and black. Sizes and places in the tags."""
    packed = {12: bytes([0x3F, 0xFF, 0xFF]), 16: np.array([16384, 65535], "<u2").tobytes()}[bits]
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "a.tiff").write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", 9) + entries + bytes(4) + packed)
    expected = [0.25, 1.0] if photometric else [0.75, 0.0]
    np.testing.assert_allclose(read_picture(tmp_path / "a.tiff")[1, 0], expected, atol=0.5 / 255 + 1e-3)


def test_sixteen_bits_keep_transparency(tmp_path: Path) -> None:
    """The grey that a PNG calls transparent is white."""
    Image.fromarray(np.array([[1000, 1100]], np.uint16)).save(tmp_path / "a.png", transparency=1000)
    np.testing.assert_allclose(read_picture(tmp_path / "a.png")[0, 0], [1.0, 1100 / 65535], atol=0.5 / 255 + 1e-6)


def test_palettes_with_transparency(tmp_path: Path) -> None:
    """One entry that is clear, and entries that are half so."""
    picture = Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "one.gif", transparency=1)
    picture.save(tmp_path / "some.png", transparency=bytes([255, 0, 51]))
    one, some = read_picture(tmp_path / "one.gif"), read_picture(tmp_path / "some.png")
    for image in (one, some):
        assert image[:, 0, 0].tolist() == [1, 0, 0] and image[:, 0, 1].tolist() == [1, 1, 1]
    assert one[:, 1, 0].tolist() == [0, 0, 1]
    np.testing.assert_allclose(some[:, 1, 1], [0.8, 0.8, 1.0], atol=1e-6)


@pytest.mark.parametrize("suffix", [".jpg", ".tiff"])
def test_inks(tmp_path: Path, suffix: str) -> None:
    """Cyan, magenta, yellow and black in full, and no ink."""
    inks = np.repeat(np.repeat(255 * np.eye(5, 4, dtype=np.uint8)[None], 8, 0), 8, 1)
    Image.fromarray(inks, "CMYK").save(tmp_path / f"a{suffix}")
    colours = read_picture(tmp_path / f"a{suffix}")[:, 4, 4::8].T
    np.testing.assert_allclose(colours, [[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]], atol=0.03)


def test_a_colour_profile_is_followed(tmp_path: Path) -> None:
    """In a profile whose red is sRGB's green, a red picture is green; a broken profile changes nothing."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")
    picture = Image.new("RGB", (2, 2), (255, 0, 0))
    picture.save(tmp_path / "a.png", icc_profile=swapped)
    picture.save(tmp_path / "b.png", icc_profile=b"no profile")
    np.testing.assert_allclose(read_picture(tmp_path / "a.png")[:, 0, 0], [0, 1, 0], atol=0.02)
    assert read_picture(tmp_path / "b.png")[:, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("gamma", "marked"), [(1.0, False), (0.45455, False), (1.0, True)])
@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16"])
def test_the_gamma_of_a_png_is_followed(tmp_path: Path, gamma: float, marked: bool, mode: str) -> None:
    """Numbers that are light itself are brighter in sRGB, by its formula; 1 / 2.2, or the chunk sRGB, mean sRGB."""
    values = np.array([[0, 51, 128, 255]])
    shares, grey = values[0] / 255, Image.fromarray(values.astype(np.uint8))
    picture = {
        "RGBA": grey.convert("RGBA"),
        "P": grey.convert("RGB").quantize(4),
        "I;16": Image.fromarray((values * 257).astype(np.uint16)),
    }[mode]
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    if marked:
        chunks.add(b"sRGB", b"\0")
    picture.save(tmp_path / "a.png", pnginfo=chunks)
    bright = 1.055 * shares ** (1 / 2.4) - 0.055
    expected = bright.clip(0) if gamma == 1 and not marked else shares
    np.testing.assert_allclose(read_picture(tmp_path / "a.png")[1, 0], expected, atol=0.5 / 255 + 1e-6)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", tmp_path, Path("/dev/zero"), tmp_path / "none.png"):
        with pytest.raises(ValueError, match="There is no picture"):
            read_picture(path)
    with pytest.raises(ValueError, match="is an address"):
        read_picture("http://127.0.0.1/a.png")


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """Its file is small, for all pixels are alike."""
    Image.new("1", (8193, 8192)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 20_000
    with pytest.raises(ValueError, match="a.png can't be read as a picture .it has 8193x8192 pixels, and 67108864 are"):
        read_picture(tmp_path / "a.png")


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.tiff", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_allclose(read_picture(tmp_path / name)[:, 0, 0], [1, 0, 0], atol=0.01)


def test_other_formats_are_not_opened_whatever_they_are_called(tmp_path: Path) -> None:
    for kind in ("EPS", "PCX", "TGA", "ICO", "PPM", "PDF"):
        Image.new("RGB", (16, 16)).save(tmp_path / "a.png", format=kind)
        with pytest.raises(ValueError, match=r"a\.png can't be read .*PNG, JPEG, WEBP, TIFF, BMP, GIF are read"):
            read_picture(tmp_path / "a.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "b.png", format="JPEG")
    assert read_picture(tmp_path / "b.png").shape == (3, 16, 16)


def test_labels_stand_in_the_lower_left_corners(tmp_path: Path) -> None:
    """Black words with a white rim on grey pictures; a picture beyond the labels stays as it is."""
    save_grid(torch.full((3, 3, 64, 64), 0.5), tmp_path / "sheet.png", columns=2, labels=["0°", "225°"])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).astype(int)
    tiles = [sheet[:64, :64], sheet[:64, 64:], sheet[64:, :64]]
    inked = [np.argwhere(tile != tiles[2][0, 0]) for tile in tiles]
    assert len(inked[2]) == 0 and len(inked[1]) > 1.5 * len(inked[0]) > 30
    for places in inked[:2]:
        assert places[:, 0].min() > 44 and places[:, 1].min() < 10 and places[:, 1].max() < 50
    assert sheet[:64].min() < 40 and sheet[:64].max() > 215


@pytest.mark.parametrize(("count", "size", "rest"), [(2, [2, 4], 0.0), (5, [4, 8], 1.0)])
def test_a_sheet_is_no_wider_than_its_pictures_and_its_rest_is_white(
    tmp_path: Path, count: int, size: list, rest: float
) -> None:
    save_grid(torch.zeros(count, 3, 2, 2), tmp_path / "sheet.png", columns=4)
    sheet = read_picture(tmp_path / "sheet.png")
    assert list(sheet.shape[1:]) == size and float(sheet[:, -1, -1].mean()) == rest
