"""What a picture of Gaussians costs, forward and backward, by each backend: `python tests/support/rasterizers.py`, from
the repository, prints the table of docs/benchmarks.md.
"""

import argparse
import ctypes
import math
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch

from asdkit.commands import bench_report
from asdkit.rendering.cameras import ring
from asdkit.rendering.rasterize import Backend, rasterize
from asdkit.run.tables import markdown

COUNTS, SIZES = (1_000, 10_000, 100_000), (128, 512)
_COLUMNS = {
    "backend": "backend", "count": "Gaussians", "size": "pixels", "seconds": "ms", "processor": "ms of the processor",
    "to_reference": "to the torch reference", "growth": "to ten times fewer Gaussians", "memory": "MiB",
}  # fmt: skip


def measure(repeats: int, counts: tuple[int, ...] = COUNTS, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """The machine, and a row for each backend of its device, number of Gaussians and size of a picture."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast: Backend = "gsplat" if device.type == "cuda" else "numba"
    rows: list[dict[str, Any]] = []
    for size, count, backend in product(sizes, counts, (fast, "torch")):
        cost = _cost(_picture(backend, count, size, device), repeats, device)
        rows.append({"backend": backend, "count": count, "size": size, **cost})
    return {**bench_report.environment(device), "repeats": repeats, "rows": rows}


def _picture(backend: Backend, count: int, size: int, device: torch.device) -> Callable[[], None]:
    """Draws a ball's surface of Gaussians, whose area is the same whatever their number, and takes all gradients."""
    draws, views = torch.Generator().manual_seed(0), ring(1, size=size).to(device)
    means = 0.8 * torch.nn.functional.normalize(torch.randn(count, 3, generator=draws), dim=-1)
    quats, colors = torch.randn(count, 4, generator=draws), torch.rand(count, 3, generator=draws)
    scales = (0.5 + torch.rand(count, 3, generator=draws)) / math.sqrt(count)
    scene = (means, quats, scales, torch.full((count,), 0.7), colors)
    leaves = [tensor.to(device).requires_grad_() for tensor in scene]
    background = torch.ones(3, device=device)

    def draw() -> None:
        raster = rasterize(*leaves, views, background, backend=backend)
        torch.autograd.grad(raster.image.square().sum() + raster.alpha.sum(), leaves)

    return draw


def _cost(act: Callable[[], None], repeats: int, device: torch.device) -> dict[str, Any]:
    """Medians of the wall's and the processor's seconds, and the most memory, after a first time that compiles."""
    act()
    _trim()
    before, walls, processors = bench_report.resident("VmRSS"), [], []
    bench_report.forget_peak(device)
    for _ in range(repeats):
        start, worked = bench_report.now(device), time.process_time()
        act()
        walls.append(bench_report.now(device) - start)
        processors.append(time.process_time() - worked)
    wall, processor = (bench_report.spread(seconds)["median"] for seconds in (walls, processors))
    memory = bench_report.peak_memory(device, before)
    return {"seconds": wall, "processor_seconds": processor, "memory": memory}


def _trim() -> None:
    """Give back to the system what the C library's allocator keeps, where it can, so that memory is seen to grow."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def table(facts: dict[str, Any]) -> str:
    """The rows as Markdown: milliseconds, and their ratios to the reference and to ten times fewer Gaussians."""
    clock = "processor_seconds" if facts["machine"]["device"] == "cpu" else "seconds"
    known = {(row["backend"], row["count"], row["size"]): row[clock] for row in facts["rows"]}
    lines = []
    for row in facts["rows"]:
        backend, count, size = row["backend"], row["count"], row["size"]
        fewer = known.get((backend, count // 10, size))
        shown = {"seconds": 1e3 * row["seconds"], "processor": 1e3 * row["processor_seconds"]}
        shown |= {"to_reference": row[clock] / known["torch", count, size], "growth": fewer and row[clock] / fewer}
        shown = row | shown | {"memory": row["memory"] and row["memory"] / 2**20}
        lines.append({heading: shown[name] for name, heading in _COLUMNS.items()})
    return f"{bench_report.machine_line(facts)}\n\n{markdown(lines)}".rstrip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="pictures of each kind (default: 10)")
    parser.add_argument("--tiny", action="store_true", help="one small picture by each backend")
    options = parser.parse_args()
    print(table(measure(1, (100,), (16,)) if options.tiny else measure(options.repeats)))
