"""One walk through the documents: what README, docs and the recipes' headers name is there, and their commands run."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from support.recipe import small_run, write_recipe
from support.tiny import save_clip

import asdkit
from asdkit.commands.main import FILES, TRAINER_COMMANDS, main
from asdkit.run.grid import Cell, Grid
from asdkit.run.recipes import recipes

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}
HEADERS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "recipes").rglob("*.yaml"))}
PYTHON = [(page, code) for page, text in TEXTS.items() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
NOTEBOOKS = {
    path.relative_to(ROOT).as_posix(): [
        "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    for path in sorted((ROOT / "docs").glob("*.ipynb"))
}
PYTHON += [(page, "\n".join(code for code in cells if "%pip" not in code)) for page, cells in NOTEBOOKS.items()]
SPANS = {
    page: re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)) for page, text in TEXTS.items()
}


@pytest.mark.parametrize(("page", "code"), PYTHON)
@pytest.mark.slow
def test_python_blocks_run(page: str, code: str, kl_folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"data.size": 16, "data.orbit.views": 2, "trainer.callbacks": "[]", "trainer.accelerator": "cpu"}
    small |= {"report.size": 16, "snapshots.every": 0}
    small |= {"model.generator.samples": 8} if "nerf3d" in code else {"model.generator.count": 50}
    code = code.replace("range(200)", "range(2)").replace("steps=600", f"steps=1, options={small}")
    code = code.replace("steps=STEPS, options={", f"steps=1, options={str(small)[:-1]}, ")
    code = code.replace('"sd21-base"', repr(str(kl_folder)))
    exec(compile(code, page, "exec"), {})


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_pictures_exist(page: str) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", TEXTS[page]):
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        if heading:
            assert heading in headings(file.read_text()), f"{page} links to {target}#{heading}"


def headings(text: str) -> set[str]:
    """The names of a page's headings in addresses."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_installing_needs_no_test_tools_and_names_what_is_there() -> None:
    """The user's commands take extras that there are, but not `dev`; the container copies files that exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dockerfile = (ROOT / "docs" / "Dockerfile").read_text()
    user = TEXTS["README.md"].partition("## Two commands")[2].partition("[Installing]")[0]
    texts = [user, TEXTS["docs/installing.md"], dockerfile, *(cells[0] for cells in NOTEBOOKS.values())]
    for text in texts:
        extras = {name for found in re.findall(r"install [^\n]*\[([\w,]+)\]", text) for name in found.split(",")}
        assert extras and extras <= {*project["optional-dependencies"]} - {"dev"}
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for word in line.split()]
    assert copied and all((ROOT / name).exists() for name in copied)
    of_the_index = re.compile(r"pip install[^\n]* \"?asdkit(\[|\"|\s|$)", re.MULTILINE)
    assert not of_the_index.search("".join([*texts, *TEXTS.values()]))


def test_a_container_s_files_are_the_user_s() -> None:
    """A folder that docker makes is root's; a user whom the image doesn't know needs a home to write in and a name."""
    dockerfile, said = (ROOT / "docs" / "Dockerfile").read_text(), TEXTS["docs/installing.md"]
    commands = re.findall(r"^(?:docker|mkdir) .+$", said, re.MULTILINE)
    assert len(commands) == 3 and all(f"#   {command}\n" in dockerfile for command in commands)
    runs = [line for line in dockerfile.splitlines() if "docker run" in line]
    assert runs and all('--user "$(id -u):$(id -g)" -v "$PWD/runs:/home/user/runs"' in line for line in runs)
    assert "chmod -R a+rwX /home/user" in dockerfile and "ENV HOME=/home/user USER=user" in dockerfile


def test_the_readmes_first_line_gets_a_copy_with_what_the_next_one_names(tmp_path: Path) -> None:
    """Where ADDRESS is that of the repository; what git doesn't know is in no copy."""
    first, second = re.findall(r"```bash\n(.*?)```", TEXTS["README.md"], re.DOTALL)[0].splitlines()
    assert first.startswith("git clone ADDRESS asdkit && cd asdkit")
    assert "install -c constraints.txt -e '.[all]'" in second
    if not (ROOT / ".git").exists():
        return  # nothing to copy
    clone = f"{first.replace('ADDRESS', f'{ROOT}', 1)} && pwd"
    there = subprocess.run(clone, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert there.returncode == 0, there.stderr
    copy = Path(there.stdout.strip())
    assert copy.name == "asdkit" and (copy / "constraints.txt").is_file()
    assert "all" in tomllib.loads((copy / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    code = "import asdkit, asdkit.commands.main as m; print(asdkit.__file__); raise SystemExit(m.main(['recipes']))"
    said = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.startswith(str(copy)) and "gs3d" in said.stdout


def resolved(name: str) -> object:
    """What a dotted name of the package stands for."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            target: object = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            target = getattr(target, part)
        return target
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", {**TEXTS, **HEADERS})
def test_dotted_names_exist(page: str) -> None:
    for name in re.findall(r"(?<![\w./-])asdkit(?:\.[A-Za-z_]\w*)+", {**TEXTS, **HEADERS}[page]):
        resolved(name)


@pytest.mark.parametrize("page", SPANS)
def test_files_tests_and_recipes_exist(page: str) -> None:
    """A file is named from the root, from asdkit/ or from tests/; a test and a recipe by its name."""
    places = [ROOT, ROOT / "asdkit", ROOT / "tests"]
    rooms = {path.name for place in places for path in place.iterdir() if path.is_dir()} - {"runs"}  # somebody's own
    texts = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    tests = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    folders = {name.partition("/")[0] for name in recipes() if "/" in name}
    for span in SPANS[page]:
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", span) and span.partition("/")[0] in rooms | folders:
            known = span in recipes() or any((place / span).exists() for place in places)
            assert known, f"{page} names {span}"
        if re.fullmatch(r"test_\w+", span):
            assert span in tests, f"{page} names {span}"


def test_what_documents_repeat_is_so() -> None:
    """Promises name the tests that hold them, CI's test command is the README's, the citation has the version."""
    promises = TEXTS["SECURITY.md"].partition("## What is promised")[2].partition("\n## ")[0].split("\n* ")[1:]
    assert len(promises) == 8 and all("`tests/" in promise for promise in promises)
    assert ".venv/bin/pytest" in TEXTS["README.md"]
    assert re.search(r"^pytest", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == asdkit.__version__


WORDS = "|".join((*TRAINER_COMMANDS, *FILES))
COMMAND = re.compile(rf"(?:asdkit (?:{WORDS})|python -m asdkit[.\w]+)(?= |`|$)[^`\n]*", re.MULTILINE)
COMMENT = re.compile(r" #|  +| \.\.\.| --[\w.]+ \.\.\.| \[|\.$")  # what follows is no part of the command
STANDS_FOR = {
    "COMMON": "--config gs3d --config priors/sd21 --prior random:sd21 --trainer.log_every_n_steps 10",
    "runs/gs3d/a-yellow-duck@<time>": "RUN",
    "runs/onestep2d/a-yellow-duck@<time>": "ONESTEP",
    "runs/amortized3d/a-red-car@<time>": "MANY",
    "runs/.../": "RUN/",
    "RUN_OR_FILE": "RUN",
    "/models/clip-b32,/models/clip-b16,openai/clip-vit-large-patch14": "clip",
    "openai/clip-vit-large-patch14": "clip",
    "step-000400": "last",
}
NEED_MORE = ("fit", "bench", "sweep", "compare", "test", "new", "reproduce", "view", "export", "predict")
OWN_TESTS = {"new", "reproduce", "--trust", "--gpu", "--vary", "before.json"}  # these are run by tests of their own
NAMED_ALONE = [f"asdkit {word}" for word in (*NEED_MORE, "export --cameras", "predict --data.orbit.cameras")]
SMALL = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--snapshots.every=0", "--trainer.callbacks=[]"]
IN_3D = ["--data.size=16", "--data.views_per_step=1", "--data.orbit.views=2", "--report.size=16"]
OF_SPLATS = ["--model.generator.count=50", "--model.generator.capacity=60"]
OF_IMAGES = ["--model.generator.size=16", "--model.generator.count=2"]
OF_PLANES = ["--model.generator.resolution=8", "--model.prior.image_size=16"]
OF_PLANES += ["--data.prompts=PromptList", "--data.prompts.texts=[a red duck]"]
OF_EDITS = ["--data.image=docs/images/duck.png", "--model.source=a yellow duck", "--model.target=a red duck"]
OF_EXPORTS = ["--size=16", "--frames=2", "--resolution=16", "--texture=64", "--force"]
RANDOM_SD = "--prior=SD"  # what the page of Stable Diffusion says takes the place of sd21-base
BARE = {"--config", "--model.prompt", "--prompt"}
ELSEWHERE = ("--prior", "priors/", "toybox/", "--trainer.devices", "--viewer", "finetune", "--help", "--print_config")
ELSEWHERE += ("two_priors", "image2d/gan")


def commands() -> dict[str, str]:
    """Every command of the documents, and where it stands first."""
    standing: dict[str, str] = {}
    for page, text in {**TEXTS, **HEADERS}.items():
        for line in COMMAND.findall(re.sub(r" *\\\n#? *", " ", text)):
            command = COMMENT.split(line)[0].rstrip(" |.,:;)")
            command = re.sub(r"recipes/([\w/]+)\.yaml", r"\1", re.sub(r" --steps \d+", "", command))
            for words, meaning in STANDS_FOR.items():
                command = command.replace(words, meaning)
            if page == "docs/first_stable_diffusion.md":
                command = command.replace("--prior sd21-base", RANDOM_SD)
            standing.setdefault(command, page)

    def is_run_here(command: str) -> bool:
        return command not in NAMED_ALONE and not OWN_TESTS & set(shlex.split(command)) and "model_card" not in command

    return {command: page for command, page in standing.items() if is_run_here(command)}


COMMANDS = commands()
RESOLVED: set[str] = set()  # kinds of recipes of runs, which several commands share


def quick(words: list[str], prior: Path) -> list[str]:
    """The arguments of a command of `asdkit`, for one step with a tiny prior; or for its recipe alone.

    With a prior of full size the recipe is resolved, whose files are not here. Recipes as they are, with a prompt
    at most, take their steps in tests/commands/test_recipes.py.
    """
    command, *options = words
    if command == "fit" and options[0] in recipes():
        prompt = [f"--prompt={options.pop(1)}"] if options[1:] and not options[1].startswith("-") else []
        options = ["--config", *options, *prompt]
    if command in ("fit", "bench") and "--config" in options:
        given = {option.partition("=")[0] for option in options if option.startswith("--")}
        as_it_is = command == "fit" and given <= BARE
        elsewhere = any(text in option for option in options if option != RANDOM_SD for text in ELSEWHERE)
        if as_it_is or elsewhere:
            own = [option for option in options if option not in ("--json", "--print_config")]
            return ["fit", *own, "--print_config"]
        recipe = options[1].partition("/")[0]
        options += [*SMALL, *(IN_3D if recipe.endswith("3d") else [])]
        options += OF_IMAGES if recipe == "image2d" else []
        options += [] if RANDOM_SD in options else [f"--model.prior.path={prior}"]
        options += OF_SPLATS if recipe == "gs3d" and "--model.generator=NeRF" not in options else []
        options += OF_EDITS if recipe == "edit2d" and "--data.image" not in options else []
        further = ["--trainer.max_steps=3"] if "--ckpt_path" in options else []  # than RUN has gone
        return [command, *options, *further, *(["--steps=1"] if command == "bench" else [])]
    if command == "fit":  # a run that goes on, or the recipe of a prompt alone
        new = [*IN_3D, *OF_SPLATS, f"--model.prior.path={prior}"] if " " in options[0] else []
        return [command, *options, *new, "--trainer.max_steps=2"]
    return [command, *options, *(OF_EXPORTS if command == "export" else [])]


@pytest.fixture(scope="module")
def workplace(tiny_folder: Path, kl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands name: a run, splats, prompts, a random model, and the documents' pictures."""
    folder = tmp_path_factory.mktemp("documents")
    options = ["--trainer.max_steps=1", "--trainer.callbacks=[]", "--snapshots.every=0"]
    small_run(write_recipe(folder, tiny_folder), *options).rename(folder / "RUN")
    options += [f"--model.prior.path={tiny_folder}", f"--run.root={folder}"]
    for recipe, name, own in (("onestep2d", "ONESTEP", OF_IMAGES), ("amortized3d", "MANY", [*IN_3D, *OF_PLANES])):
        assert main(["fit", "--config", recipe, *options, *own]) == 0
        next((folder / recipe).iterdir()).rename(folder / name)
    assert main(["export", str(folder / "RUN"), "--format=ply", f"--out={folder}"]) == 0
    (folder / "splats.ply").rename(folder / "duck.ply")
    (folder / "prompts.txt").write_text("a yellow duck\n")
    (folder / "style.safetensors").touch()  # of which the recipe alone is looked at
    frame = {"camera_to_world": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 0, 0, 0, 1], "fov": 40}
    film = {"camera_path": [frame, frame], "render_width": 16, "render_height": 16, "fps": 5}
    (folder / "camera_path.json").write_text(json.dumps(film))
    (folder / "docs").symlink_to(ROOT / "docs")
    (folder / "SD").symlink_to(kl_folder)
    save_clip(folder / "clip")
    above = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]  # OpenGL's camera looks down
    frame = {"file_path": "../docs/images/duck.png", "transform_matrix": above}
    (folder / "photos").mkdir()
    (folder / "photos" / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": [frame]}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, workplace: Path, tiny_folder: Path, monkeypatch, capsys) -> None:
    """One step each, in this process; of sweeps and their like, whose runs are processes, the recipe of each run."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("asdkit.run.live_view.serve", lambda *_: None)
    monkeypatch.setattr("asdkit.run.export._LOOKS", ((10.0, 2),))  # fewer silhouettes, for speed
    program, *words = shlex.split(command)
    assert program == "asdkit"
    cells: list[tuple[Sequence[str], Cell]] = []

    def noted(grid: Grid, *how: object) -> int:
        """In the place of making runs."""
        cells.extend((grid.options, cell) for cell in grid.cells)
        return 0

    for module in ("sweep", "compare"):
        monkeypatch.setattr(f"asdkit.commands.{module}.make_runs", noted)
    said = main(quick(words, tiny_folder)), capsys.readouterr().err
    assert said[0] == 0, f"{COMMANDS[command]} says {command}, which says {said[1]}"
    for options, cell in cells:
        kind = re.sub(r"[\d.]+|--data.image .*", "", " ".join((*options, *cell.options)))
        if kind not in RESOLVED:  # other scales, seeds and pictures are of the same kind
            RESOLVED.add(kind)
            assert main(["fit", *options, *cell.options, "--model.prompt", cell.prompt, "--print_config"]) == 0
