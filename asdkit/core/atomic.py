"""Files that are whole or absent: everything asdkit writes is first written beside its place, then renamed."""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asdkit.core.errors import CannotWrite

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
_WEIGHTS = (".ckpt", ".safetensors")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context in which the system's refusal to write is a CannotWrite that names `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, CannotWrite) or error.errno not in _REFUSED:
            raise
        raise CannotWrite(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of `path` when the block succeeds.

    It has the suffix of `path`, unless it might be taken for whole weights then. A missing folder is made; what stands
    in the place of the file or its folder is set aside. When this returns, the file and its name are on the disk. If
    the system refuses, it is a CannotWrite, and what was at `path` is still there.
    """
    suffix = "" if path.suffix in _WEIGHTS else path.suffix  # which writers of pictures go by
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{suffix}")
    with writing(path):
        if path.parent.exists() and not path.parent.is_dir():
            set_aside(path.parent)
        if path.is_dir():
            set_aside(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # which may be a link
        try:
            yield temporary
            _to_disk(temporary)
            os.replace(temporary, path)
            _to_disk(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Rename a file or folder, e.g. to metrics-before-20260131-101500.csv, so that another can take its place."""
    name = f"{path.stem}-before-{time.strftime('%Y%m%d-%H%M%S')}"
    free = (path.with_name(f"{name}{more}{path.suffix}") for more in ("", *(f"-{n}" for n in range(2, 100))))
    path.rename(next(place for place in free if not place.exists()))


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed have left half written below a folder."""
    for path in folder.rglob(".*.tmp*"):
        name = re.fullmatch(r"\..+\.(\d+)\.tmp(\.\w+)?", path.name)
        if name and not _is_another_process(int(name[1])):
            path.unlink(missing_ok=True)


def _is_another_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it runs, and is somebody else's
        return True
    return pid != os.getpid()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_bytes(path, text.encode())
