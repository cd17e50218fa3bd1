"""Files of prompts."""

import io
import sys

from asdkit.core.errors import UsageError
from asdkit.core.text import local


def read_prompts(name: str) -> list[str]:
    """The prompts of a file, or of the standard input when its name is `-`; each once, in their order."""
    try:
        text = (sys.stdin.buffer.read() if name == "-" else local(name).read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{name} is no text in UTF-8; give a file with one prompt per line.") from None
    lines = [line.strip() for line in io.StringIO(text, newline=None)]  # whose lines end as a file's do
    kept = [line for line in dict.fromkeys(lines) if line and not line.startswith("#")]
    prompts = [line[1:] if line.startswith("\\#") else line for line in kept]
    if not prompts or "\0" in text:
        raise UsageError(f"There are no prompts in {name}; give a file with one prompt per line.")
    return prompts
