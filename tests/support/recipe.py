"""A recipe of ten quick iterations, and runs of it."""

from pathlib import Path

RECIPE = """
model:
  class_path: asdkit.Distillation
  init_args:
    prompt: a red duck
    prior: {{class_path: asdkit.Pretrained, init_args: {{path: {prior}}}}}
    generator:
      class_path: asdkit.Gaussians
      init_args:
        {{count: 60, capacity: 90, initial: {{opacity: 0.5}}, rounds: {{every: 4, first: 4}},
         density: {{class_path: asdkit.Fraction, init_args: {{fraction: 0.2}}}}}}
    guidance: {{class_path: asdkit.ASD}}
data: {{class_path: asdkit.Cameras, init_args: {{views_per_step: 2, size: 16, orbit: {{views: 3}}}}}}
trainer:
  max_steps: 10
  accelerator: cpu
  devices: 1
  log_every_n_steps: 1
  callbacks: [{{class_path: asdkit.ToyboxJudge}}]
checkpoints: {{every: 4}}
snapshots: {{every: 5}}
report: {{size: 16}}
run: {{root: {root}}}
"""


def write_recipe(folder: Path, prior: Path) -> Path:
    """The recipe's file; its runs go to folder / runs / small."""
    path = folder / "small.yaml"
    path.write_text(RECIPE.format(prior=prior, root=folder / "runs"))
    return path


def small_run(recipe: Path, *options: str, name: str = "one") -> Path:
    """The folder of a finished run."""
    from asdkit.commands.main import main

    assert main(["fit", "--config", str(recipe), f"--run.name={name}", *options]) == 0
    return recipe.parent / "runs" / recipe.stem / name
