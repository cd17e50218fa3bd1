"""The command line: short forms, answers without torch, and one clear sentence for everything that is wrong."""

import io
import itertools
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from jsonargparse._loaders_dumpers import get_yaml_default_loader

from asdkit.commands import arguments
from asdkit.commands.arguments import expand
from asdkit.commands.main import main
from asdkit.formats.names import FORMATS, Choices
from asdkit.run.recipes import find_recipe, recipes


def resolved(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The recipe that fit would carry out."""
    code = main([*map(str, ["fit", *arguments]), "--print_config"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["edit3d", "--asset", ""], "init is empty; say what to start from"),
        (["edit3d"], "init is empty; say what to start from"),
        (["gs3d", "--config", "gs3d/from_nerf"], "init is empty; say what to start from"),
        (["gs3d", "--model.guidance=ASDEdit"], "--asset RUN|FILE"),
    ],
)
def test_a_second_stage_needs_its_first(tmp_path: Path, refused: Callable, options: list[str], said: str) -> None:
    words = ["--model.source", "a yellow duck", "--model.target", "a red duck"]
    assert said in refused("fit", "--config", *options, *words, "--run.root", tmp_path / "runs")
    assert (tmp_path / "runs").exists() == ("--asset" in said)  # which only the method's setup sees


def test_the_options_of_export_are_all_formats_and_choices() -> None:
    export = yaml.safe_load(Path(arguments.__file__).with_name("options.yaml").read_text())["export"]["options"]
    assert export["--format"]["help"] == f"with commas between: {', '.join(FORMATS)}"
    choices = [f"--{field.name.replace('_', '-')}" for field in fields(Choices)]
    assert [*export] == ["what", "--format", "--out", "--force", *choices, "--trust"]


def test_recipes_are_found_by_name_and_by_path_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"gs3d", "toybox/vae", "toybox/unet", "toybox/clip"} <= set(recipes())
    assert find_recipe("gs3d") == find_recipe("recipes/gs3d.yaml") == find_recipe("./recipes/gs3d.yaml")
    assert find_recipe("toybox/vae").is_file()


def test_short_forms_are_expanded_and_all_else_is_left(tmp_path: Path) -> None:
    """An asset is what is compared with and started from."""
    duck = tmp_path / "duck.ply"
    duck.touch()
    for config in (["--config", "gs3d"], ["--config=gs3d"], ["-c", "gs3d"], ["-c=gs3d"]):
        options = [*config, "--asset", str(duck), "--model.guidance", "my_module.Mine", "--trainer.max_steps=3"]
        asset = ["--data.asset", str(duck), "--model.generator.init", str(duck)]
        expected = ["--config", str(find_recipe("gs3d")), *asset, *options[-3:]]
        assert expand("fit", options) == (expected, None)


def test_the_main_recipe_is_the_papers(capsys: pytest.CaptureFixture) -> None:
    model = yaml.safe_load(resolved(capsys, "--config", "gs3d"))["model"]["init_args"]
    assert model["guidance"]["class_path"] == "asdkit.ASD"
    scale = model["guidance"]["init_args"]["scale"]["init_args"]  # the paper's, until the object stands
    assert (scale["start"], scale["begin"], model["guidance"]["init_args"]["gamma"]) == (7.5, 100, -0.5)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("SDS", ["--model.guidance=SDS"], {"scale": 100.0, "rank": None}),
        ("VSD", ["--model.guidance", "VSD", "--model.guidance.scale=3"], {"scale": 3.0, "rank": 16}),
        (
            "ASD",
            ["--model.guidance.negative=ugly", "--model.guidance.eta=0.1", "--model.guidance", "ASD"],
            {"negative": None, "eta": 0.5, "rank": 16},
        ),
    ],
)
def test_another_guidance_has_its_own_defaults(capsys, method: str, options: list[str], expected: dict) -> None:
    """Whatever the recipe says; but phi stays where the recipe has it, whose adapter is tuned to its prior."""
    guidance = yaml.safe_load(resolved(capsys, "--config", "gs3d", *options))["model"]["init_args"]["guidance"]
    assert guidance["class_path"] == f"asdkit.{method}"
    arguments = guidance["init_args"]
    arguments["rank"] = arguments["adapter"]["init_args"]["rank"] if "adapter" in arguments else None
    assert arguments == arguments | expected


@pytest.mark.parametrize(
    ("path", "environment", "threads"),
    [("toybox", {}, 1), ("toybox", {"OMP_NUM_THREADS": "3"}, 3), ("toybox", {"MKL_NUM_THREADS": "3"}, 3), ("x", {}, 3)],
)
def test_the_embedded_prior_takes_one_thread(path: str, environment: dict, threads: int, monkeypatch) -> None:
    """Unless the environment says otherwise; other priors take what torch takes. The run itself fails before it."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    torch.set_num_threads(3)
    try:
        main(["fit", "--config", "gs3d", f"--model.prior.path={path}", "--model.generator.init=none"])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


WORDS = [
    "a sign: stop", "null", "~", "[a duck]", "0x1F", "1e3", ".inf", "'quoted', \"twice\"", "-x", "- x", "# x", "&x",
    "? x", "*x", "!!x", "|", "%x", "@x", "{a", "2026-01-01", "true", " a ", "a\n\nb", "\x1b\x85", "鴨🦆",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", [WORDS[start : start + 5] for start in range(0, len(WORDS), 5)], ids=repr)
def test_prompts_are_texts_whatever_yaml_thinks(capsys, tmp_path: Path, words: list[str]) -> None:
    """On the command line, in a recipe, and in the recipe of a run, which is read again."""
    prompt, source, negative, front, side = words
    (tmp_path / "x.png").touch()
    options = ["--config", "edit2d", f"--data.image={tmp_path}/x.png", "--model.prompt", prompt]
    options += [f"--model.source={source}"]
    options += ["--model.guidance", "SDS", "--model.guidance.negative", negative]
    options += ["--model.view_prompts.front", front, f"--model.view_prompts.side={side}"]
    for _ in range(2):
        text = resolved(capsys, *options)
        model = yaml.load(text, Loader=get_yaml_default_loader())["model"]["init_args"]
        assert [model["prompt"], model["source"], model["guidance"]["init_args"]["negative"]] == words[:3]
        assert model["view_prompts"] == {"front": front, "side": side}
        (tmp_path / "config.yaml").write_text(text)
        options = ["--config", tmp_path / "config.yaml"]


@pytest.mark.parametrize("words", [("- x", "1e3"), ("# x", "{a: b}")])
def test_words_of_other_parts_are_texts_too(capsys: pytest.CaptureFixture, words: tuple[str, str]) -> None:
    options = ["--config", "gs3d", "--model.guidance=Bridge", f"--model.guidance.source={words[0]}"]
    options += ["--model.generator.start=ShapE", "--model.generator.start.prompt", words[1]]
    text = resolved(capsys, *options, "--model.generator.start.path=x")
    model = yaml.safe_load(text)["model"]["init_args"]
    parts = model["guidance"], model["generator"]["init_args"]["start"]
    assert (parts[0]["init_args"]["source"], parts[1]["init_args"]["prompt"]) == words


RAMP = ["--model.guidance.scale=asdkit.Ramp", "--model.guidance.scale.end=2", "--model.guidance.scale.steps=3"]
BAD = {
    "unknown option of a group": (["--model.discriminator.lrr=1"], "did you mean --model.discriminator.lr?"),
    "unknown option of a part's group": (["--model.generator.initial.opacty=1"], "--model.generator.initial.opacity?"),
    "unknown argument of a number": (["--model.guidance.scale.x=1"], "no option --model.guidance.scale.x; "),
    "unknown group of a part": (["--model.generator.initail.opacity=1"], "mean --model.generator.initial?"),
    "unknown group of the data": (["--data.siz.start=3"], "no option --data.siz; did you mean --data.size?"),
    "no number": (["--model.guidance.scale=abc"], "scale: expected a number, or a class such as asdkit.Ramp; got"),
    "unknown guidance": (["--model.guidance=FOO"], "there is no class FOO"),
    "empty prompt": (["--model.prompt="], "prompt is empty"),
    "no steps": (["--trainer.max_steps=0"], "max_steps must be within [1, 1e8]"),
    "no rows": (["--trainer.log_every_n_steps=0"], "log_every_n_steps must be within [1, 1e8]; got 0."),
    "an integer beyond a computer's": ([f"--model.generator.initial.seed={10**20}"], f"got {10**20}."),
    "an integer beyond a float's": ([f"--model.seed={10**400}"], "Distillation's seed must be within ["),
    "too many nodes": ([f"--trainer.num_nodes={10**20}"], "must be within [1, 10000]"),
    "NaN in YAML's words": (["--model.guidance.eta=.nan"], "ASD's eta must be within [0, 1]; got nan."),
    "a ramp from NaN": ([*RAMP, "--model.guidance.scale.start=.nan"], "start must be a finite number; got nan."),
    "a ramp beyond": ([*RAMP, "--model.guidance.scale.start=-1"], "ASD's scale must be within [0, 1e6]; got -1.0."),
    "a trainer's NaN": (["--trainer.gradient_clip_val=.nan"], "gradient_clip_val must be within [-1, 1e8]; got nan."),
    "no epochs": (["--trainer.max_epochs=0"], "max_epochs must be within [1, 1e8]; got 0."),
    "no batches": (["--trainer.limit_train_batches=0"], "limit_train_batches must be within (0, 1e8]; got 0."),
    "no interval": (["--trainer.val_check_interval=0"], "val_check_interval must be within (0, 1e8]; got 0."),
    "a device by another name": (["--trainer.devices=abc"], "The trainer's options can't be carried out: `devices`"),
    "an endless number of devices": ([f"--trainer.devices={10**20}"], "The trainer's options can't be carried out"),
    "no checkpoints": (["--checkpoints.every=0"], "Checkpoints's every must be at least 1"),
    "gamma without a minimum": (["--model.guidance.gamma=-1"], "gamma must be above -1"),
    "no value": (["--asset"], "--asset needs a value."),
    "another root folder": (["--trainer.default_root_dir=x"], "--run.root names the folder of all runs"),
    "no UTF-8": (["--run.root=x\udcff"], "'--run.root=x\\udcff' is no text in UTF-8"),
    "no devices": (["--trainer.devices=0"], "devices"),
    "unwritable root": (["--run.root=/dev/null/runs"], "can't be opened or made: Not a directory; name another"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_leaves_nothing(refused: Callable, recipe: Path, tmp_path: Path, monkeypatch, case: str) -> None:
    """And is said before a prior is loaded, which takes its time."""
    monkeypatch.setattr("asdkit.Pretrained.setup", lambda self: pytest.fail("the prior is loaded"))
    arguments, expected = BAD[case]
    assert expected in refused("fit", "--config", recipe, *arguments)
    assert not [path for path in tmp_path.joinpath("runs").rglob("*") if path.is_file()]


NINE = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefgh")]
BOMB = "".join(["a: &a [x, x]\n", *NINE])
FILES = {  # recipes that are none, and what is said of them
    "empty": (b"", "is no recipe, for it holds no keys"),
    "a list": (b"- a\n- b\n", "is no recipe, for it holds no keys"),
    "words": (b"a duck", "is no recipe, for it holds no keys"),
    "tabs": (b"model:\n\t- b", "line 2 has found character '\\t'"),
    "torn": (b"model:\n  {init_args: {gener", "line 2 has expected ',' or '}'"),
    "NUL": (b"model:\n  \0", "line 2 has the character #x0000"),
    "no UTF-8": (b"\xff\xfe", "is no text in UTF-8"),
    "lists without end": (b"a: " + 3000 * b"[" + 3000 * b"]", "line 1 has brackets or lists nested more than 100"),
    "maps without end": (b"a: " + 3000 * b"{a: " + 3000 * b"}", "line 1 has brackets or lists nested more than 100"),
    "lines without end": (b"".join(b" " * i + b"a:\n" for i in range(3000)), "nested more than 100"),
    "aliases without end": (BOMB.encode(), "line 6 has more than 100000 values"),
    "an alias of itself": (b"a: &a\n  b: [*a]\n", "line 2 has an alias within what it names"),
    "too large": (b"a: " + 10**6 * b"x", "is larger than 1 MB"),  # ten where no test is
}


@pytest.mark.parametrize("case", FILES)
def test_a_recipe_that_is_none_is_named_with_its_line(refused, recipe, tmp_path: Path, case: str, monkeypatch) -> None:
    """Also where it is a part's; in less time than a recipe takes."""
    content, words = FILES[case]
    if case == "too large":
        monkeypatch.setattr("asdkit.core.yaml_text.MAX_BYTES", 10**6)
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    for options in (["--config", path], ["--config", recipe, "--config", path]):
        sentence = refused("fit", *options)
        assert words in sentence and path.name in sentence
    refused("fit", "--config", recipe, "--model.generator", path)
    assert not (tmp_path / "runs").exists()


def test_a_logger_whose_package_is_missing_is_the_environments(refused: Callable, recipe: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_lightning.loggers.wandb", None)
    logger = "--trainer.logger=pytorch_lightning.loggers.CometLogger"
    assert "comet" in refused("fit", "--config", recipe, logger, code=3)


def test_letters_that_the_output_does_not_know_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setattr("asdkit.commands.recipes.run", lambda options: print("une é\n鴨") or 0)
    assert main(["recipes"]) == 0 and output.buffer.getvalue() == b"une \\xe9\n\\u9d28\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "place", "code"),
    [
        ("recipes", "| true", 141),
        ("recipes", "> /dev/full", 7),
        ("recipes", ">&-", 0),
        ("--help", "| true", 141),
        ("--help", "> /dev/full", 7),
        ("doctor", "| true", 141),
    ],
)
def test_output_that_nobody_takes_is_no_traceback(command: str, place: str, code: int) -> None:
    """In the shell's words; what fails for another reason keeps its exit code."""
    line = f"set -o pipefail; {sys.executable} -m asdkit {command} {place}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=200)
    assert done.returncode == code, done.stderr
    assert done.stderr == (
        "asdkit: Can't write the output: No space left on device; make room or mend its rights.\n" if code == 7 else ""
    )


def test_a_recipe_that_nobody_takes_is_one_sentence(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: what jsonargparse prints, and ends with SystemExit(0) after."""
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["fit", "--config", "gs3d", "--print_config"]) == 7
    assert "Can't write the output: No space left on device" in capsys.readouterr().err


def test_a_broken_file_to_start_from_is_named(refused: Callable, recipe: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("t.ply", "t.spz", "t.splat", "t.ckpt", "t.glb", "t.obj", "t.txt")
    for name, option in zip(names, itertools.cycle(["--asset", "--model.generator.init"]), strict=False):
        (tmp_path / name).write_text("Dear diary,\n")
        assert name in refused("fit", "--config", recipe, option, name)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("cut", ["unet/diffusion_pytorch_model.safetensors", "model_index.json", "vae/config.json", ""])
def test_a_torn_prior_fails_in_one_sentence(refused, recipe: Path, tiny_folder, tmp_path: Path, cut: str) -> None:
    folder = tmp_path / "torn"
    if cut:
        shutil.copytree(tiny_folder, folder)
        (folder / cut).write_bytes((folder / cut).read_bytes()[:40])
    assert str(folder) in refused("fit", "--config", recipe, "--prior", folder, code=4)
    assert not list(recipe.parent.joinpath("runs").glob("*/*"))


def test_a_folder_that_is_no_run_is_refused(refused: Callable, tmp_path: Path) -> None:
    assert "is no run folder" in refused("test", tmp_path)
    (tmp_path / "config.yaml").touch()
    assert "no checkpoints/last.ckpt" in refused("test", tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no glibc")
@pytest.mark.parametrize("largest", [2**25, 2**31 - 1])
def test_every_glibc_gets_the_largest_threshold_that_it_takes(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones take no more than 32 MiB, and would stay at 128 KiB; a library without mallopt is left alone."""
    taken: dict[int, int] = {}

    def mallopt(option: int, value: int) -> int:
        fits = option != arguments._MMAP_THRESHOLD or value <= largest
        taken.update({option: value} if fits else {})
        return int(fits)

    for library in (SimpleNamespace(mallopt=mallopt), SimpleNamespace()):
        monkeypatch.setattr(arguments, "CDLL", lambda name, library=library: library)
        arguments.prepare_libraries()
    assert taken == {arguments._TRIM_THRESHOLD: 2**28, arguments._MMAP_THRESHOLD: min(largest, 2**28)}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such threshold")
@pytest.mark.parametrize(("before", "kept"), [("", False), ("prepare_libraries()", True)])
def test_the_memory_of_a_large_tensor_is_kept_for_the_next(before: str, kept: bool) -> None:
    """Resident are 24 MiB more than before them, or not; every version of glibc keeps as many."""
    code = f"""
from pathlib import Path
from asdkit.commands.arguments import prepare_libraries
def resident():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)
{before}
start = resident()
block = b"x" * (24 << 20)
del block
print(resident() - start)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (int(said.stdout) > 20 << 10) == kept
