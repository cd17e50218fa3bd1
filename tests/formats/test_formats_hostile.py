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
OTHERS = [
    b"", b"\0", b"\xff" * 320, bytes(640), b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4,
    *(b"Dear diary, today I saw a duck. " * times for times in (1, 64)),
    b"1.0 2.0 3.0 0.1 0.2 0.3 1 2 ck. " * 9,  # as the floats of a .splat they are Gaussians
]  # fmt: skip


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


def test_hostile_ply(tmp_path: Path) -> None:
    path, gaussians, mark = tmp_path / "a.ply", splats(count=5, degree=1), np.float32(0.123).tobytes()
    gaussians.means[3, 1], gaussians.quats[2] = 0.123, 9
    write_splats(path, gaussians)
    content = path.read_bytes()
    for old, new, message in (
        (b"scale_2", b"scale_3", "lacks the vertex property 'scale_2'"),
        (b"float opacity", b"float opaqueness", "lacks the vertex property 'opacity'"),
        (b"float f_rest_8", b"float f_last_8", "8 'f_rest'"),
        (b"f_rest_8", b"f_rest_9", "lacks the vertex property 'f_rest_8'"),
        (np.full(4, 9, np.float32).tobytes(), bytes(16), "rotation that is zero"),
        (mark, np.float32(np.nan).tobytes(), "'means'"),
        (mark, np.float32(1e31).tobytes(), "'means'"),
    ):
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))
        refused(path, message)


def record(position: float = 0, scale: float = 0.1, quat: tuple[int, int, int, int] = (255, 128, 128, 128)) -> bytes:
    return struct.pack("<6f8B", 0, position, 0, 0.1, scale, 0.1, 9, 9, 9, 200, *quat)


def test_hostile_splat(tmp_path: Path) -> None:
    path = tmp_path / "a.splat"
    path.write_bytes(2 * record() + record(scale=0))
    assert len(read_splats(path).means) == 3
    for last, message in (
        (record(position=np.nan), "'means'"),
        *((record(scale=scale), "'log_scales'") for scale in (2e30, -0.1)),
        *((record(quat=(w, x, 128, 128)), "unit length") for w, x in ((128, 128), (255, 255), (240, 128))),
        (record() + b"\0", "has 97 bytes, not 32"),
    ):
        path.write_bytes(2 * record() + last)
        refused(path, message)


packed = partial(gzip.compress, mtime=0)  # the same bytes, and so the same names of tests, in every process
BODY = bytes(20)  # one Gaussian of degree 0
STREAMS = BODY[:9], BODY[9:10], BODY[10:13], BODY[13:16], BODY[16:]


def head(
    count: int = 1, magic: bytes = b"NGSP", version: int = 3, degree: int = 0, bits: int = 12, flags: int = 0
) -> bytes:
    return struct.pack("<4sIIBBBB", magic, version, count, degree, bits, flags, 0)


def old(body: bytes = BODY, **facts: object) -> bytes:
    """A file of version 3."""
    return packed(head(**facts) + body)


def new(bodies: tuple[bytes, ...] = STREAMS, sizes: tuple = (), **facts: object) -> bytes:
    """A file of version 4, with sizes of its own in the table where they are given."""
    frames = [zstandard.ZstdCompressor().compress(body) for body in bodies]
    pairs = sizes or [(len(frame), len(body)) for frame, body in zip(frames, bodies, strict=True)]
    start = head(version=4, **facts)[:15] + bytes([len(bodies)]) + struct.pack("<I12x", 32)
    return start + b"".join(struct.pack("<QQ", *pair) for pair in pairs) + b"".join(frames)


@pytest.mark.parametrize("write", [old, new])
@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"magic": b"NGSX"}, "not an SPZ file"), ({"degree": 5}, "degree 5"), ({"bits": 25}, "25 fractional bits"),
        ({"degree": 1}, "truncated"), ({"count": 0}, "no Gaussians"),
        *(({"count": count}, "truncated") for count in (2, 10_000_000)),
        *(({"count": count}, f"{count} Gaussians") for count in (10_000_001, 100_000_000, 2**32 - 1)),
    ],
)  # fmt: skip
def test_spz_with_a_head_that_lies(tmp_path: Path, write: Callable[..., bytes], facts: dict, message: str) -> None:
    path = tmp_path / "a.spz"
    for good in (write(), write(bits=24, flags=1)):
        path.write_bytes(good)
        assert len(read_splats(path).means) == 1
    path.write_bytes(write(**facts))
    refused(path, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed(head()[:15]), "not an SPZ file"),
        (packed(b""), "not an SPZ file"),
        (old(version=1), "version 1"),
        (old(version=4), "version 4"),
        (head(version=5) + BODY, "version 5"),
        (old(flags=2), "flags 2"),  # which only version 4 has
        (old(BODY[:-1]), "truncated"),
        (old(BODY + b"\0"), "does not hold the 1 Gaussians"),
        (old(bytes(60_000_000), count=40_000_000), "40000000 Gaussians"),
        (old(bytes(60_000_000)), "does not hold the 1 Gaussians"),
        (old()[:-8] + bytes(8), "damaged"),
        (old()[:-1], "truncated"),
        (new()[:31], "truncated"),
        (new()[:16] + struct.pack("<I", 2**32 - 1) + new()[20:], "truncated"),
        (new((bytes(90_000_000), *STREAMS[1:])), "truncated"),
        (new(STREAMS[:1]), "truncated"),
        (new((BODY[:9], BODY[:2], BODY[10:12], *STREAMS[3:])), "truncated"),
        (new(sizes=[(2**64 - 1, 9)] * 5), "damaged|truncated"),
        (new()[:-6] + b"\xff" * 6, "damaged|truncated"),
    ],
)
def test_hostile_spz(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.spz").write_bytes(content)
    refused(tmp_path / "a.spz", message)


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


@pytest.fixture
def glb(tmp_path: Path) -> tuple[Path, dict, bytes]:
    """A file of five Gaussians of degree 1, its scene and its binary part."""
    path = tmp_path / "a.glb"
    write_splats(path, splats(count=5, degree=1))
    return path, *glb_parts(path)


NODE, PRIMITIVE = ("nodes", 0), ("meshes", 0, "primitives", 0)
EXTENSION, ATTRIBUTES = (*PRIMITIVE, "extensions", "KHR_gaussian_splatting"), (*PRIMITIVE, "attributes")
SCALE, SH = "KHR_gaussian_splatting:SCALE", "KHR_gaussian_splatting:SH_DEGREE_1_COEF_1"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("nodes", to=[{"mesh": 0}, {"mesh": 0}]), "holds 2"),
        (change(*NODE, "children", to=[0]), "structure"),
        (change("nodes", to=[{"mesh": 0, "children": [1]}, {"children": [0]}]), "structure"),
        (change("nodes", to=[{"mesh": 0}, {"children": [[0]]}]), "structure"),
        (change(*NODE, "rotation", to=[0.5, 0.5, 0.5, 0.4]), "scale all directions alike"),
        (change(*NODE, "scale", to=[1, 1, 1.1]), "scale all directions alike"),
        (change(*NODE, "scale", to=[1e-9, 1e-9, 1e-9]), None),
        (change(*NODE, "scale", to=[-1, 1, 1]), "mirrors"),
        (change(*NODE, "scale", to=[0, 0, 0]), "mirrors"),
        (change(*NODE, "matrix", to=[1] * 16), "mirrors"),
        (change(*NODE, "translation", to=[0, 1e8, 0]), None),
        (change(*NODE, "translation", to=[0, float("nan"), 0]), "structure"),
        (change(*NODE, "translation", to=[0, 1e10, 0]), "structure"),
        (without(*EXTENSION), "holds 0"),
        (change(*EXTENSION, "colorSpace", to="lin_rec709_display"), "'lin_rec709_display'"),
        (without(*EXTENSION, "colorSpace"), None),
        *((without(*ATTRIBUTES, name), f"lacks the attribute '{name}'") for name in (SCALE, SH, "POSITION")),
        (without(*ATTRIBUTES, "COLOR_0"), None),
        (change(*ATTRIBUTES, SCALE, to=1), "structure"),  # the colours, which are four
        (change(*ATTRIBUTES, SH, to=2), "structure"),  # the rotations
        (change("accessors", 0, "count", to=6), "different lengths"),
        (change("accessors", 0, "count", to=180_000_000), "truncated"),  # 2 GB
        (change("accessors", 0, "byteOffset", to=-12), "structure"),
        (lambda scene: [accessor.update(count=0) for accessor in scene["accessors"]], "no Gaussians"),
        (change("accessors", 0, "sparse", to={"count": 1}), "structure"),
        (without("accessors", 0, "bufferView"), "structure"),  # as compressed files have it
        (change("bufferViews", 0, "byteStride", to=8), "structure"),
        (change("bufferViews", 0, "byteStride", to=10**9), "truncated"),
    ],
)
def test_hostile_glb(glb: tuple[Path, dict, bytes], edit: Callable[[dict], None], message: str | None) -> None:
    """None stands for changes that make no difference."""
    path, scene, blob = glb
    edit(scene)
    glb_file(path, scene, blob)
    if message:
        refused(path, message)
    else:
        assert len(read_splats(path).means) == 5


def places(node: object, place: tuple = ()) -> Iterator[tuple]:
    """The keys that lead to every value of a scene."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield (*place, key)
        yield from places(node[key], (*place, key))


@pytest.mark.parametrize("value", [None, -1, 0.5, 10**30, True, "x", [], {}, [[0]], float("nan"), KeyError])
def test_any_value_of_a_glb_may_be_wrong_or_missing(glb: tuple[Path, dict, bytes], value: object) -> None:
    """It is one sentence, or makes no difference."""
    path, scene, blob = glb
    sentences = []
    for place in places(scene):
        changed = copy.deepcopy(scene)
        change(*place, to=value)(changed)
        glb_file(path, changed, blob)
        try:
            assert len(read_splats(path).means) == 5
        except ValueError as error:
            sentences.append(str(error))
    assert len(sentences) > 60 and all("a.glb" in text and "\n" not in text for text in sentences)


@pytest.mark.parametrize(
    ("name", "values", "scale", "message"),
    [
        ("POSITION", [0, np.nan, 0], 1, "'means'"),
        ("POSITION", [9e29, 0, 0], 1, None),
        ("POSITION", [9e29, 0, 0], 100, "'means'"),
        (SCALE, [1, -1e-9, 1], 1, "'log_scales'"),
        *(("KHR_gaussian_splatting:OPACITY", [value], 1, "'opacity_logits'") for value in (1.0001, -0.0001)),
        ("KHR_gaussian_splatting:ROTATION", [0, 0, 0, 0], 1, "a rotation that is zero"),
    ],
)
def test_hostile_values_in_glb(
    glb: tuple[Path, dict, bytes], name: str, values: list[float], scale: float, message: str | None
) -> None:
    """An attribute of one Gaussian of five, and the scale of their node."""
    path, scene, blob = glb
    accessor = scene["accessors"][scene["meshes"][0]["primitives"][0]["attributes"][name]]
    start = scene["bufferViews"][accessor["bufferView"]]["byteOffset"] + 4 * 3 * len(values)
    scene["nodes"][0]["scale"] = [scale] * 3
    glb_file(path, scene, blob[:start] + struct.pack(f"<{len(values)}f", *values) + blob[start + 4 * len(values) :])
    if message:
        refused(path, message)
    else:
        assert np.isfinite(read_splats(path).means).all()


def test_hostile_json_in_glb(tmp_path: Path) -> None:
    for text, message in (
        *((text, "cannot be parsed") for text in (b"{", b"[" * 100_000, b"\xff\xfe{}", b"1" * 10_000)),
        *((text, "structure") for text in (b"[]", b"7", b"null", b"{}", b'{"nodes": [7]}')),
        (b" " * (1 << 22) + b"{}", "JSON part of 4194308 bytes"),
    ):
        refused(glb_file(tmp_path / "a.glb", text, bytes(64)), message, MEMORY + 2 * len(text))


def test_heads_and_parts_of_glb_that_lie(glb: tuple[Path, dict, bytes]) -> None:
    path, content = glb[0], glb[0].read_bytes()
    place, huge, one = content.index(b"BIN\0"), struct.pack("<I", 1 << 31), struct.pack("<I", 1)
    for start, value, message in [
        (0, b"glTG", "not a GLB"), (4, one, "not a GLB"), (16, b"BIN\0", "not a GLB"),
        (8, huge, "truncated"), (12, huge, "truncated"),
        (place - 4, huge, "no binary part, or a truncated one"), (place, b"BIM\0", "no binary part"),
        (place - 4, struct.pack("<I", len(content) - place - 3), "no binary part, or a truncated one"),
    ]:  # fmt: skip
        path.write_bytes(content[:start] + value + content[start + len(value) :])
        refused(path, message)
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, place - 4) + content[12 : place - 4])
    refused(path, "no binary part")


@pytest.mark.slow
def test_work_grows_with_the_file(glb: tuple[Path, dict, bytes]) -> None:
    """Each of 30,000 nodes shows a mesh of 60,000 primitives; each is looked at once, and a chain walked once."""
    path, chained, blob = glb
    scene = {"nodes": [{"mesh": 0}] * 30_000, "meshes": [{"primitives": [{"attributes": {}}] * 60_000}]}
    began = time.perf_counter()
    with pytest.raises(ValueError, match="holds 0"):
        read_splats(glb_file(path, scene, bytes(4)))
    chained["nodes"] = [*({"children": [i + 1], "scale": [1, 1, 1]} for i in range(8_000)), *chained["nodes"]]
    assert len(read_splats(glb_file(path, chained, blob)).means) == 5
    assert time.perf_counter() - began < 100
