"""The first use of gsplat on CUDA: what is said where its kernels can't be compiled."""

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch

from asdkit.core.errors import MissingExtra
from asdkit.rendering import gsplat_kernels
from asdkit.run.exits import exit_code


class Broken(ModuleType):
    """gsplat's module where the compiler fails, as torch says it."""

    @property
    def _C(self) -> None:
        raise RuntimeError("Error building extension 'gsplat_cuda': [1/9] nvcc\nFAILED: Rasterize.o")


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gsplat_kernels, "compiled_kernels", lambda: [])
    gsplat_kernels.load_kernels.cache_clear()
    yield
    gsplat_kernels.load_kernels.cache_clear()


@pytest.mark.parametrize(
    ("module", "reason"),
    [(SimpleNamespace(_C=None), "there is no nvcc"), (Broken("gsplat"), "Error building extension")],
)
def test_kernels_that_can_not_be_compiled_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, module: object, reason: str
) -> None:
    """gsplat leaves None where it finds no toolkit."""
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", module)
    with pytest.raises(MissingExtra, match=f"toolkit 13.0 .nvcc. and a C.. compiler.*{reason}.*CUDA_HOME") as caught:
        gsplat_kernels.load_kernels()
    assert "--model.generator=NeRF" in str(caught.value) and "\n" not in str(caught.value)
    assert exit_code(caught.value) == 3


def test_that_it_takes_minutes_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=object()))
    for _ in range(2):
        gsplat_kernels.load_kernels()
    assert caplog.text.count("that takes minutes, once") == 1
