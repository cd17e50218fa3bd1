"""What a machine has: its GPUs, as the driver and CUDA_VISIBLE_DEVICES say."""

from pathlib import Path

import pytest

from asdkit.run import machine


def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "nvidia_smi", lambda *fields: [["0"], ["1"]])
    assert machine.gpus({}) == ["0", "1"]
    assert machine.gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-ab"}) == ["2", "GPU-ab"]
    assert machine.gpus({"CUDA_VISIBLE_DEVICES": ""}) == machine.gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []


def test_the_driver_is_asked_in_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.nvidia_smi("index") == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\n[ "$*" = "--query-gpu=index,name --format=csv,noheader" ] && echo "0, A B" && echo "1, C"'
    )
    tool.chmod(0o755)
    assert machine.nvidia_smi("index", "name") == [["0", "A B"], ["1", "C"]]
    assert machine.nvidia_smi("other") == []  # it fails
