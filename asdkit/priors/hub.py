"""Models of the hub: its cache is looked at first, and a hub that does not answer is given up after seconds."""

import difflib
import errno
import re
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import yaml

from asdkit.core.errors import PriorUnavailable
from asdkit.core.text import first_line, local
from asdkit.priors.required_files import Choose, chosen_files, read_json


class KnownModel(NamedTuple):
    """A model with a short name, as `models.yaml` has it."""

    id: str
    overlay: str
    revision: str = ""
    single_file: str = ""


KNOWN = yaml.safe_load(Path(__file__).with_name("models.yaml").read_text("utf-8"))
ALIASES = {alias: KnownModel(**facts) for alias, facts in KNOWN["aliases"].items()}
WITHDRAWN: dict[str, str] = KNOWN["withdrawn"]
_ID = re.compile(r"\w[\w.-]*/[\w.-]+(?:@[\w./-]+)?")
_ANSWERS: dict[str, str] = KNOWN["answers"]
PROBE_SECONDS = 3.0
EMBEDDED = "toybox"  # the model that asdkit ships


def parse(name: str) -> tuple[str, str] | None:
    """Id and revision that an alias or an id means, with `@revision` after it or not; None if it is neither."""
    alias, _, revision = name.partition("@")
    if alias not in ALIASES and not _ID.fullmatch(name):
        return None
    known = ALIASES.get(alias) or KnownModel(alias, overlay="")
    return known.id, revision or known.revision


def check_name(path: str) -> None:
    """Refuse a prior that is no alias, no id, and nothing on this machine."""
    if not (path == EMBEDDED or path.startswith("random:") or parse(path) or local(path).exists()):
        known = "a folder, a .safetensors file, an alias such as sd15, or an id of the hub"
        raise PriorUnavailable(f"There is no {local(path)}; name {known}{_nearest(path)}")


def _nearest(name: str) -> str:
    """The end of a sentence about a name that means nothing: the aliases of those names and ids that it is like."""
    known = {EMBEDDED: EMBEDDED} | {word.lower(): alias for alias, (id, *_) in ALIASES.items() for word in (id, alias)}
    word = name.lower()
    words = [word] if word in known else difflib.get_close_matches(word, known, n=2, cutoff=0.7)
    near = dict.fromkeys(known[word] for word in words)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else "."


def folder_of(path: str, choose: Choose) -> tuple[Path, list[str]]:
    """A model's folder, and its files that are read: the folder of this name, else the one of an alias or an id."""
    check_name(path)
    folder = local(path)
    if not folder.is_dir() and (parsed := parse(path)):
        folder = snapshot(*parsed, choose)
    if not folder.is_dir():
        raise PriorUnavailable(f"{folder} is no folder; name a folder, a .safetensors file, or an id of the hub.")
    return folder, chosen_files(folder, choose)


def snapshot(repository: str, revision: str, choose: Choose) -> Path:
    """The folder in the hub's cache that holds the chosen files; what is missing there is fetched."""
    import huggingface_hub as client

    at, index = revision or None, ["model_index.json"]
    try:
        cached = Path(client.snapshot_download(repository, revision=at, local_files_only=True, allow_patterns=index))
        chosen_files(cached, choose, repository)
        return cached
    except (client.errors.LocalEntryNotFoundError, PriorUnavailable) as error:
        lack = f" ({first_line(error)})" if isinstance(error, PriorUnavailable) else ""
    _check_reachable(repository, lack)
    try:
        names = client.list_repo_files(repository, revision=at)
        download = partial(client.hf_hub_download, repository, revision=at)
        chosen = choose(repository, names, lambda name: read_json(Path(download(name))))
        return Path(client.snapshot_download(repository, revision=at, allow_patterns=chosen))
    except PriorUnavailable:
        raise
    except Exception as error:  # of the hub's client, of its transports, or of the disk
        raise PriorUnavailable(_sentence(repository, revision, error)) from error


def _check_reachable(repository: str, lack: str) -> None:
    """A model that the cache does not hold whole may be fetched: it was not withdrawn, and the hub answers."""
    from huggingface_hub import constants

    place = f"{repository} is not in the cache {constants.HF_HUB_CACHE}, or not whole{lack}"
    for start, copies in WITHDRAWN.items():
        if repository.startswith(start):
            fate = f"{repository} was withdrawn from the hub; copies that its community keeps are {copies}"
            advice = "look at one and its licence and name it with --prior, or name a folder that you have"
            raise PriorUnavailable(f"{fate}, so {advice}.")
    if constants.HF_HUB_OFFLINE:
        raise PriorUnavailable(f"{place}, and HF_HUB_OFFLINE forbids fetching: unset it or name a folder.")
    if not answers(constants.ENDPOINT):
        advice = f"run `hf download {repository}` where there is a network and copy HF_HOME from there"
        raise PriorUnavailable(f"{place}, and {constants.ENDPOINT} does not answer; {advice}, or name a folder.")


def answers(endpoint: str) -> bool:
    """Whether a server answers, anything at all, within PROBE_SECONDS; the look-up of its name counts."""
    answered = threading.Event()

    def ask() -> None:
        with suppress(OSError, ValueError):
            with suppress(HTTPError), urlopen(Request(endpoint, method="HEAD"), timeout=PROBE_SECONDS):
                pass
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def _sentence(repository: str, revision: str, error: Exception) -> str:
    """What the hub's client, its transports or the disk have raised, in one sentence."""
    from huggingface_hub import constants

    status = getattr(getattr(error, "response", None), "status_code", 0)
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if getattr(error, "errno", 0) == errno.ENOSPC or "No space left" in str(error):
        kinds = ["disk"]
    elif status in (401, 403):
        kinds.append("refused")
    answer = next((answer for kind, answer in _ANSWERS.items() if kind in kinds), _ANSWERS["else"])
    page, cache, reason = f"{constants.ENDPOINT}/{repository}", constants.HF_HUB_CACHE, first_line(error)
    facts = {"model": repository, "revision": revision, "cache": cache, "status": status, "near": _nearest(repository)}
    return answer.format(page=page, reason=reason, **facts)
