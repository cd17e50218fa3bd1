"""Websocket servers that only pages of this machine may talk to.

A page from anywhere that is open in the same browser can connect to a server on 127.0.0.1 and read what it sends, for
browsers' same-origin rule does not cover websockets (CWE-1385). They do say where a page is from, and the package
websockets refuses origins that are not on a list; but viser 1.1 gives it none and has no argument for one.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCAL = re.compile(r"http://(127\.0\.0\.1|localhost)(:\d+)?")


@contextmanager
def local_pages_only() -> Iterator[None]:
    """Inside, every server that this process starts with `websockets.asyncio.server.serve` refuses other pages.

    It is a RuntimeError if none was started that way: one that was started otherwise may be open to all pages.
    """
    from websockets.asyncio import server

    library: Any = server
    serve, started = server.serve, []

    def serve_local(*arguments: Any, **options: Any) -> Any:
        started.append(serve(*arguments, **options | {"origins": [_LOCAL, None]}))  # None: of programs
        return started[-1]

    library.serve = serve_local
    try:
        yield
    finally:
        library.serve = serve
    if not started:
        raise RuntimeError("The viewer's server can't be closed to pages of other machines; install viser 1.1.")
