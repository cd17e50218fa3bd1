"""`asdkit bench --gpu`: its parts in small, what is not finished in its time, and what it hands over."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.forked import fork_runs

from asdkit.commands import bench_gpu
from asdkit.commands.bench_gpu import Check, run_parts
from asdkit.commands.main import main
from asdkit.run import machine


def states(out: Path, kind: str = "dry-run") -> dict[str, Any]:
    return {name: record["code"] for name, record in json.loads((out / kind / "gpu.json").read_text()).items()}


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """What the only part consists of."""
    listed: list[Check] = []
    monkeypatch.setattr(bench_gpu, "parts", lambda out, tiny: {1: listed})
    return listed


def test_what_fails_is_named_and_what_is_finished_is_not_done_again(checks, tmp_path: Path, capsys) -> None:
    """Each call goes on where the last one ended; the record of a command is there before the next one starts. Why one
    has failed is the last line of its log or, as of pytest, of what it has printed.
    """
    counted = tmp_path / "count"
    again = f"open({str(counted)!r}, 'a').write('x')"
    sees = f"import json; print(json.load(open({str(tmp_path / 'dry-run' / 'gpu.json')!r}))['good']['code'])"
    checks += [
        Check("good", ("-c", f"print('fine'); {again}"), 60, {"good says": "{{ said }}"}),
        Check("bad", ("-c", "import sys; sys.stderr.write('first\\noh'); sys.exit(5)"), 60, {"never": ""}),
        Check("tests", ("-c", "print('1 failed'); raise SystemExit(1)"), 60, {"never": ""}),
        Check("after", ("-c", sees), 60, {"after says": "{{ said }}"}, repeated=True),
    ]
    assert run_parts([1], tmp_path, tiny=True) == 1
    out = capsys.readouterr().out
    assert states(tmp_path) == {"good": 0, "bad": 5, "tests": 1, "after": 0}
    assert "| good says | " in out and "| fine |" in out and "| after says | " in out and "| 0 |" in out
    assert "exit code 5: oh; " in out and "bad.log, .out |" in out and "never" not in out
    assert "exit code 1: 1 failed; " in out
    assert [(tmp_path / "dry-run" / name).read_text() for name in ("bad.log", "gpu.md")] == ["first\noh", out]
    checks[1:3] = [Check(name, ("-c", "pass"), 60, {"now": "good"}) for name in ("bad", "tests")]
    assert run_parts([1], tmp_path, tiny=True) == 0
    assert counted.read_text() == "x" and states(tmp_path) == {"good": 0, "bad": 0, "tests": 0, "after": 0}


class Ready(subprocess.Popen):
    """A process that is waited for in vain once it has said something, however slowly it has started."""

    def __init__(self, command: list[str], stdout: Any, **streams: Any) -> None:
        super().__init__(command, stdout=stdout, **streams)
        self.said = Path(stdout.name)

    def wait(self, timeout: float | None = None) -> int:
        while not self.said.stat().st_size:
            time.sleep(0.01)
        return super().wait(timeout)


def test_a_command_that_takes_too_long_may_save_and_is_ended(checks, tmp_path: Path, capsys, monkeypatch) -> None:
    """By SIGTERM, then by SIGKILL; what no time is left for is not started, and all of it is called again."""
    saves = "import signal, sys, time\n"
    saves += f"signal.signal(signal.SIGTERM, lambda *_: (open({str(tmp_path / 'saved')!r}, 'w'), sys.exit(143)))\n"
    saves += "print(flush=True); time.sleep(60)"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    checks += [
        Check("saves", ("-c", saves), 1.5, {"never": ""}),
        Check("late", ("-c", f"open({str(tmp_path / 'late')!r}, 'w')"), 60, {"never": ""}),
    ]
    monkeypatch.setattr(subprocess, "Popen", Ready)
    monkeypatch.setattr(bench_gpu, "_TO_SAVE", 0.5)
    assert bench_gpu.carry_out(Check("deaf", ("-c", deaf), 60, {}), tmp_path, 0.1)["code"] is None
    monkeypatch.setattr(bench_gpu, "_TO_SAVE", 30)
    monkeypatch.setattr(bench_gpu, "PART_SECONDS", 30.2)
    monkeypatch.setattr(machine, "gpus", lambda environment: ["0"])
    assert run_parts([1], tmp_path, tiny=False) == 1
    assert states(tmp_path, "gpu") == {"saves": None, "late": None}
    assert (tmp_path / "saved").exists() and not (tmp_path / "late").exists()
    assert capsys.readouterr().out.count("not finished in its time, call the part again; ") == 2


def test_parts_fit_into_their_time(tmp_path: Path) -> None:
    """The usual course of each command, half its limit, fits; and no command is asked twice."""
    for checks in bench_gpu.parts(tmp_path, tiny=False).values():
        assert len({check.name for check in checks}) == len(checks)
        assert sum(check.seconds for check in checks) / 2 < bench_gpu.PART_SECONDS


def test_without_a_gpu(tmp_path: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda environment: [])
    said = refused("bench", "--gpu", "--out", tmp_path / "out", code=3)
    assert "bench --gpu needs a CUDA device; --dry-run carries out" in said and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("part", [1, 2, 3])
def test_every_part_in_small(part: int, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third's commands are started anew; the dozen of the others are forks, which have imported everything."""
    if part != 3:
        fork_runs(monkeypatch, "asdkit.commands.bench_gpu")
    assert main(["bench", "--gpu", "--dry-run", "--part", str(part), "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    table = (tmp_path / "dry-run" / "gpu.md").read_text()
    assert out == table and "exit code" not in table and set(states(tmp_path).values()) == {0}
    expected = {
        1: ("PSNR of the main job on the GPU", "GPU - CPU, pair by pair", "collected", "All that is required works"),
        2: ("ASD step time, batch 1", "fast at most 0.62x", "rendering of 100k Gaussians", "minutes (extrapolated)"),
        3: ("training of the embedded prior | ", "| 2 iterations in "),
    }
    assert all(words in table for words in expected[part]), table
