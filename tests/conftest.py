"""What all tests share: one thread, no network, nothing in the home directory, and a tiny random prior."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch and numba count the cores: tests run side by side. And numba (in gsply) tells OpenMP how many threads
# there are, torch's too; once there are several, forked processes wait for them for ever.
os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from typecheck import check_types

check_types()
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "JSONARGPARSE_DEPRECATION_WARNINGS": "off",
}

RECIPE = """
model:
  class_path: asdkit.Distillation
  init_args:
    prompt: a red duck
    prior: {{class_path: asdkit.Pretrained, init_args: {{path: {prior}}}}}
    generator:
      class_path: asdkit.Gaussians
      init_args:
        {{count: 60, capacity: 90, init_opacity: 0.5, densify_every: 4, densify_from: 4,
         density: {{class_path: asdkit.Fraction, init_args: {{fraction: 0.2}}}}}}
    guidance: {{class_path: asdkit.ASD}}
data: {{class_path: asdkit.Cameras, init_args: {{views_per_step: 2, size: 16, orbit_views: 3}}}}
trainer:
  max_steps: 10
  accelerator: cpu
  devices: 1
  log_every_n_steps: 1
  callbacks: [{{class_path: asdkit.ToyboxJudge}}]
checkpoints: {{every: 4}}
snapshots: {{every: 5}}
outputs: {{size: 16}}
run: {{root: {root}}}
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread_and_no_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch.set_num_threads(1)
    connect: Callable = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family == socket.AF_UNIX:
            return connect(self, address)
        raise OSError(f"tests must not use the network, but something connects to {address!r}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setenv("ASDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random prior in Stable Diffusion's folder format; treat it as read-only."""
    from tiny import save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "prior")


@pytest.fixture
def recipe(tiny_folder: Path, tmp_path: Path) -> Path:
    """A recipe of ten quick iterations with the tiny prior, whose runs go to tmp_path / runs."""
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.format(prior=tiny_folder, root=tmp_path / "runs"))
    return path
