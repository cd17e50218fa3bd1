"""Small files beside a run, and locks: what is lost or torn of JSON and CSV is made again, and never ends a command."""

import csv
import fcntl
import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from asdkit.core.atomic import write_text

_KINDS = {"status": str, "reason": str, "prompt": str, "prior": str, "command": list, "metrics": dict}
_NUMBERS = ("exit_code", "iterations", "seconds")


def locked(file: IO[Any]) -> bool:
    """Lock an open file, unless another process has; a disk that knows no locks refuses nobody, and it is said."""
    # The lock ends with the last process that has inherited the file, on whatever node, and however it ends.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        sentence = "%s can't be locked (%s): start no second command on this run, for nothing would refuse it."
        logging.getLogger(__name__).warning(sentence, file.name, error.strerror)
    return True


def refuse_links(folder: Path) -> None:
    """A ValueError if something in a run folder, not the folder itself, is a link: files elsewhere would be written."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and nothing in a run folder is written through links; remove it.")


def numbered_checkpoints(folder: Path) -> dict[int, Path]:
    """The files `step-000200.ckpt` of a folder by their iterations, the first one first."""
    named = ((re.fullmatch(r"step-(\d+)\.ckpt", path.name), path) for path in folder.glob("step-*.ckpt"))
    return dict(sorted((int(name[1]), path) for name, path in named if name))


def write_json(path: Path, content: Any) -> None:
    """Write what `read_facts` reads."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in a file, e.g. run.json, without those of another type; none where the file is missing or no JSON."""
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        content = {}
    facts = content if isinstance(content, dict) else {}
    facts = {name: fact for name, fact in facts.items() if isinstance(fact, _KINDS.get(name, object))}
    facts = {name: fact for name, fact in facts.items() if name not in _NUMBERS or _is_number(fact)}
    if "metrics" in facts:
        facts["metrics"] = {name: value for name, value in facts["metrics"].items() if _is_number(value)}
    return facts


def _is_number(value: Any) -> bool:
    """Whether it is a number that arithmetic can do with: JSON has integers without end."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**53)
