"""A grid of runs: its cells, the names of their folders, and the commands that make them."""

import sys
from pathlib import Path

import pytest

from asdkit.core.errors import UsageError
from asdkit.run.grid import Cell, Grid, option_values, product
from asdkit.run.run_folder import new_run_folder

LONG = "A Duck! of quite a few words, 7.5 times as many as there are letters in a folder's name"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A recipe of which only its folder of runs is looked at."""
    (tmp_path / "my.yaml").write_text(f"run: {{root: {tmp_path / 'runs'}}}\n")
    return tmp_path


def grid(base: Path, *cells: Cell, options: tuple[str, ...] = (), root: Path | None = None) -> Grid:
    return Grid(cells, ["--config", str(base / "my.yaml"), *options], "list", root)


def test_cells_are_all_combinations_and_an_option_has_all_its_values() -> None:
    axes = {"method": {"ASD": [], "VSD": ["--config", "vsd"]}, "seed": {0: ["--seed=0"], 1: ["--seed=1"]}}
    cells = product(["a", "b"], axes)
    assert [(cell.labels["method"], cell.labels["seed"], cell.prompt) for cell in cells] == [
        (method, seed, prompt) for method in ("ASD", "VSD") for seed in (0, 1) for prompt in ("a", "b")
    ]
    assert cells[0].options == ["--seed=0"] and cells[-1].options == ["--config", "vsd", "--seed=1"]
    assert product(["a"], {}) == [Cell("a", {}, [])]
    assert option_values(["--a", "1", "--b", "--a=2=3", "--ab", "4", "--a"], "--a") == ["1", "2=3", ""]


def test_what_defines_a_run_names_it(base: Path) -> None:
    duck = Cell("a red duck")
    (base / "over.yaml").write_text("data: {}\n")
    over = Cell("a red duck", {}, ["--config", str(base / "over.yaml")])
    same = [grid(base, duck), grid(base, Cell("another"), duck), grid(base)]
    names = {one.run_folder(duck) for one in same}
    assert len(names) == 1 and names.pop().parent == base / "runs" / "my" == same[0].folder.parent
    different = [
        grid(base).run_folder(duck),
        grid(base).run_folder(Cell("A RED duck!")),
        grid(base).run_folder(Cell("a red duck", {}, ["--seed=1"])),
        grid(base, options=("--seed=1", "--seed=2")).run_folder(duck),
        grid(base, over).run_folder(over),
    ]
    (base / "over.yaml").write_text("# another\ndata:  {}\n")
    assert grid(base, over).run_folder(over) == different[-1]  # a recipe is what it sets
    (base / "over.yaml").write_text("data: {size: 3}\n")
    different.append(grid(base, over).run_folder(over))
    (base / "my.yaml").write_text((base / "my.yaml").read_text() + "data: {}\n")
    different.append(grid(base).run_folder(duck))
    different.append(grid(base).run_folder(Cell("a red duck", prior="abc")))
    assert len(set(different)) == 8 and all(folder.name.startswith("a-red-duck-") for folder in different)
    assert grid(base).run_folder(Cell("x", {"method": "SDS7.5", "seed": 3})).name.startswith("sds7-5-3-x-")


def test_a_root_that_moves_moves_no_run(base: Path) -> None:
    """Also where an option names a file in it."""
    own = {root: Cell("x", {}, [f"--data.asset={base / root}/a.ply"]) for root in ("here", "there")}
    (name,) = {grid(base, root=base / root).run_folder(cell).name for root, cell in own.items()}
    assert name != grid(base).run_folder(Cell("x", {}, ["--data.asset=b.ply"])).name


def test_a_recipe_that_changes_meanwhile_moves_no_run(base: Path) -> None:
    one, duck = grid(base), Cell("a red duck")
    before = one.run_folder(duck)
    (base / "my.yaml").write_text("run: {recipe: another}\n")
    assert one.run_folder(duck) == before


@pytest.mark.parametrize("words", [LONG, "../../etc/" + "x" * 300, "x" * 40, "ASD", "-", "鴨"])
def test_fit_makes_the_folder_that_the_grid_looks_for(base: Path, words: str) -> None:
    """Whatever the slugs cut off, of prompts, labels, recipes and names."""
    cell = Cell(words, {"method": words[:7]})
    for options in ((), (f"--run.recipe={words}",)):
        one = grid(base, cell, options=options, root=base / "OUT")
        place = [option_values(one.command(cell), f"--run.{key}")[-1] for key in ("root", "recipe", "name")]
        made = new_run_folder(Path(place[0]), place[1], words, place[2])
        assert made == one.run_folder(cell) and made.parents[1] == base / "OUT" and len(made.name) < 60


def test_options_say_where_the_runs_go(base: Path) -> None:
    (base / "over.yaml").write_text("run: {recipe: named, name: ''}\ndata: {}\n")
    over = ("--config", str(base / "over.yaml"))
    place = ("--run.root", "a", "--run.root=b", "--run.recipe=c")
    assert grid(base, options=over).folder.parent == base / "runs" / "named"
    assert grid(base, options=(*over, *place)).folder.parent == Path("b/c")
    assert grid(base, options=place, root=Path("d")).folder.parent == Path("d/c")
    assert grid(base, options=("--run.root=~/d",)).folder.parent == Path.home() / "d" / "my"
    assert Grid([], ["-c", "gs3d"], "list").folder.parent == Path("runs/gs3d")
    assert Grid([], ["--config=toybox/vae"], "list").folder.parent == Path("runs/toybox-vae")
    (base / "my.yaml").write_text("run: nonsense")
    assert grid(base).folder.parent == Path("runs/my")


def test_a_grid_needs_a_recipe_that_is_there() -> None:
    with pytest.raises(UsageError, match="no recipe among the options"):
        Grid([], ["--seed=1"], "list")
    with pytest.raises(UsageError, match="did you mean 'gs3d'"):
        Grid([Cell("x", {}, ["--config", "gs3dd"])], ["--config", "image2d"], "list")


def test_a_run_is_made_once_and_then_continued(base: Path) -> None:
    duck = Cell("a: duck", {"seed": 3}, ["--model.seed=3"])
    one = grid(base, duck, options=("--trust", "mine", "--trust=yours"))
    run, made = one.run_folder(duck), one.command(duck)
    assert made[:5] == [sys.executable, "-P", "-m", "asdkit", "fit"] and made[5:11] == [*one.options, "--model.seed=3"]
    places = [f"--run.root={base / 'runs'}", "--run.recipe=my", f"--run.name={run.name}"]
    assert made[11:] == [*places, "--model.prompt", "a: duck"]
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    assert one.command(duck)[5:] == [str(run), "--trust=mine", "--trust=yours"]
    assert one.report(duck) == {} and not one.finished(duck)
    (run / "run.json").write_text('{"status": "finished"}')
    assert one.finished(duck)
