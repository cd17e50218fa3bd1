"""A quick program in the place of `asdkit fit`: it makes the run that its command line names, and ends as asked for.

It is told where by the real command line, and finds the folder as fit does.
"""

import sys
from pathlib import Path

from support.forked import wait_for

from asdkit.run.grid import Cell, Grid

PROGRAM = """
import json, os, pathlib, signal, sys, time
from asdkit.core.text import run_folder
assert not {"RANK", "WORLD_SIZE", "MASTER_PORT"} & set(os.environ)
if sys.argv[1].startswith("-"):
    given = dict(option.split("=", 1) for option in sys.argv if option.startswith("--run."))
    run = run_folder(pathlib.Path(given["--run.root"]), given["--run.recipe"], given["--run.name"])
    prompt = sys.argv[-1]
    if prompt != "nothing":
        run.mkdir(parents=True)
else:
    run = pathlib.Path(sys.argv[1])
    prompt = json.loads((run / "run.json").read_text())["prompt"]
def report(status, **more):
    facts = {"status": status, "prompt": prompt, "seconds": 2.5, "iterations": 7, **more}
    (run / "run.json").write_text(json.dumps(facts))
caught = []
if prompt == "waits":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: caught.append(number))
    report("running")
    (run / "ready.part").write_text(str(os.getpid()))
    (run / "ready.part").rename(run / "ready")
    while not caught:
        time.sleep(0.02)
    time.sleep(0.4)  # more would be counted
    report("interrupted")
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "last.ckpt").touch()
    print("saved after", *map(int, caught))
    sys.exit(128 + caught[0])
elif prompt == "dies":
    signal.raise_signal(signal.SIGKILL)
elif prompt.startswith("code"):
    print("asdkit: no good", flush=True)
    print("  ", flush=True)
    report("failed")
    sys.exit(int(prompt[4:]))
elif prompt != "nothing":
    time.sleep(2 if prompt == "late" else 0)
    report("finished", metrics={prompt[:2]: 1.25})
"""


def use_quick_fit() -> list[list[str]]:
    """From now on grids call the program; returns the list that real commands are appended to, from `fit` on."""
    called, real = [], Grid.command

    def command(self: Grid, cell: Cell) -> list[str]:
        called.append(real(self, cell)[5:])
        return [sys.executable, "-S", "-c", PROGRAM, *called[-1]]

    Grid.command = command
    return called


def until(path: Path) -> None:
    """Wait for a file."""
    wait_for(path.exists)
