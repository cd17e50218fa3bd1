"""The first use of gsplat on CUDA: what is said where its kernels can't be compiled."""

import sys
from collections.abc import Iterator
from types import ModuleType

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


@pytest.mark.parametrize(("broken", "reason"), [(False, "there is no nvcc"), (True, "Error building extension")])
def test_kernels_that_can_not_be_compiled_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, broken: bool, reason: str
) -> None:
    module = Broken("gsplat.cuda._backend") if broken else ModuleType("gsplat.cuda._backend")
    if not broken:
        module._C = None  # as gsplat leaves it where it finds no toolkit
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", module)
    with pytest.raises(MissingExtra, match=f"toolkit 13.0 .nvcc. and a C.. compiler.*{reason}.*CUDA_HOME") as caught:
        gsplat_kernels.load_kernels()
    assert "--model.generator=NeRF" in str(caught.value) and "\n" not in str(caught.value)
    assert exit_code(caught.value) == 3


def test_that_it_takes_minutes_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    module = ModuleType("gsplat.cuda._backend")
    module._C = object()
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", module)
    gsplat_kernels.load_kernels()
    gsplat_kernels.load_kernels()
    assert caplog.text.count("that takes minutes, once") == 1
