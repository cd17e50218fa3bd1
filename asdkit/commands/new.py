"""`asdkit new`: a part of one's own that runs as it is, and a test that asks of it what asdkit needs."""

import keyword
import re
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

from asdkit.core.atomic import write_text
from asdkit.core.errors import UsageError
from asdkit.core.text import rendered

_KINDS = {  # the check that its test calls, what of the file it is called with, and how a run takes that
    "discriminator": ("check_field", "ASD", "image2d", "--model.guidance {}"),
    "generator": ("check_generator", "", "gs3d", "--model.generator {}"),
    "prior": ("check_prior", "", "image2d", "--model.prior {} --model.generator Pixels --model.guidance SDS"),
}


def run(options: Namespace) -> int:
    """Write both files and say how they are used; returns the exit code."""
    check, suffix, recipe, words = _KINDS[options.kind]
    templates = Path(__file__).parents[1] / "testing" / "templates"
    source = (templates / f"{options.kind}.py").read_text()
    name = "".join(word[:1].upper() + word[1:] for word in options.name.split("_"))
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    fits = name.isascii() and name.isidentifier() and not any(map(keyword.iskeyword, (name, module)))
    if not fits or re.search(rf"\b{name}\b", source):
        raise UsageError(f"{options.name!r} can't be the name of the class; take one of your own, such as SoftBalls.")
    test = rendered(templates / "test.txt", {"check": check, "module": module, "name": name + suffix})
    texts = {f"{module}.py": re.sub(r"\bTemplate", name, source), f"test_{module}.py": f"{test}\n"}
    for file in texts:
        if Path(file).exists() or find_spec(Path(file).stem):
            raise UsageError(f"There is a {Path(file).stem} already, in this folder or among Python's packages.")
    for file, text in texts.items():
        write_text(Path(file), text)
        print(file)
    print(f'asdkit fit {recipe} "a yellow duck" {words.format(f"{module}.{name}{suffix}")} --trust {module}')
    print(f"pytest test_{module}.py")
    return 0
