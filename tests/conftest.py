"""What all tests share: one thread, no network, nothing in the home directory, and a tiny random prior."""

import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch and numba count the cores: tests run side by side. And numba (in gsply) tells OpenMP how many threads
# there are, torch's too; once there are several, forked processes wait for them for ever.
os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

import pytest
import torch
from support.recipe import small_run, write_recipe
from support.skips import pytest_addoption, pytest_sessionfinish  # noqa: F401, pytest's hooks
from support.typecheck import check_types

check_types()
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "JSONARGPARSE_DEPRECATION_WARNINGS": "off",
}


def pytest_collection_finish() -> None:
    """What is there by now stays, so that no collection of garbage looks through torch and all tests again."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws without a seed is the same whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def one_thread_no_network_and_single_precision(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch.set_num_threads(1)
    connect: Callable = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family == socket.AF_UNIX:
            return connect(self, address)
        raise OSError(f"tests must not use the network, but something connects to {address!r}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        capabilities = {**torch.cpu.get_capabilities(), "amx_bf16": False, "avx512_bf16": False}
        patch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)  # proofs are in single precision
        patch.setenv("ASDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random prior in Stable Diffusion's folder format; treat it as read-only."""
    from support.tiny import save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "prior")


@pytest.fixture(scope="session")
def four_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another, which knows DreamFusion's four words for views and no camera; treat it as read-only."""
    from support.tiny import save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("four") / "prior", "epsilon", camera=False, facts=False)


@pytest.fixture(scope="session")
def kl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 1's ways: KL autoencoder, a scaling factor, eps-prediction, no extras; treat it as read-only."""
    from support.tiny import save_tiny_pipeline

    plain = {"kl": True, "scaling_factor": 0.18215, "camera": False, "facts": False}
    return save_tiny_pipeline(tmp_path_factory.mktemp("kl") / "prior", "epsilon", **plain)


@pytest.fixture
def recipe(tiny_folder: Path, tmp_path: Path) -> Path:
    """A recipe of ten quick iterations with the tiny prior, whose runs go to tmp_path / runs."""
    return write_recipe(tmp_path, tiny_folder)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """The one sentence with which a command line is refused, given its words and the exit code that it has."""
    from asdkit.commands.main import main

    def sentence(*words: object, code: int = 2) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == code
        before = ("Run folder:", "asdkit: The prior has never seen")
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith(before)]
        assert not out and len(lines) == 1 and lines[0].startswith("asdkit: "), (out, lines)
        return lines[0].removeprefix("asdkit: ")

    return sentence


@pytest.fixture(scope="session")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of that recipe, which is three folders above, of four iterations; treat it as read-only."""
    recipe = write_recipe(tmp_path_factory.mktemp("finished"), tiny_folder)
    return small_run(recipe, "--trainer.max_steps=4", "--trainer.callbacks=[]", "--snapshots.every=0")
