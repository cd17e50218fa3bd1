"""Broken and hostile files of Gaussians: one sentence that names the file, at once and without much memory."""

import copy
import gzip
import struct
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zstandard
from support.splat_tools import glb_file, glb_parts, splats

from asdkit.formats.splat_files import SUFFIXES, read_splats, write_splats
from asdkit.formats.splats import Splats

MEMORY = 6_000_000  # bytes


def refused(path: Path, message: str, memory: int = MEMORY) -> None:
    tracemalloc.start()
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message) as caught:
        warnings.simplefilter("error")
        read_splats(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    text = str(caught.value)
    assert path.name in text and "\n" not in text and text.endswith(".") and len(text) < len(str(path)) + 200
    assert peak < memory


DIARY = b"Dear diary, today I saw a duck. "
NUMBERS = b"1.0 2.0 3.0 0.1 0.2 0.3 1 2 ck. "  # as the floats of a .splat they are Gaussians


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
OTHERS = [b"", b"\0", DIARY, DIARY * 64, NUMBERS * 9, b"\xff" * 320, bytes(640), PNG]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", OTHERS)
def test_other_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    refused(path, "other")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_cut_anywhere(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    write_splats(path, splats(count=5, degree=1))
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 61), len(whole) - 1]:
        if suffix != ".splat" or length % 32 or not length:  # whole records are a whole file
            path.write_bytes(whole[:length])
            refused(path, "cut")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_object_is_not_written(tmp_path: Path, suffix: str) -> None:
    path, nobody, still = tmp_path / f"a{suffix}", splats(count=0), splats()
    write_splats(path, splats(degree=1))
    before = path.read_bytes()
    still.quats[7] = 0
    wrong = [(nobody, "no Gaussians"), (still, "a rotation that is zero")]
    for name, value in product(Splats._fields, [np.nan, np.inf, -np.inf, 1e31]):
        broken = splats(degree=1)
        getattr(broken, name).reshape(-1)[4] = value
        wrong.append((broken, f"a value of '{name}'"))
    for broken, words in wrong:
        with pytest.raises(ValueError, match=rf"a\{suffix} was not written, as it would have {words}"):
            write_splats(path, broken)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"scale_2", b"scale_3", "lacks the vertex property 'scale_2'"),
        (b"float opacity", b"float opaqueness", "lacks the vertex property 'opacity'"),
        (b"float f_rest_8", b"float f_last_8", "8 'f_rest'"),
        (b"f_rest_8", b"f_rest_9", "lacks the vertex property 'f_rest_8'"),
        (np.full(4, 9, np.float32).tobytes(), bytes(16), "rotation that is zero"),
        (np.float32(0.123).tobytes(), np.float32(np.nan).tobytes(), "'means'"),
        (np.float32(0.123).tobytes(), np.float32(1e31).tobytes(), "'means'"),
    ],
)
def test_hostile_ply(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path, gaussians = tmp_path / "a.ply", splats(count=5, degree=1)
    gaussians.means[3, 1], gaussians.quats[2] = 0.123, 9
    write_splats(path, gaussians)
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    refused(path, message)


def record(position: float = 0, scale: float = 0.1, quat: tuple[int, int, int, int] = (255, 128, 128, 128)) -> bytes:
    return struct.pack("<6f8B", 0, position, 0, 0.1, scale, 0.1, 9, 9, 9, 200, *quat)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (record(position=np.nan), "'means'"),
        (record(scale=2e30), "'log_scales'"),
        (record(scale=-0.1), "'log_scales'"),
        (record(quat=(128, 128, 128, 128)), "unit length"),
        (record(quat=(255, 255, 128, 128)), "unit length"),
        (record(quat=(240, 128, 128, 128)), "unit length"),
        (record() + b"\0", "has 97 bytes, not 32"),
    ],
)
def test_hostile_splat(tmp_path: Path, last: bytes, message: str) -> None:
    path = tmp_path / "a.splat"
    path.write_bytes(2 * record() + record(scale=0))
    assert len(read_splats(path).means) == 3
    path.write_bytes(2 * record() + last)
    refused(path, message)


packed = partial(gzip.compress, mtime=0)  # the same bytes, and so the same names of tests, in every process


def spz(
    count: int = 1, magic: bytes = b"NGSP", version: int = 3, degree: int = 0, bits: int = 12, flags: int = 0
) -> bytes:
    return struct.pack("<4sIIBBBB", magic, version, count, degree, bits, flags, 0)


BODY = bytes(20)  # one Gaussian of degree 0
MEGABYTES = packed(spz(40_000_000) + bytes(60_000_000))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed(spz(magic=b"NGSX") + BODY), "not an SPZ file"),
        (packed(spz()[:15]), "not an SPZ file"),
        (packed(b""), "not an SPZ file"),
        (packed(spz(version=1) + BODY), "version 1"),
        (packed(spz(version=4) + BODY), "version 4"),
        (spz(version=5) + BODY, "version 5"),
        (packed(spz(degree=5) + BODY), "degree 5"),
        (packed(spz(bits=25) + BODY), "25 fractional bits"),
        (packed(spz(flags=2) + BODY), "flags 2"),
        (packed(spz(0)), "no Gaussians"),
        (packed(spz(2) + BODY), "truncated"),
        (packed(spz() + BODY[:-1]), "truncated"),
        (packed(spz() + BODY + b"\0"), "does not hold the 1 Gaussians"),
        (packed(spz(10_000_000) + BODY), "truncated"),
        (packed(spz(10_000_001) + BODY), "10000001 Gaussians"),
        (packed(spz(100_000_000) + BODY), "100000000 Gaussians"),
        (packed(spz(4_294_967_295) + BODY), "4294967295 Gaussians"),
        (MEGABYTES, "40000000 Gaussians"),
        (packed(spz() + bytes(60_000_000)), "does not hold the 1 Gaussians"),
        (packed(spz() + BODY)[:-8] + bytes(8), "damaged"),
        (packed(spz() + BODY)[:-1], "truncated"),
    ],
)
def test_hostile_spz(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.spz"
    path.write_bytes(packed(spz() + BODY))
    assert len(read_splats(path).means) == 1
    path.write_bytes(packed(spz(bits=24, flags=1) + BODY))
    assert len(read_splats(path).means) == 1
    path.write_bytes(content)
    refused(path, message)


def streams(
    bodies: tuple[bytes, ...] = (BODY[:9], BODY[9:10], BODY[10:13], BODY[13:16], BODY[16:]),
    sizes: tuple = (),
    **head: int,
) -> bytes:
    """A file of version 4, with sizes of its own in the table where they are given."""
    frames = [zstandard.ZstdCompressor().compress(body) for body in bodies]
    pairs = sizes or [(len(frame), len(body)) for frame, body in zip(frames, bodies, strict=True)]
    start = spz(**({"version": 4} | head))[:15] + bytes([len(bodies)]) + struct.pack("<I12x", 32)
    return start + b"".join(struct.pack("<QQ", *pair) for pair in pairs) + b"".join(frames)


def test_hostile_spz_of_version_4(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.spz", streams()
    path.write_bytes(whole)
    assert len(read_splats(path).means) == 1
    bomb = (bytes(90_000_000), *[bytes(size) for size in (1, 3, 3, 4)])
    cases = {
        whole[:31]: "truncated",
        whole[:16] + struct.pack("<I", 2**32 - 1) + whole[20:]: "truncated",
        streams(bomb): "truncated",
        streams(count=10_000_000): "truncated",
        streams(count=10_000_001): "10000001 Gaussians",
        streams(count=0): "no Gaussians",
        streams((BODY[:9],)): "truncated",
        streams(degree=1): "truncated",
        streams((BODY[:9], BODY[:2], BODY[10:12], BODY[13:16], BODY[16:])): "truncated",
        streams(sizes=[(2**64 - 1, 9)] * 5): "damaged|truncated",
        whole[:-6] + b"\xff" * 6: "damaged|truncated",
        streams(degree=5): "degree 5",
        streams(bits=25): "25 fractional bits",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        refused(path, message)


def test_spz_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    far = splats()
    far.means[1, 2] = -4_194_304
    with pytest.raises(ValueError, match=r"a\.spz was not written: .* 4 million, not 4.19e\+06"):
        write_splats(tmp_path / "a.spz", far)
    assert not any(tmp_path.iterdir())


def change(*keys: object, to: object) -> Callable[[dict], None]:
    """A change of one value of a scene, or its removal where `to` is KeyError."""

    def apply(scene: dict) -> None:
        for key in keys[:-1]:
            scene = scene[key]
        scene[keys[-1]] = to
        if to is KeyError:
            del scene[keys[-1]]

    return apply


without = partial(change, to=KeyError)


NODE = ("nodes", 0)
PRIMITIVE = ("meshes", 0, "primitives", 0)
EXTENSION = (*PRIMITIVE, "extensions", "KHR_gaussian_splatting")
SCALE, SH = "KHR_gaussian_splatting:SCALE", "KHR_gaussian_splatting:SH_DEGREE_1_COEF_1"
STRUCTURES = [
    (change("nodes", to=[{"mesh": 0}, {"mesh": 0}]), "holds 2"),
    (change(*NODE, "children", to=[0]), "structure"),
    (change("nodes", to=[{"mesh": 0, "children": [1]}, {"children": [0]}]), "structure"),
    (change("nodes", to=[{"mesh": 0}, {"children": [[0]]}]), "structure"),
    (change(*NODE, "rotation", to=[0.5, 0.5, 0.5, 0.4]), "scale all directions alike"),
    (change(*NODE, "scale", to=[1e-9, 1e-9, 1e-9]), None),
    (change(*NODE, "translation", to=[0, 1e8, 0]), None),
    (change(*NODE, "translation", to=[0, float("nan"), 0]), "structure"),
    (change(*NODE, "translation", to=[0, 1e10, 0]), "structure"),
    (change(*NODE, "scale", to=[1, 1, 1.1]), "scale all directions alike"),
    (change(*NODE, "scale", to=[-1, 1, 1]), "mirrors"),
    (change(*NODE, "scale", to=[0, 0, 0]), "mirrors"),
    (change(*NODE, "matrix", to=[1] * 16), "mirrors"),
    (without(*EXTENSION), "holds 0"),
    (change(*EXTENSION, "colorSpace", to="lin_rec709_display"), "'lin_rec709_display'"),
    (without(*EXTENSION, "colorSpace"), None),
    (without(*PRIMITIVE, "attributes", SCALE), "lacks the attribute 'KHR_gaussian_splatting:SCALE'"),
    (without(*PRIMITIVE, "attributes", SH), "lacks the attribute 'KHR_gaussian_splatting:SH_DEGREE_1_COEF_1'"),
    (without(*PRIMITIVE, "attributes", "POSITION"), "lacks the attribute 'POSITION'"),
    (without(*PRIMITIVE, "attributes", "COLOR_0"), None),
    (change(*PRIMITIVE, "attributes", SCALE, to=1), "structure"),  # the colours, which are four
    (change(*PRIMITIVE, "attributes", SH, to=2), "structure"),  # the rotations
    (change("accessors", 0, "count", to=6), "different lengths"),
    (change("accessors", 0, "count", to=180_000_000), "truncated"),  # 2 GB
    (change("accessors", 0, "byteOffset", to=-12), "structure"),
    (lambda scene: [accessor.update(count=0) for accessor in scene["accessors"]], "no Gaussians"),
    (change("accessors", 0, "sparse", to={"count": 1}), "structure"),
    (without("accessors", 0, "bufferView"), "structure"),  # as compressed files have it
    (change("bufferViews", 0, "byteStride", to=8), "structure"),
    (change("bufferViews", 0, "byteStride", to=10**9), "truncated"),
]


def places(node: object, place: tuple = ()) -> Iterator[tuple]:
    """The keys that lead to every value of a scene."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield (*place, key)
        yield from places(node[key], (*place, key))


@pytest.mark.parametrize("value", [None, -1, 0.5, 10**30, True, "x", [], {}, [[0]], float("nan"), KeyError])
def test_any_value_of_a_glb_may_be_wrong_or_missing(tmp_path: Path, value: object) -> None:
    """It is one sentence, or makes no difference."""
    write_splats(tmp_path / "a.glb", splats(count=5, degree=1))
    scene, blob = glb_parts(tmp_path / "a.glb")
    sentences = []
    for place in places(scene):
        changed = copy.deepcopy(scene)
        change(*place, to=value)(changed)
        glb_file(tmp_path / "a.glb", changed, blob)
        try:
            assert len(read_splats(tmp_path / "a.glb").means) == 5
        except ValueError as error:
            sentences.append(str(error))
    assert len(sentences) > 60 and all("a.glb" in text and "\n" not in text for text in sentences)


@pytest.mark.parametrize("case", range(len(STRUCTURES)))
def test_hostile_glb(tmp_path: Path, case: int) -> None:
    """None stands for changes that make no difference."""
    edit, message = STRUCTURES[case]
    path = tmp_path / "a.glb"
    write_splats(path, splats(count=5, degree=1))
    scene, blob = glb_parts(path)
    edit(scene)
    glb_file(path, scene, blob)
    if message:
        refused(path, message)
    else:
        assert len(read_splats(path).means) == 5


def edited(path: Path, name: str, row: int, values: list[float]) -> None:
    """Writes five Gaussians, one of whose attributes is replaced in one row."""
    write_splats(path, splats(count=5, degree=1))
    scene, blob = glb_parts(path)
    accessor = scene["accessors"][scene["meshes"][0]["primitives"][0]["attributes"][name]]
    start = scene["bufferViews"][accessor["bufferView"]]["byteOffset"] + 4 * row * len(values)
    glb_file(path, scene, blob[:start] + struct.pack(f"<{len(values)}f", *values) + blob[start + 4 * len(values) :])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("POSITION", [0, np.nan, 0], "'means'"),
        ("KHR_gaussian_splatting:SCALE", [1, -1e-9, 1], "'log_scales'"),
        ("KHR_gaussian_splatting:OPACITY", [1.0001], "'opacity_logits'"),
        ("KHR_gaussian_splatting:OPACITY", [-0.0001], "'opacity_logits'"),
        ("KHR_gaussian_splatting:ROTATION", [0, 0, 0, 0], "a rotation that is zero"),
    ],
)
def test_hostile_values_in_glb(tmp_path: Path, name: str, values: list[float], message: str) -> None:
    edited(tmp_path / "a.glb", name, 3, values)
    refused(tmp_path / "a.glb", message)


def test_positions_that_a_node_throws_out_of_range(tmp_path: Path) -> None:
    edited(tmp_path / "a.glb", "POSITION", 3, [9e29, 0, 0])
    assert np.isfinite(read_splats(tmp_path / "a.glb").means).all()
    scene, blob = glb_parts(tmp_path / "a.glb")
    scene["nodes"][0]["scale"] = [100, 100, 100]
    refused(glb_file(tmp_path / "b.glb", scene, blob), "'means'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "cannot be parsed"),
        (b"[" * 100_000, "cannot be parsed"),
        (b"\xff\xfe{}", "cannot be parsed"),
        (b"1" * 10_000, "cannot be parsed"),
        (b"[]", "structure"),
        (b"7", "structure"),
        (b"null", "structure"),
        (b"{}", "structure"),
        (b'{"nodes": [7]}', "structure"),
        (b" " * (1 << 22) + b"{}", "JSON part of 4194308 bytes"),
    ],
)
def test_hostile_json_in_glb(tmp_path: Path, text: bytes, message: str) -> None:
    refused(glb_file(tmp_path / "a.glb", text, bytes(64)), message, MEMORY + 2 * len(text))


def test_heads_and_parts_of_glb_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.glb"
    write_splats(path, splats(count=5))
    content = path.read_bytes()
    place, huge, one = content.index(b"BIN\0"), struct.pack("<I", 1 << 31), struct.pack("<I", 1)
    lies = [(0, b"glTG", "not a GLB"), (4, one, "not a GLB"), (16, b"BIN\0", "not a GLB")]
    lies += [(start, huge, "truncated") for start in (8, 12)]
    sizes = [(place - 4, huge), (place - 4, struct.pack("<I", len(content) - place - 3)), (place, b"BIM\0")]
    for start, value, message in [*lies, *((*lie, "no binary part, or a truncated one") for lie in sizes)]:
        path.write_bytes(content[:start] + value + content[start + len(value) :])
        refused(path, message)
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, place - 4) + content[12 : place - 4])
    refused(path, "no binary part")


@pytest.mark.slow
def test_work_grows_with_the_file(tmp_path: Path) -> None:
    """Each of 30,000 nodes shows a mesh of 60,000 primitives; each is looked at once, and a chain walked once."""
    scene = {"nodes": [{"mesh": 0}] * 30_000, "meshes": [{"primitives": [{"attributes": {}}] * 60_000}]}
    began = time.perf_counter()
    refuse = glb_file(tmp_path / "a.glb", scene, bytes(4))
    with pytest.raises(ValueError, match="holds 0"):
        read_splats(refuse)
    write_splats(tmp_path / "b.glb", splats(count=5))
    scene, blob = glb_parts(tmp_path / "b.glb")
    scene["nodes"] = [*({"children": [i + 1], "scale": [1, 1, 1]} for i in range(8_000)), *scene["nodes"]]
    assert len(read_splats(glb_file(tmp_path / "c.glb", scene, blob)).means) == 5
    assert time.perf_counter() - began < 100
