"""Where things are: the model hub and its cache, the embedded prior, disks, and the folder of all runs."""

import os
import shutil
import tempfile
from pathlib import Path

from asdkit.commands.doctor.finding import BAD, NOTE, Finding, short
from asdkit.priors.hub import answers as hub_answers

_NEEDED_GB = {"runs": 1, "temporary files": 1, "model cache": 6}


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def hub(root: Path) -> Finding:
    """The model hub and what of it is on this disk; one question, none when told to be offline."""
    cache = _hub_cache()
    models = sorted(folder.name[8:].replace("--", "/") for folder in cache.glob("models--*"))
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    offline = said.upper() in ("1", "ON", "YES", "TRUE")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answers = None if offline else hub_answers(endpoint)
    facts = {"offline": offline, "answers": answers, "endpoint": endpoint, "cache": str(cache), "models": models}
    names = f": {', '.join(models[:3])}{', ...' if len(models) > 3 else ''}" if models else ""
    kept = f"{len(models)} models are in {short(cache)}{names}"
    if offline:
        return Finding(f"offline (HF_HUB_OFFLINE is set); {kept}", facts=facts)
    if answers:
        return Finding(f"{endpoint} answers; {kept}", facts=facts)
    remedy = "the embedded prior needs no hub; for others, copy HF_HOME from a machine that has them, and set "
    return Finding(f"{endpoint} does not answer; {kept}", NOTE, remedy + "HF_HUB_OFFLINE=1 to save waiting", facts)


def prior(root: Path) -> Finding:
    """The embedded prior is whole, loads, and embeds a prompt."""
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    from asdkit.priors.pretrained import Pretrained
    from asdkit.scores.conditions import Condition

    prior = Pretrained()
    remedy = "pip install --force-reinstall --no-deps asdkit (in a checkout: git checkout asdkit/toybox/weights)"
    try:
        digest = prior.digest
        if digest not in (prior.folder / "README.md").read_text():
            return Finding(f"the embedded weights are not those of this release ({digest})", BAD, remedy)
        prior.setup()
        prior.prepare([Condition("a red ball")])
    except (OSError, ValueError) as error:
        return Finding(str(error).rstrip("."), BAD, remedy)
    size = round(sum(file.stat().st_size for file in prior.folder.rglob("*.safetensors")) / 1e6)
    facts = {"digest": digest, "megabytes": size}
    return Finding(f"the embedded one is whole and loads ({digest}, {size} MB)", facts=facts)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def disk(root: Path) -> Finding:
    places = {"runs": root, "temporary files": Path(tempfile.gettempdir()), "model cache": _hub_cache()}
    free = {name: shutil.disk_usage(_existing(path)).free / 2**30 for name, path in places.items()}
    facts = {"free_gb": {name: round(gigabytes, 1) for name, gigabytes in free.items()}}
    text = "; ".join(f"{name} {free[name]:.1f} GB free ({short(path)})" for name, path in places.items())
    lacking = [f"{name} ({_NEEDED_GB[name]} GB)" for name in places if free[name] < _NEEDED_GB[name]]
    if not lacking:
        return Finding(text, facts=facts)
    remedy = f"make room for {', '.join(lacking)}; --run.root, TMPDIR and HF_HOME name other places"
    return Finding(text, NOTE, remedy, facts)


def runs(root: Path) -> Finding:
    place = _existing(root)
    facts = {"root": str(root)}
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            file.write(b"asdkit")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Finding(f"{place} can't be written to ({reason})", BAD, "choose another --run.root", facts)
    return Finding(f"{short(root)} is writable", facts=facts)
