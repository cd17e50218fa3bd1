"""Evil recipes, checkpoints, priors and prompts: nothing is executed, and one sentence says why."""

import copy
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from support.tiny import loaded, save_tiny_shap_e

from asdkit import Distillation, ShapE
from asdkit.commands.main import main
from asdkit.core.text import local, shown
from asdkit.core.trust import refusal, trusting
from asdkit.generators.gaussians import object_of
from asdkit.run.checkpoints import AtomicCheckpointIO
from asdkit.run.export import load
from asdkit.scores.prior import Condition

ROOT = Path(__file__).parents[2]
EVIL = """
from pathlib import Path
Path(__file__).with_name("executed").touch()
from asdkit.generators.images import Pixels
class Evil(Pixels): pass
def go(*args, **kwargs) -> Pixels: return Evil()
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A marker that appears when the module `evil`, which can be found, is imported or anything touches it.

    It must not, whatever the test does; one that lets it appear removes it again.
    """
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    yield folder / "executed"
    assert not (folder / "executed").exists(), "foreign code was executed"


@pytest.fixture
def overlaid(refused: Callable, recipe: Path, tmp_path: Path, evil: Path) -> Callable[[Any], str]:
    """The sentence with which a recipe that is laid over the small one is refused, before a run folder is made."""

    def sentence(overlay: Any) -> str:
        text = overlay if isinstance(overlay, str) else yaml.safe_dump(overlay)
        (tmp_path / "evil.yaml").write_text(text)
        said = refused("fit", "--config", recipe, "--config", tmp_path / "evil.yaml")
        assert not (tmp_path / "runs").exists()
        return said

    return sentence


@pytest.fixture
def tampered(finished: Path, tmp_path: Path, evil: Path) -> Callable[[Callable[[dict], Any]], Path]:
    """A copy of the finished run whose last checkpoint a function has changed."""

    def make(change: Callable[[dict], Any]) -> Path:
        run = shutil.copytree(finished, tmp_path / "shared" / "small" / "one")
        path = run / "checkpoints" / "last.ckpt"
        saved = torch.load(path, weights_only=True)
        torch.save(change(saved) or saved, path)
        return run

    return make


PART = {"class_path": "evil.Evil", "init_args": {"size": 16}}
CALLBACK, CHECKPOINT = (f"pytorch_lightning.callbacks.{name}" for name in ("LambdaCallback", "ModelCheckpoint"))
LOGGER = "pytorch_lightning.loggers.CSVLogger"
RECIPES: dict[str, dict] = {
    "the model": {"model": PART},
    "the generator": {"model": {"init_args": {"generator": PART}}},
    "its name alone": {"model": {"init_args": {"generator": "evil.Evil"}}},
    "a part of a part": {"model": {"init_args": {"generator": {"init_args": {"start": PART}}}}},
    "a function": {"model": {"init_args": {"guidance": {"class_path": "evil.go"}}}},
    "the prior": {"model": {"init_args": {"prior": PART}}},
    "the data": {"data": PART},
    "a callback": {"trainer": {"callbacks": [PART]}},
    "a callback's function": {"trainer": {"callbacks": [{"class_path": CALLBACK, "init_args": {"setup": "evil.go"}}]}},
    "a logger": {"trainer": {"logger": PART}},
    "a plugin": {"trainer": {"plugins": [PART]}},
    "a strategy": {"trainer": {"strategy": PART}},
    "a profiler": {"trainer": {"profiler": PART}},
    "an accelerator": {"trainer": {"accelerator": PART}},
}


@pytest.mark.parametrize("where", RECIPES)
def test_a_recipe_imports_nothing_that_is_not_trusted(overlaid: Callable, where: str) -> None:
    sentence = overlaid(RECIPES[where])
    assert "names evil." in sentence and sentence.endswith("if you trust evil, add --trust evil."), sentence


@pytest.mark.parametrize(
    "option",
    ["--model", "--model.generator", "--data", "--trainer.callbacks", "--trainer.logger", "--model.help",
     "--model.generator.help", "--trainer.callbacks.help", "--trainer.callbacks+"],
)  # fmt: skip
def test_options_import_nothing_foreign(refused: Callable, recipe: Path, evil: Path, option: str) -> None:
    assert "names evil.Evil, but only" in refused("fit", "--config", recipe, f"{option}=evil.Evil")


POPEN, REQUIRE = "asdkit.run.pool.subprocess.Popen", "asdkit.core.optional.require_package"
PUBLIC = "public parts of asdkit, Lightning and torch.optim"


@pytest.mark.parametrize(
    ("path", "arguments", "named"),
    [
        ("asdkit.commands.main.os.system", {"command": "touch"}, "asdkit.commands.main.os.system"),
        (POPEN, {"args": "touch", "shell": True}, POPEN),
        ("asdkit.core.optional.import_module", {"name": "evil"}, "asdkit.core.optional.import_module"),
        (REQUIRE, {"module": "evil", "name": "video"}, f"{REQUIRE}, but only {PUBLIC} are imported."),
        ("pytorch_lightning.callbacks.lambda_function.Callable", {}, "Callable"),
        ("torch.optim.lr_scheduler.partial", {}, "functools.partial"),
        ("asdkit.data.Cameras.load_from_checkpoint", {"checkpoint_path": "x.ckpt"}, "pytorch_lightning.core"),
        ("pytorch_lightning.cli.instantiate_module", {}, "pytorch_lightning.cli"),
        ("jsonargparse.set_parsing_settings", {}, "jsonargparse"),
        ("builtins.exec", {}, "builtins.exec"),
    ],
)
def test_a_trusted_package_leads_to_nothing_foreign(
    overlaid: Callable, evil: Path, path: str, arguments: dict, named: str
) -> None:
    arguments = {name: f"touch {evil}" if value == "touch" else value for name, value in arguments.items()}
    part = {"class_path": path, "init_args": arguments}
    assert named in overlaid({"model": {"init_args": {"generator": part}}})
    assert named in overlaid({"trainer": {"callbacks": [part]}})


@pytest.mark.parametrize("tag", ["python/object/apply:os.system", "python/object/new:os.system", "python/name:evil.go"])
def test_yaml_has_no_tags(overlaid: Callable, evil: Path, tag: str) -> None:
    said = f"evil.yaml can't be read as a recipe: line 1 has the tag {tag}; recipes are plain YAML"
    assert said in overlaid(f"model: !!{tag} [touch {evil}]\n")


def test_what_an_error_quotes_is_not_imported(refused: Callable, recipe: Path, evil: Path) -> None:
    quoted = "Option 'x' is not accepted. Problem with given class_path 'evil.Evil'"
    refused("fit", "--config", recipe, f"--trainer.max_steps={quoted}")


def test_trust_lasts_for_one_command(capsys, refused: Callable, recipe: Path, evil: Path) -> None:
    options = ["fit", "--config", str(recipe), "--model.generator=evil.Evil", "--print_config"]
    assert main([*options, "--trust", "evil"]) == 0
    assert "class_path: evil.Evil" in capsys.readouterr().out
    evil.unlink()  # it was imported
    assert "names evil.Evil" in refused(*options)
    assert main([*options, "--trust=numpy", "--trust=evil"]) == 0
    assert "--trust evul: there is no such package" in refused(*options, "--trust=evul")
    for name in ("", "*", "../evil", "jsonargparse", "jsonargparse.typing", "--config"):
        assert "--trust needs a package" in refused(*options, f"--trust={name}")
        assert "--trust needs a package" in refused("view", "x.ply", f"--trust={name}")
    assert "--trust needs a value" in refused(*options, "--trust")


def test_inner_blocks_keep_what_outer_ones_trust_and_give_it_back() -> None:
    from jsonargparse._common import check_import_path, parsing_settings

    before = dict(parsing_settings)
    trusted = ("evil", "more.of", "asdkit.ASD", "asdkit.methods", "torch.optim", "pytorch_lightning.callbacks")
    with trusting(["evil"]):
        with trusting(["more.of"]):
            for path in trusted:
                check_import_path(f"{path}.x")
            for path in ("more.x", "evilest.x", "os.x", "asdkit.x", "torch.x", "pytorch_lightning.x", "jsonargparse.x"):
                with pytest.raises(ImportError, match="not allowed"):
                    check_import_path(path)
        check_import_path("evil.x")
        with pytest.raises(ImportError):
            check_import_path("more.of.x")
    assert parsing_settings == before
    with pytest.raises(ZeroDivisionError), trusting():
        raise ZeroDivisionError
    assert parsing_settings == before and refusal("Something else.", "x") == ""


def test_a_file_in_the_working_directory_is_no_library(refused, recipe: Path, tmp_path: Path, monkeypatch) -> None:
    for name in ("torch", "json", "argparse", "os", "own"):
        (tmp_path / f"{name}.py").write_text(f"open('executed-{name}', 'w')\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "asdkit", "recipes"]
    done = subprocess.run(command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0 and b"gs3d" in done.stdout
    assert not list(tmp_path.glob("executed-*"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    options = ["fit", "--config", recipe, "--model.generator=own.Own"]
    assert "add --trust own" in refused(*options) and str(tmp_path) not in sys.path
    assert "own" in refused(*options, "--trust=own") and sys.path[-1] == str(tmp_path)
    assert [path.name for path in tmp_path.glob("executed-*")] == ["executed-own"]


class Payload:
    """Unpickling it touches a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def test_nothing_is_unpickled(refused: Callable, recipe: Path, evil: Path, tampered: Callable) -> None:
    run = tampered(lambda saved: saved | {"hyper_parameters": saved["hyper_parameters"] | {"x": Payload(evil)}})
    file = run / "checkpoints" / "last.ckpt"
    (bare := file.with_name("bare.ckpt")).write_bytes(pickle.dumps(Payload(evil)))
    (half := file.with_name("half.ckpt")).write_bytes(file.read_bytes()[:900])
    fit = ["fit", "--config", recipe]
    for path, *arguments in (
        (bare, *fit, "--ckpt_path"), (file, "test", *fit[1:], "--ckpt_path"), (file, *fit, "--model.generator.init"),
        (bare, *fit, "--data.asset"), (file, "view"), (file, "export", "--format=ply"),
    ):  # fmt: skip
        assert f"{path} is broken, or no checkpoint of asdkit." in refused(*arguments, path)
    for path in (file, bare, half):
        for opened in (load, object_of, Distillation.load_from_checkpoint):
            with pytest.raises(ValueError, match="is broken, or no checkpoint"):
                opened(path)
    assert "is broken" in refused("fit", run)
    with pytest.raises(ValueError, match="is broken"):
        Distillation.load_from_checkpoint(file, weights_only=False)
    for command in ("fit", "validate", "test", "predict"):
        assert "no option --weights_only" in refused(command, "--config", recipe, "--weights_only=false")
    assert not evil.exists()
    torch.load(file, weights_only=False)
    evil.unlink()  # the payload would have worked


@pytest.mark.parametrize("part", ["generator", "prior", "guidance", "timesteps"])
@pytest.mark.parametrize("spec", [PART, "evil.Evil"], ids=["dict", "name"])
def test_the_classes_of_a_checkpoint_obey_the_list(refused, tampered: Callable, part: str, spec: Any) -> None:
    run = tampered(lambda saved: saved["hyper_parameters"].update({part: spec}))
    for opened in (load, Distillation.load_from_checkpoint, *([object_of] if part == "generator" else [])):
        with pytest.raises(ValueError, match="can't be built|names evil.Evil, but"):
            opened(run)
    assert str(run) in refused("export", run, "--format=ply")


def test_trust_reaches_a_checkpoints_classes(evil: Path, tampered: Callable) -> None:
    def change(saved: dict) -> None:
        saved["hyper_parameters"]["generator"] = PART
        saved["state_dict"] = {"generator.logits": torch.zeros(1)}

    run = tampered(change)
    with trusting(["evil"]), pytest.raises(ValueError, match="does not hold the weights of the generator"):
        object_of(run)
    evil.unlink()


@pytest.mark.parametrize("name", ["os.system", "evil.go", "pytorch_lightning.cli.instantiate_class", 3])
def test_other_ways_to_build_a_module_are_refused(tampered: Callable, name: Any) -> None:
    run = tampered(lambda saved: saved["hyper_parameters"].update(_instantiator=name))
    for opened in (load, object_of, Distillation.load_from_checkpoint):
        with pytest.raises(ValueError, match="checkpoint of something else"):
            opened(run)


@pytest.mark.parametrize("name", ["local://{victim}", "{run}/checkpoints/../../../../victim/sub.ckpt"])
def test_a_checkpoint_can_have_nothing_deleted(tampered: Callable, tmp_path: Path, name: str) -> None:
    """Lightning's ModelCheckpoint removes what a checkpoint calls the run's best or last one, with all below it."""
    victim = tmp_path / "victim"
    (victim / "sub.ckpt").mkdir(parents=True)
    (victim / "sub.ckpt" / "kept.ckpt").touch()
    second = {"every_n_train_steps": 1, "save_top_k": 1, "save_last": True, "filename": "second-{step}"}
    callback = {"class_path": CHECKPOINT, "init_args": second | {"auto_insert_metric_name": False}}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))

    def change(saved: dict) -> None:
        run = tmp_path / "shared" / "small" / "one"
        path = name.format(victim=victim, run=run)
        key = ModelCheckpoint(every_n_train_steps=1).state_key
        state = {"monitor": None, "best_model_score": None, "current_score": None, "kth_value": torch.tensor(0.0)}
        state |= {"best_model_path": path, "last_model_path": path, "dirpath": str(run / "checkpoints")}
        saved["callbacks"][key] = state | {"best_k_models": {path: torch.tensor(0.0)}, "kth_best_model_path": path}

    run = tampered(change)
    options = ["--config", str(tmp_path / "second.yaml"), "--trainer.max_steps=6"]
    assert main(["fit", str(run), *options]) == 0
    assert {"step-000006.ckpt", "second-6.ckpt"} <= {file.name for file in (run / "checkpoints").iterdir()}
    assert (victim / "sub.ckpt" / "kept.ckpt").is_file()


@pytest.mark.parametrize("way", ["packed", "repeated"])
def test_a_checkpoint_that_unpacks_to_more_than_its_size_is_refused(refused, finished: Path, tmp_path, way) -> None:
    """Packed zeros, or one part under many names, that the machine would hold in memory although nobody reads them."""
    whole, file = finished / "checkpoints" / "last.ckpt", tmp_path / "large.ckpt"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            target.writestr(part, source.read(part))
        if way == "packed":
            target.writestr("archive/data/999", bytes(10**8))
        else:
            target.filelist += [copy.copy(part) for part in target.filelist for _ in range(50)]
        assert sum(part.file_size for part in target.filelist) > 30 * whole.stat().st_size
    assert "is broken" in refused("export", file, "--format=ply")


def test_only_checkpoints_of_the_run_folder_or_of_this_process_are_removed(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for folder in (run / "checkpoints", elsewhere):
        (folder / "sharded.ckpt").mkdir(parents=True)
        for name in ("a.ckpt", "a.txt", "sharded.ckpt/part"):
            (folder / name).touch()
    (run / "link").symlink_to(elsewhere)
    files = AtomicCheckpointIO()
    files.remove_checkpoint(run / "checkpoints" / "a.ckpt")  # there is no run folder yet
    files.folder = run
    for path in (elsewhere, elsewhere / "a.ckpt", run / "link" / "a.ckpt", run / ".." / "elsewhere" / "sharded.ckpt"):
        files.remove_checkpoint(str(path))
    files.remove_checkpoint(f"local://{run / 'checkpoints' / 'a.ckpt'}")
    files.remove_checkpoint(run / "checkpoints" / "a.txt")
    assert len(list((run / "checkpoints").rglob("*"))) == len(list(elsewhere.rglob("*"))) == 4
    for name in ("a.ckpt", "sharded.ckpt"):
        files.remove_checkpoint(run / "checkpoints" / name)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["a.txt"]
    files.save_checkpoint({}, elsewhere / "own.ckpt")
    files.remove_checkpoint(elsewhere / "own.ckpt")
    assert not (elsewhere / "own.ckpt").exists()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("weights", "fit"), ("snapshots", "predict"), ("predict", "predict"), ("export", "export"),
        ("metrics.csv", "fit"), ("checkpoints", "fit"), ("checkpoints", "export"),
    ],
)  # fmt: skip
def test_nothing_is_written_through_links_in_a_run_folder(
    refused: Callable, finished: Path, tmp_path: Path, name: str, command: str
) -> None:
    """A folder elsewhere, or for metrics.csv a file that is not there yet."""
    run, victim = tmp_path / "one", tmp_path / "victim"
    shutil.copytree(finished, run)
    if name != "metrics.csv":
        shutil.copytree(run / "checkpoints", victim)
    shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    before = {file.name: file.stat().st_mtime_ns for file in victim.glob("*")}
    options = {"fit": ["--trainer.max_steps=5"], "export": ["--format=ply"]}.get(command, [])
    assert f"{run / name} is a link" in refused(command, run, *options)
    assert {file.name: file.stat().st_mtime_ns for file in victim.glob("*")} == before
    assert victim.exists() == (name != "metrics.csv")


WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def foreign(tiny_folder: Path, tmp_path: Path, evil: Path) -> Path:
    """A prior folder that may be changed, with code in each of its folders."""
    folder = tmp_path / "foreign"
    shutil.copytree(tiny_folder, folder)
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for name in ("evil", "modeling_evil", "pipeline", place.name):
            (place / f"{name}.py").write_text(f"open({str(evil)!r}, 'w')\nclass Evil: pass\n")
    return folder


def rewritten(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | settings))


def used(folder: Path) -> None:
    loaded(folder, Condition("a red duck"))


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors", ".pt"])
def test_weights_are_never_unpickled(foreign: Path, evil: Path, part: str, suffix: str) -> None:
    name = {".bin": "pytorch_model"}.get(suffix, WEIGHTS[part]) if part == "text_encoder" else WEIGHTS[part]
    (foreign / part / f"{WEIGHTS[part]}.safetensors").unlink()
    torch.save({"weight": Payload(evil)}, foreign / part / f"{name}{suffix}")
    with pytest.raises(ValueError, match=f"{part}.* (pickled weights only|is torn)"):
        used(foreign)


AUTO = {"auto_map": dict.fromkeys(("AutoModel", "AutoConfig", "AutoTokenizer", "CLIPTextModel"), "evil.Evil")}
FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "a pipeline's file": ("model_index.json", {"_class_name": ["evil", "Evil"]}),
    "a pipeline's path": ("model_index.json", {"_class_name": "evil.Evil"}),
    "a pipeline that is a module": ("model_index.json", {"_class_name": "os"}),
    "a module of the folder": ("model_index.json", {"unet": ["evil", "Evil"]}),
    "a network of os": ("model_index.json", {"unet": ["os", "system"], "vae": ["os", "system"]}),
    "a text encoder of os": ("model_index.json", {"text_encoder": ["os", "system"]}),
    "a tokenizer of subprocess": ("model_index.json", {"tokenizer": ["subprocess", "Popen"]}),
    "the network's class": ("unet/config.json", {"_class_name": "Evil"} | AUTO),
    "the autoencoder's class": ("vae/config.json", {"_class_name": ["evil", "Evil"]} | AUTO),
    "the text encoder's": ("text_encoder/config.json", {"architectures": ["Evil"], "model_type": "evil"} | AUTO),
    "the tokenizer's": ("tokenizer/tokenizer_config.json", {"tokenizer_class": "Evil"} | AUTO),
    "the scheduler's": ("scheduler/scheduler_config.json", {"_class_name": ["evil", "Evil"]}),
    "an adapter's base": ("text_encoder/adapter_config.json", {"base_model_name_or_path": "evil", "peft_type": "LORA"}),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_no_code_of_a_priors_folder_is_run(foreign: Path, case: str) -> None:
    """What names foreign code is refused, or passed over."""
    file, settings = FOREIGN[case]
    rewritten(foreign / file, **settings)
    try:
        used(foreign)
    except ValueError as error:
        assert str(foreign) in str(error) or "doesn't know the kind" in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["[" * 100_000, "{" + 10**6 * " ", "[1]", "\0", '{"a": ' * 5_000])
def test_settings_that_are_none_are_one_sentence(foreign: Path, text: str) -> None:
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        before = (foreign / name).read_text()
        (foreign / name).write_text(text)
        with pytest.raises(ValueError, match="is not valid JSON|holds no settings"):
            used(foreign)
        (foreign / name).write_text(before)


def test_no_code_of_a_shap_e_folder_is_run(tmp_path: Path, evil: Path) -> None:
    whole = save_tiny_shap_e(tmp_path / "shap_e")
    for part, name in {"prior": "diffusion_pytorch_model", "text_encoder": "pytorch_model"}.items():
        folder = shutil.copytree(whole, tmp_path / part)
        (weights,) = (folder / part).glob("*.safetensors")
        weights.unlink()
        torch.save({"weight": Payload(evil)}, folder / part / f"{name}.bin")
        for settings in ({}, {part: ["evil", "Evil"]}):
            rewritten(folder / "model_index.json", **settings)
            with pytest.raises(ValueError, match="can't be loaded as Shap-E"):
                ShapE("a red cube", str(folder), steps=1).points(3, torch.Generator())


def test_addresses_are_refused(refused: Callable, recipe: Path, tmp_path: Path, finished: Path) -> None:
    fit, address = ["fit", "--config", recipe], "http://127.0.0.1:1/x"
    for arguments in (
        ["fit", "--config", f"{address}.yaml"], ["fit", address], [*fit, f"--ckpt_path={address}.ckpt"],
        [*fit, "--data.asset", f"{address}.ply"], [*fit, f"--model.generator.init={address}.ckpt"],
        [*fit, f"--run.root={address}"], ["view", f"{address}.ply"], ["view", "s3://b/x.ckpt"],
        ["export", f"{address}.ckpt", "--format=ply"], ["export", finished, "--format=ply", "--out", address],
        ["sweep", f"{address}.txt", "--config", recipe], ["sweep", recipe, *fit[1:], f"--run.root={address}"],
        ["fit", "--config", "image2d", "--model.generator=Pixels", f"--model.generator.init={address}.png"],
    ):  # fmt: skip
        assert "is an address, and asdkit opens only files of this machine" in refused(*arguments), arguments
    with pytest.raises(ValueError, match="is an address"):
        Distillation.load_from_checkpoint(f"{address}.ckpt")
    assert not (tmp_path / "runs").exists()


PARTS = ("prior", "generator", "guidance", "timesteps", "discriminator", "rendering", "cfg")
OPENS: dict[str, Callable[[str], dict]] = {  # what a recipe says, given an address
    **{name: lambda address, name=name: {"model": {"init_args": {name: address}}} for name in PARTS},
    **{name: lambda address, name=name: {name: address} for name in ("model", "data", "trainer", "run", "config")},
    "a ramp": lambda address: {"model": {"init_args": {"guidance": {"init_args": {"scale": address}}}}},
    "callbacks": lambda address: {"trainer": {"callbacks": address}},
    "a logger": lambda address: {"trainer": {"logger": {"class_path": LOGGER, "init_args": {"save_dir": address}}}},
    "a folder": lambda address: {
        "trainer": {"callbacks": [{"class_path": CHECKPOINT, "init_args": {"dirpath": address}}]}
    },
}


@pytest.mark.parametrize("where", OPENS)
def test_nothing_in_a_recipe_opens_an_address(overlaid, refused, recipe, tmp_path, where: str, monkeypatch) -> None:
    """Nor in an overlay or an option; jsonargparse and fsspec ask nobody."""
    asked = []
    monkeypatch.setattr("socket.socket.connect", lambda *call: asked.append(call))
    (tmp_path / "part.yaml").write_text("class_path: asdkit.Pixels\n")
    address = "http://127.0.0.1:1/x.yaml"
    others = ["simplecache::http://127.0.0.1:1/x", "memory://x", (tmp_path / "part.yaml").as_uri()]
    others = others[:2] if where in ("a logger", "a folder") else others  # a file may be opened there
    for place in (address, others[list(OPENS).index(where) % len(others)]):
        sentence = overlaid(OPENS[where](place))
        assert "and asdkit opens only files of this machine" in sentence, sentence
    if where in PARTS:
        assert "is an address" in refused("fit", "--config", recipe, f"--model.{where}={address}")
    assert not asked


def test_a_part_is_read_from_no_pipe(refused: Callable, recipe: Path, tmp_path: Path) -> None:
    """Nor from a link to one; it would be waited for without end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "pipe")
    for option in ("--model.generator", "--data", "--trainer.callbacks", "--model.guidance.scale"):
        sentence = refused("fit", "--config", recipe, f"{option}={tmp_path / 'link.yaml'}")
        assert "link.yaml is a pipe or a device" in sentence


def test_paths_are_no_addresses() -> None:
    for path in ("a/b", "/a/b", "C:/a", "a:b/c", "runs/gs3d/a-duck@20260101-101500", "a/~/x", "3:/x"):
        assert local(path) == Path(path)
    assert local("~/x") == local(Path("~/x")) == Path.home() / "x"
    for address in ("https://h/x", "file:///etc/x", "GS://b/x", "a+b-c.d://x", Path("http://h/x"), "a::http://h/x"):
        with pytest.raises(ValueError, match="is an address"):
            local(address)


PROMPT = (
    "../../../x /etc/passwd\n## head\r$(touch x) `touch x` <script>alert(1)</script>\x1b]0;title\x07\x1b[2J\u202e\0 "
    "![i](http://evil) {{scene}} {a: !!python/name:os.system b}: [" + 10_000 * "z"
)


def test_a_prompt_is_text_everywhere(capfd: pytest.CaptureFixture, recipe: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "prompt.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"prompt": PROMPT}}}))
    before = set(tmp_path.iterdir())
    options = ["--trainer.max_steps=2", "--run.recipe=../../Up", "--snapshots.every=0"]
    assert main(["fit", "--config", str(recipe), "--config", str(work / "prompt.yaml"), *options]) == 0
    (run,) = (tmp_path / "runs" / "up").iterdir()
    assert re.fullmatch(r"x-etc-passwd-head-touch-x-touch-x-script-alert-1?@\d{8}-\d{6}", run.name), run.name
    assert set(tmp_path.iterdir()) - before == {tmp_path / "runs"} and not list(tmp_path.rglob("x"))
    assert json.loads((run / "run.json").read_text())["prompt"] == PROMPT
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["prompt"] == PROMPT
    page = (run / "viewer.html").read_text()
    assert page.count("<script") == 2 and "&lt;script&gt;alert(1)" in page and "Content-Security-Policy" in page
    report = (run / "report.html").read_text()
    assert "<h1>../../../x" in report and "<script" not in report and "&lt;script&gt;alert(1)" in report
    assert "script-src" not in report and "default-src 'none'" in report
    assert main(["validate", str(run)]) == 0
    printed = "".join(capfd.readouterr())
    assert "../../../x /etc/passwd ## head" in printed
    assert not set(printed) & {"\x1b", "\x07", "\0", "\u202e"}


def test_what_is_printed_cannot_steer_a_terminal(refused: Callable, recipe: Path) -> None:
    assert shown("a\x1b[2J\tb\r\nc\x9b\u202ed\0  é鴨") == "a [2J b c d é鴨"
    for arguments in (["x\x1b[2J"], ["fit", "--config=\x1b[2J"], ["fit", "--config", recipe, "--\x1b[2J=3"]):
        assert "\x1b" not in refused(*arguments)
    assert "\x1b" not in refused("fit", "--config", recipe, "--ckpt_path=\x1b[2J")
    assert "\x1b" not in refused("view", "\x1b[2J.ply")
