"""Every message and private name of another library that asdkit relies on, provoked from the library itself."""

import importlib
import logging
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings
from jsonargparse.typing import Path_fr
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.callbacks.timer import Interval
from pytorch_lightning.demos.boring_classes import ManualOptimBoringModel
from pytorch_lightning.loggers import CSVLogger

from asdkit import Ramp
from asdkit.core import foreign
from asdkit.core.trust import trusting
from asdkit.core.yaml_text import to_yaml


@dataclass(frozen=True)
class Pair:
    size: int = 1


class Inner:
    def __init__(self, size: int = 1, scale: float | Ramp = 1.0, pair: Pair = Pair()) -> None:
        pass


class Outer:
    def __init__(self, inner: Inner | None = None) -> None:
        pass


class Outermost:
    def __init__(self, outer: Outer | None = None) -> None:
        pass


INNER = f"--outer.inner={__name__}.Inner"
DEEP = [f"--outermost.outer={__name__}.Outer", "--outermost.outer.inner=null"]
NO_NUMBER = "expected a number, or a class such as asdkit.Ramp; got x"
NO_CHOICE = "expected one of csv, tensorboard; got tensorbord; did you mean 'tensorboard'?"
NO_CLASS = "there is no class Nobody; give its full import path, such as my_module.Nobody"
NO_NULL = "null can only stand in a file; write it in one and give that by a further --config"
SAYS: dict[str, tuple[list[str], dict[str, str]]] = {
    "an option": (["--foo=3"], {"option": "", "unknown": "foo"}),
    "an argument": (["--outer.inr=3"], {"option": "outer.inr", "unknown": "inr", "owner": "Outer"}),
    "an inner one": ([INNER, "--outer.inner.siz=3"], {"unknown": "siz", "owner": "Inner"}),
    "a group's": ([INNER, "--outer.inner.pair.sise=3"], {"unknown": "pair.sise", "owner": "Inner"}),
    "an integer": (["--steps=x"], {"option": "steps", "reason": "expected a whole number; got x"}),
    "an inner integer": ([INNER, "--outer.inner.size=x"], {"reason": "expected a whole number; got x"}),
    "a choice": (["--kinds=[tensorbord]"], {"option": "kinds", "reason": NO_CHOICE}),
    "no choice": (["--kinds=['']"], {"option": "kinds", "reason": "expected one of csv, tensorboard; got ."}),
    "a number": ([INNER, "--outer.inner.scale=x"], {"option": "outer.inner.scale", "reason": NO_NUMBER}),
    "a class": (["--outer.inner=Nobody"], {"option": "outer.inner", "reason": NO_CLASS}),
    "nothing": (DEEP, {"option": "outermost.outer.inner", "reason": NO_NULL}),
    "a key": (["--config=key.yaml"], {"option": "", "unknown": "stps", "owner": ""}),
}


def said(arguments: list[str]) -> str:
    """The message with which a parser of an Outer and a number of steps refuses a command line."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--kinds", type=Sequence[Literal["csv", "tensorboard"]])
    parser.add_argument("--outer", type=Outer | None, default={"class_path": f"{__name__}.Outer"})
    parser.add_argument("--outermost", type=Outermost | None, default={"class_path": f"{__name__}.Outermost"})
    with pytest.raises(ArgumentError) as refused:
        parser.parse_args(arguments)
    return str(refused.value)


@pytest.mark.parametrize("case", SAYS)
def test_what_a_parser_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.yaml").write_text("stps: 3\n")
    arguments, expected = SAYS[case]
    message = foreign.read_parser_message(said(arguments))._asdict()
    message["owner"] = message["owner"].removeprefix(f"{__name__}.")
    assert {name: message[name] for name in expected} == expected, said(arguments)


def test_an_enumeration_is_written_as_its_text() -> None:
    """As what a Timer counts in, in the recipe of a run."""
    assert to_yaml({"interval": Interval.step, "text": "1e3"}) == 'interval: step\ntext: "1e3"\n'


def test_what_a_parser_says_of_an_import_that_is_not_allowed() -> None:
    with trusting([__name__]):
        assert foreign.refused_import(said(["--outer.inner=os.system"])) == "os.system"
    assert foreign.refused_import(said(["--steps=x"])) == ""


def test_the_settings_of_jsonargparse_can_be_put_back() -> None:
    settings = foreign.parsing_settings()
    before = dict(settings)
    set_parsing_settings(import_path_denylist=["os"], instantiate_subclass_spec_in_any=False)
    assert settings != before
    settings.update(before)
    assert foreign.parsing_settings() == before


def test_texts_stay_texts_and_addresses_are_refused_inside_alone() -> None:
    """Outside, jsonargparse takes `# x` for nothing, and fsspec knows where http leads."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--text", type=str | None)
    url_to_fs = importlib.import_module("fsspec.core").url_to_fs
    before = Path_fr.__init__
    with foreign.texts_stay_texts(), foreign.no_addresses():
        assert [parser.parse_args([f"--text={text}"]).text for text in ("# x", "null", "1e3")] == ["# x", "null", "1e3"]
        assert parser.parse_object({"text": None}).text is None
        with pytest.raises(ValueError, match="is an address"):
            Path_fr("memory://x")
        with pytest.raises(ValueError, match="memory:// leads elsewhere"):
            url_to_fs("memory://x")
        assert url_to_fs("/a/b")[1] == "/a/b"
    assert Path_fr.__init__ is before and parser.parse_args(["--text=# x"]).text is None
    assert type(url_to_fs("memory://x")[0]).__name__ == "MemoryFileSystem"


def test_memory_that_runs_out() -> None:
    with pytest.raises(RuntimeError) as full:
        torch.empty(10**15)
    assert foreign.is_out_of_memory(full.value) and foreign.is_out_of_memory(torch.OutOfMemoryError("words"))
    assert not foreign.is_out_of_memory(RuntimeError("something else"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_devices_memory_that_runs_out() -> None:
    with pytest.raises(RuntimeError) as full:
        torch.empty(10**14, device="cuda")
    assert foreign.is_out_of_memory(full.value)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="You requested gpu") as refused:
        CUDAAccelerator.parse_devices([99])
    assert foreign.is_no_device(refused.value) and foreign.is_misconfiguration(refused.value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("pytorch_lightning.accelerators.cuda.num_cuda_devices", lambda: 0)
    for name in ("gpu", "cuda"):
        with pytest.raises(Exception, match="gpu backend|can not run") as refused:
            pl.Trainer(accelerator=name, logger=False)
        assert foreign.is_no_device(refused.value) and foreign.is_misconfiguration(refused.value)


def trainer(folder: Path, checkpoints: str, steps: int) -> pl.Trainer:
    checkpoint = ModelCheckpoint(folder / checkpoints, every_n_train_steps=1, save_top_k=-1)
    logger = CSVLogger(folder, name="", version="")
    limits = {"max_steps": steps, "limit_val_batches": 1, "accelerator": "cpu", "enable_model_summary": False}
    return pl.Trainer(logger=logger, callbacks=[checkpoint], enable_progress_bar=False, **limits)


def test_lightnings_chatter(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))  # there is advice on workers for many cores
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])  # which commands of other tests have left there
    caplog.set_level(logging.INFO)
    model = ManualOptimBoringModel()
    model.layer.eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, "a", 1).fit(model)
        (checkpoint,) = (tmp_path / "a").iterdir()
        for folder in ("a", "b"):
            trainer(tmp_path, folder, 2).fit(model, ckpt_path=checkpoint)
        trainer(tmp_path, "a", 2).validate(model, ckpt_path=checkpoint, verbose=False)
    said = [str(warning.message) for warning in caught]
    for pattern in foreign.HARMLESS_WARNINGS:
        assert any(re.match(pattern, text) for text in said), pattern
    for words in foreign.ADVERTS:
        assert any(words in record.getMessage() for record in caplog.records), words


def test_a_trainer_is_given_another_root() -> None:
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    foreign.set_root_folder(trainer, "/another")
    assert trainer.default_root_dir == "/another"
