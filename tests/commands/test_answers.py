"""Help and errors that need no torch: said in a sentence, from a table that is that of the signatures."""

import json
import re
import subprocess
import sys

import pytest
from support.signatures import FILE, methods, written

import asdkit
from asdkit.commands.answers import SHORT, CheckedOptions, check_options
from asdkit.commands.arguments import _SHORT_FORMS, expand
from asdkit.commands.main import main
from asdkit.formats.names import FORMATS
from asdkit.run.recipes import base_of, find_recipe, recipes

GS3D = ["--config", str(find_recipe("gs3d"))]
WRONG = {
    "fitt": "did you mean 'fit'?",
    "gs3d": "no command 'gs3d'; did you mean asdkit fit 'gs3d'?",
    "fit": 'fit needs a prompt, asdkit fit "a yellow duck", or a recipe: asdkit fit --config NAME, with',
    "test": "test needs a run, asdkit test RUN, or a recipe",
    "make": "asdkit: There is no command 'make'; did you mean asdkit fit \"a yellow duck\"?",
    "list": "did you mean asdkit recipes?",
    "fit ''": "A prompt is empty",
    "fit gs3d ' '": "A prompt is empty",
    "fit --config gs3dd": "no recipe 'gs3dd'; did you mean 'gs3d'?",
    "fit --confg gs3d": "no option --confg; did you mean --config?",
    "fit gs3dd": "did you mean 'gs3d'?",
    "fit duck": "for a prompt of one word say --prompt duck.",
    "fit runs/gs3d/nope": "runs/gs3d/nope is no run folder",
    "fit runs/gs3d/nope duck": "'duck' stands after it; leave one out.",
    "fit image2d/sds": "laid over another: --config image2d --config image2d/sds.",
    "fit --config image2d/sds --config image2d": "laid over another: --config image2d --config image2d/sds.",
    "fit priors/full_size/nerf3d": "--config nerf3d --config priors/full_size/nerf3d.",
    "fit --config overlay.yaml --config gs3d": "overlay.yaml has options of the model but no class_path: name a whole",
    "fit gs3d --config odd.yaml": "no option --model.guidance.gama (in odd.yaml); did you mean --model.guidance.gamma?",
    "fit nope.yaml": "no recipe 'nope.yaml'",
    "fit gs3d gs3d 'a duck'": "One recipe is expected, before the prompt",
    "fit 'a duck' 'a frog'": "One prompt is expected, and 'a duck' and 'a frog' are two",
    "fit gs3d --sed 3": "no option --sed; did you mean --seed?",
    "fit gs3d 'a duck' --stpes 3": "no option --stpes; did you mean --steps?",
    "fit gs3dd 'a duck'": "no recipe 'gs3dd'; did you mean 'gs3d'?",
    "fit image2d/sdss 'a duck'": "no recipe 'image2d/sdss'; did you mean 'image2d/sds'?",
    "fit gs3d 'a duck' --prompt 'a frog'": "'a duck' and --prompt both say what to make",
    "fit run --config whole.yaml": "run has a recipe of its own, and --config whole.yaml would change what it makes",
    "fit run --config overlay.yaml": "run has no checkpoints/last.ckpt",
    "fit run/gs3d": "run/gs3d is no run folder",
    "test gs3dd": "gs3dd is no run folder",
    "fit run --config gs3d": "run has a recipe of its own, and --config gs3d would change what it makes",
    "fit --seed 3 gs3d 'a duck' --gama=1": "no option --gama; did you mean --model.guidance.gamma?",
    "fit --config gs3d 'a duck' --gama=1": "no option --gama; did you mean --model.guidance.gamma?",
    "fit gs3d 'a duck' --judge ./nope": "no ./nope; name the folder of a CLIP",
    "fit gs3d 'a duck' --model.prior.finetune nope.safetensors": "no nope.safetensors; name a folder, a .safetensors",
    "fit gs3d - --gama=1": "no option --gama; did you mean --model.guidance.gamma?",
    "fit refine3d 'a duck' --model.generator.init nope.ply": "no nope.ply; name a run folder",
    "fit gs3d 'a duck' --data.orbit.cameras=nope.json": "no nope.json; name a file with a camera's path",
    "fit gs3d --gamma=1": "no option --gamma; did you mean --model.guidance.gamma?",
    "fit gs3d --iterations 3": "no option --iterations; did you mean --steps?",
    "fit gs3d --guidance_scale=3": "did you mean --model.guidance.scale?",
    "fit gs3d --out here": "did you mean --run.root?",
    "fit gs3d --gpu": "did you mean --trainer.accelerator?",
    "fit gs3d --model sd15": "--prior sd15 names a diffusion model.",
    "fit gs3d --max_steps=3": "no option --max_steps; did you mean --trainer.max_steps?",
    "fit gs3d --trainer.max_step=3": "did you mean --trainer.max_steps?",
    "fit gs3d --model.generator.rates.mens=1": "did you mean --model.generator.rates.means?",
    "fit gs3d --model.timesteps.t_max.strat=1": "did you mean --model.timesteps.t_max.start?",
    "fit gs3d --method SDS --model.guidance.gamma=1": "no option --model.guidance.gamma; SDS has scale, negative.",
    "fit gs3d --method SJC --negative ugly": "no option --model.guidance.negative; SJC has scale, reduce_variance.",
    "fit gs3d --method SDSS": "no class SDSS; did you mean SDS?",
    "fit gs3d --method sds": "no class sds; did you mean SDS?",
    "fit gs3d --method=": "--model.guidance.help lists what can stand there.",
    "fit gs3d --model.generator=NeRF --model.generator.count=3": "no option --model.generator.count",
    "fit gs3d --model.generator.density=asdkit.MCMCC": "no class MCMCC; did you mean MCMC?",
    "fit gs3d --model.guidance=Cameras": "Cameras can't stand there; --model.guidance.help lists what can.",
    "fit gs3d --model.guidance.help=ASDD": "no class ASDD; did you mean 'ASD'?",
    "fit gs3d --asset nope.ply": "no nope.ply; name a run folder",
    "fit edit2d --data.image=nope.png": "no nope.png; name a picture.",
    "fit gs3d --ckpt_path nope.ckpt": "no nope.ckpt; name a file of a run's folder checkpoints.",
    "view nope.ply": "no nope.ply; name a run folder",
    "export nope.ply --format=ply": "no nope.ply; name a run folder",
    "sweep nope.txt --config gs3d": "nope.txt can't be opened",
    "fit gs3d --prior sd21-bas": "an alias such as sd15, or an id of the hub; did you mean 'sd21-base'?",
    "recipes gs3dd": "no recipe 'gs3dd'; did you mean 'gs3d'?",
    "methods sds": "no method sds; did you mean 'SDS'?",
    "methods ASDD": "no method ASDD; did you mean 'ASD'?",
    "sweep prompts.txt --config gs3d --model.promt=x": "did you mean --model.prompt?",
    "compare --methods ASD,SDD --prompts prompts.txt --config gs3d": "no class SDD; did you mean VSD?",
    "bench --config gs3d --model.promt=x": "did you mean --model.prompt?",
    "doctor --jsn": "unrecognized arguments: --jsn; asdkit doctor --help tells more.",
    "view": "view: ",
    "export x --fromat=ply": "export: ",
}
SAID = {
    "--help": "asdkit methods [NAME]",
    "--version": f"asdkit {asdkit.__version__}",
    "version": f"asdkit {asdkit.__version__}",
    "help export": ", ".join([*FORMATS][:3]),
    "recipes": "over image2d: SDS in 2D",
    "recipes gs3d": "class_path: asdkit.Gaussians",
    "methods": "SDS              2 samples  Score distillation sampling (DreamFusion, 2209.14988): e_lambda - eps.",
    "methods ASD": "Cost of a step: 3 samples a view through the network, in 2 calls, and backward",
    "fit --help": 'asdkit fit "a yellow duck"',
    "test -h": 'asdkit fit "a yellow duck"',
    "fit --help Gaussians": "capacity  a whole number within [1, 1e7] (default 4000)",
    "fit gs3d --model.help=Distillation": "--model.rendering  options of its own: --help Rendering",
    "fit gs3d --model.guidance.help=asdkit.ASD": "--model.guidance.eta  a number within [0, 1], or Ramp (default 0.5)",
    "fit gs3d --model.generator.density.help": "MCMC: 3D Gaussian splatting as Markov chain Monte Carlo",
    "fit gs3d --model.rendering.help": "--model.rendering.chunk",
    "view --help": "--port",
    "export --help": ", ".join([*FORMATS][:3]),
    "bench --help": "[--prior random:sd21]",
    "doctor --help": "--json",
}
SCRIPT = """
import contextlib, io, json, shlex, sys
from asdkit.commands.main import main
for line in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(shlex.split(line))
    heavy = [name for name in ("torch", "viser", "pytorch_lightning", "numpy") if name in sys.modules]
    print(json.dumps([code, out.getvalue(), err.getvalue(), heavy]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str, list[str]]]:
    """What one process, without torch, says to every line."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "overlay.yaml").write_text("model: {init_args: {seed: 3}}\n")
    (folder / "odd.yaml").write_text("model: {init_args: {guidance: {init_args: {gama: -0.25}}}}\n")
    (folder / "prompts.txt").write_text("a yellow duck\n")
    (folder / "whole.yaml").write_text("model: {class_path: asdkit.Distillation}\n")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text("model: {class_path: asdkit.Distillation}\n")
    lines = [*WRONG, *SAID]
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True, timeout=200, cwd=folder)
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_said_in_a_sentence_without_torch(answers: dict, line: str) -> None:
    code, out, err, heavy = answers[line]
    assert (code, out, heavy) == (
        4 if any(word in line for word in ("--prior", "finetune", "--judge")) else 2,
        "",
        [],
    ), err
    assert WRONG[line] in err and len(err.splitlines()) == 1 and err.startswith("asdkit: ")


@pytest.mark.parametrize("line", SAID)
def test_help_is_said_without_torch(answers: dict, line: str) -> None:
    code, out, err, heavy = answers[line]
    assert (code, err, heavy) == (0, "", []) and SAID[line] in out, out


def test_short_forms_are_suggested_by_their_names() -> None:
    assert {f"--{name}" for name in SHORT} == {form for form in _SHORT_FORMS if "." not in form}


def test_the_table_is_that_of_the_signatures() -> None:
    assert FILE.read_text() == written(), "options have changed: run `make signatures`, which writes their table"
    for name, part in json.loads(FILE.read_text()).items():
        if name not in ("fit", "Trainer"):  # whose options Lightning and jsonargparse explain
            unexplained = [option for option, facts in part["options"].items() if not facts["about"]]
            assert not unexplained, f"options of {name} without a help"


def test_every_method_is_listed(capsys: pytest.CaptureFixture) -> None:
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed[: len(methods())]] == methods() and len(methods()) == 21


def test_recipes_are_listed_with_a_line_each_and_overlays_are_marked(capsys: pytest.CaptureFixture) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[2:].split()[0]: line for line in lines if line[:2] in ("  ", "+ ")}
    assert sorted(rows) == recipes()
    assert all(len(row) <= 150 and not row.endswith((".", ":", ",")) for row in rows.values())
    for name in recipes():
        whole = "class_path: asdkit.Distillation" in find_recipe(name).read_text() or name.startswith("toybox/")
        assert rows[name].startswith("  " if whole else f"+ {name}") and bool(base_of(name)) != whole


@pytest.mark.parametrize("name", recipes())
def test_nothing_is_wrong_with_the_recipes(name: str) -> None:
    base = base_of(name)
    expand("fit", [*(["--config", base] if base else []), "--config", name])


def test_the_options_of_the_help_are_there() -> None:
    """Each of two dozen, short forms and others."""
    flags = re.findall(r"^  (--[\w.]+)", (FILE.parent / "fit.txt").read_text(), re.MULTILINE)
    values = {"--config": "gs3d", "--prior": "toybox", "--method": "ASD", "--asset": str(FILE), "--viewer": "8080"}
    expanded, _ = expand("fit", [f"{flag}={values.get(flag, 1)}" for flag in flags])
    options = CheckedOptions(expanded)
    assert 20 <= len(flags) <= 26
    assert all(options.entry(flag[2:]) for flag in flags if "." in flag)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["gs3d"], GS3D),
        ([GS3D[1], "--model.seed=3"], [*GS3D, "--model.seed=3"]),
        (["--config", "gs3d", "--seed", "3", "--steps=4"], [*GS3D, "--model.seed=3", "--trainer.max_steps=4"]),
        (["gs3d", "--method=SDS"], [*GS3D, "--model.guidance=SDS"]),
    ],
)
def test_short_words_are_understood(words: list[str], options: list[str]) -> None:
    assert expand("fit", words) == (options, None)


@pytest.mark.parametrize(
    ("words", "recipe", "prompt"),
    [
        (["a yellow duck"], "gs3d", "a yellow duck"),
        (["a", "yellow", "duck"], "gs3d", "a yellow duck"),
        (["a duck and/or a car"], "gs3d", "a duck and/or a car"),
        (["nerf3d", "duck"], "nerf3d", "duck"),
        (["NeRF3D", "duck"], "nerf3d", "duck"),
        (["nerf3d", "a", "duck"], "nerf3d", "a duck"),
        (["a duck", "--config", "image2d"], "image2d", "a duck"),
        (["--config", "image2d", "a duck"], "image2d", "a duck"),
        (["-c", "image2d", "duck"], "image2d", "duck"),
        (["--model.guidance.gamma", "-0.5", "nerf3d", "--seed=3", "a duck"], "nerf3d", "a duck"),
        (["gs3d", "--print_config", "a duck", "--viewer", "8080"], "gs3d", "a duck"),
        (["--viewer", "nerf3d", "-"], "nerf3d", "-"),
        (["--config=gs3d", "--prompt", "# 1e3"], "gs3d", "# 1e3"),
        (["--prompt", "1e3"], "gs3d", "1e3"),
        (["--prompt", "duck", "--config", "nerf3d"], "nerf3d", "duck"),
        (["-10 degrees = cold!", "--steps=3"], "gs3d", "-10 degrees = cold!"),
        (["nerf3d", "- A Duck?"], "nerf3d", "- A Duck?"),
        (["& #1 duck"], "gs3d", "& #1 duck"),
    ],
)
def test_bare_prompts_are_understood(words: list[str], recipe: str, prompt: str) -> None:
    expanded, run = expand("fit", words)
    assert expanded[:2] == ["--config", str(find_recipe(recipe))] and run is None
    assert CheckedOptions(expanded).texts["model.prompt"] == prompt
    negative, _ = expand("fit", [*words, "--negative", "1e3"])
    assert CheckedOptions(negative).texts["model.guidance.negative"] == "1e3"


@pytest.mark.parametrize(
    "options",
    [
        ["--model.guidance=my_module.Mine", "--model.guidance.anything=3"],
        ["--model.guidance", "mine.yaml", "--model.guidance.anything=3"],
        ["--model.guidance.gamma=Alpha2", "--model.guidance.gamma.gamma=-0.5", "--model.guidance=SDS"],
        ["--model.generator=NeRF", "--model.generator.encoding=Voxels", "--model.generator.encoding.features=2"],
        ["--model.generator={class_path: asdkit.NeRF, init_args: {hidden: 0}}", "--model.generator.bound=2"],
        ["--trainer.callbacks+=asdkit.CLIPJudge", "--trainer.callbacks.models=[x]", "--print_config"],
        ["--model.cfg.apg=APG", "--model.cfg.apg.eta=1", "--model.view_prompts.front=x"],
        ["--model.guidance=&a {class_path: Later, init_args: {field: *a}}"],  # aliases of themselves, which end
        ["--model.guidance={class_path: Later, init_args: &a {field: {init_args: *a}}}"],
    ],
)
def test_what_may_be_right_is_left_to_the_parser(options: list[str]) -> None:
    check_options([*GS3D, *options])


def test_fit_with_all_options_is_the_parsers(capsys: pytest.CaptureFixture) -> None:
    assert main(["fit", "--help", "all"]) == 0
    assert "--trainer.gradient_clip_val" in capsys.readouterr().out
