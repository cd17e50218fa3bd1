"""Where things are: the model hub and its cache, the embedded prior, disks, and the folder of all runs."""

import shutil
import tempfile
from pathlib import Path

from asdkit.commands.doctor.finding import BAD, NOTE, Finding, short
from asdkit.priors.hub import answers

_NEEDED_GB = {"runs": 1, "temporary files": 1, "model cache": 6}


def hub(root: Path) -> Finding:
    """The model hub and what of it is on this disk; one question, none when told to be offline."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    models = sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in cache.glob("models--*"))
    kept = ": ".join(filter(None, [f"{len(models)} models are in {short(cache)}", ", ".join(models[:3])]))
    kept, facts = kept + ", ..." * (len(models) > 3), {"models": models}
    if constants.HF_HUB_OFFLINE:
        return Finding(f"offline (HF_HUB_OFFLINE is set); {kept}", facts=facts)
    if answers(constants.ENDPOINT):
        return Finding(f"{constants.ENDPOINT} answers; {kept}", facts=facts)
    remedy = "the embedded prior needs no hub; for others, copy HF_HOME from a machine that has them, and set "
    remedy += "HF_HUB_OFFLINE=1 to save waiting"
    return Finding(f"{constants.ENDPOINT} does not answer; {kept}", NOTE, remedy, facts)


def prior(root: Path) -> Finding:
    """The embedded prior is whole, loads, and embeds a prompt."""
    from asdkit.priors.pretrained import Pretrained
    from asdkit.scores.conditions import Condition

    prior = Pretrained()
    remedy = "git checkout asdkit/toybox/weights, or install asdkit again from where you have it"
    try:
        digest = prior.digest
        if digest not in (prior.folder / "README.md").read_text():
            return Finding(f"the embedded weights are not those of this release ({digest})", BAD, remedy)
        prior.setup()
        prior.prepare([Condition("a red ball")])
    except (OSError, ValueError) as error:
        return Finding(str(error).rstrip("."), BAD, remedy)
    megabytes = round(sum(file.stat().st_size for file in prior.folder.rglob("*.safetensors")) / 1e6)
    return Finding(f"the embedded one is whole and loads ({digest}, {megabytes} MB)")


def disk(root: Path) -> Finding:
    """The space that is free where files are written."""
    from huggingface_hub import constants

    places = dict(zip(_NEEDED_GB, (root, Path(tempfile.gettempdir()), Path(constants.HF_HUB_CACHE)), strict=True))
    free = {name: shutil.disk_usage(_existing(path)).free / 2**30 for name, path in places.items()}
    text = "; ".join(f"{name} {free[name]:.1f} GB free ({short(path)})" for name, path in places.items())
    lacking = ", ".join(f"{name} ({needed} GB)" for name, needed in _NEEDED_GB.items() if free[name] < needed)
    if not lacking:
        return Finding(text)
    return Finding(text, NOTE, f"make room for {lacking}; --run.root, TMPDIR and HF_HOME name other places")


def runs(root: Path) -> Finding:
    """Whether the folder of all runs can be written to, or made."""
    folder = _existing(root)
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"asdkit")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Finding(f"{folder} can't be written to ({reason})", BAD, "choose another --run.root")
    return Finding(f"{short(root)} is writable")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
