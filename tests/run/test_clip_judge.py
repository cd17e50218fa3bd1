"""CLIPJudge: vectors against transformers' CLIPModel on pictures prepared by hand, figures against slow loops."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.recipe import small_run
from support.tiny import save_clip
from torch import Tensor

from asdkit import SDS, Cameras, Canvas, CLIPJudge, Distillation, FiniteSetPrior, Pixels
from asdkit.commands.main import main
from asdkit.generators.base import Render
from asdkit.priors.clip import CLIP
from asdkit.rendering.cameras import Views, ring
from asdkit.run.judge import at_back, ranks_first
from asdkit.scores.equations import hsv_saturation

PROMPT, OTHERS = "a red duck", ["a blue car", "a yellow duck", "a green tree"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's


@pytest.fixture(scope="session")
def b32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of ViT-B/32's geometry, but with as few words as the toy world has."""
    return save_clip(tmp_path_factory.mktemp("b32") / "clip-vit-b32", 224, 32, 768, 512, 12, 8)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("small") / "clip-small")


def pictures(count: int, height: int = 48, width: int = 48, seed: int = 0) -> Tensor:
    """Patches of colour, which survive being resized."""
    patches = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(patches, (height, width))


def by_hand(images: Tensor, size: int) -> Tensor:
    """8 bits, Pillow's bicubic to the shorter side, the middle square, OpenAI's mean and deviation."""
    prepared = []
    for image in images:
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        shorter = min(picture.size)
        picture = picture.resize([int(side * size / shorter) for side in picture.size], Image.Resampling.BICUBIC)
        left, top = ((side - size) // 2 for side in picture.size)
        values = torch.tensor(list(picture.crop((left, top, left + size, top + size)).tobytes()), dtype=torch.float64)
        prepared.append((values.reshape(size, size, 3) / 255 - torch.tensor(MEAN)) / torch.tensor(STD))
    return torch.stack(prepared).permute(0, 3, 1, 2).float()


def cosines(folder: Path, images: Tensor, prompts: list[str], size: int) -> Tensor:
    """Of each picture and each prompt, by one call of the model for each pair."""
    from transformers import CLIPModel, CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    rows = torch.empty(len(images), len(prompts))
    for i, pixels in enumerate(by_hand(images, size)):
        for j, prompt in enumerate(prompts):
            with torch.no_grad():
                out = model(pixel_values=pixels[None], **tokenizer([prompt], return_tensors="pt"))
            rows[i, j] = out.logits_per_image.item() / model.logit_scale.exp().item()
    return rows


def shown(images: Tensor) -> Render:
    return Render(images, images[:, :1], images[:, :1])


def run_that_shows(around: Tensor) -> Distillation:
    """A run that shows these pictures from the twelve cameras of the circle."""
    module = Distillation(PROMPT, FiniteSetPrior(), Pixels(count=1), SDS())

    def show(views: Views) -> Render:
        assert views.azimuth.rad2deg().tolist() == pytest.approx([30.0 * k for k in range(12)], abs=1e-3)
        return shown(around)

    module.show = show
    return module


def measured(models: list[Path], images: Tensor, around: Tensor, tmp_path: Path) -> dict[str, float]:
    (tmp_path / "prompts.txt").write_text("\n".join([*OTHERS, PROMPT]))
    judge = CLIPJudge([str(model) for model in models], str(tmp_path / "prompts.txt"))
    judge.setup(None, None, "test")
    data = Cameras(size=16)
    return judge.measure(run_that_shows(around), data, data.novel_views(), shown(images))


def test_pictures_and_prompts_of_b32_are_transformers_own(b32: Path) -> None:
    """Large, small and oblong pictures: prepared by hand they are the same, to rounding, and so are their cosines."""
    (clip := CLIP(str(b32))).load()
    prompts = [PROMPT, "a tree", "duck " * 100]
    for shape in ((48, 48), (300, 260)):
        images = pictures(1, *shape)
        bytes_ = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        pixels = clip._processor(list(bytes_), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels, by_hand(images, 224), atol=1e-5, rtol=1e-5)
        seen, said = clip.pictures(bytes_), clip.prompts(prompts[:2])
        torch.testing.assert_close(seen @ said.T, cosines(b32, images, prompts[:2], 224), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(seen.norm(dim=1), torch.ones(1))
    assert clip.prompts(prompts[2:]).shape == (1, 512)  # cut to 77 tokens


def test_every_figure_is_its_slow_loop(small: Path, tmp_path: Path) -> None:
    again = shutil.copytree(small, tmp_path / "clip-again")
    images, around = pictures(5, seed=10), pictures(12, seed=11)
    results = measured([small, again], images, around, tmp_path)
    rows = cosines(small, images, [PROMPT, *OTHERS], 32)
    turned = cosines(small, around[5:8], [f"{PROMPT}, {side} view" for side in ("front", "side", "back")], 32)
    (clip := CLIP(str(small))).load()
    seen = clip.pictures((around * 255).round().byte().permute(0, 2, 3, 1).numpy())
    expected = {
        "clip_score": rows[:, 0].mean().item(),
        "r_precision": sum(float(row[0] == max(row)) for row in rows) / 5,
        "view_consistency": sum(float(seen[k] @ seen[(k + 1) % 12]) for k in range(12)) / 12,
        "janus": sum(float(row[0] == max(row)) for row in turned) / 3,
    }
    assert 0 < expected["r_precision"] < 1 and 0 < expected["janus"] < 1
    for name, value in expected.items():
        assert results[f"{name}_clip-small"] == results[f"{name}_clip-again"] == pytest.approx(value, abs=1e-5), name
    assert results["saturation"] == pytest.approx(hsv_saturation(images).mean().item())
    assert len(results) == 10


def test_ranks_and_backs() -> None:
    """The back is 45 degrees to either side."""
    pictures = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    assert ranks_first(pictures, torch.eye(2)).tolist() == [True, False, False, True]
    assert ranks_first(pictures, torch.eye(2)[:1]).all()
    azimuths = [k * 30 for k, behind in enumerate(at_back(ring(12, 80.0, 3.0)).tolist()) if behind]
    assert azimuths == [150, 180, 210]
    assert at_back(ring(36, 0.0, 3.0)).sum() == 9  # 140 to 220


def test_images_have_no_views_and_without_clips_two_figures(small: Path) -> None:
    images = pictures(3)
    for models, further in (([], set()), ([str(small)], {"clip_score_clip-small"})):
        judge = CLIPJudge(models)
        judge.setup(None, None, "test")
        figures = judge.measure(run_that_shows(images), Canvas(), None, shown(images))
        assert set(figures) == {"saturation", "sharpness"} | further
    with pytest.raises(ValueError, match="Two CLIPs of the same name"):
        CLIPJudge(["a/clip", "b/clip@main"])


def test_from_the_command_line(small: Path, recipe: Path, tmp_path: Path, refused: Callable) -> None:
    """Beside the recipe's own judge, in fit and in test; what a CLIP lacks is said in a sentence, with code 4."""
    run = small_run(recipe, "--trainer.max_steps=1", "--snapshots.every=0", f"--judge={small}")
    names = {f"{figure}_clip-small" for figure in ("clip_score", "view_consistency", "janus")}
    metrics = json.loads((run / "run.json").read_text())["metrics"]
    assert names | {"saturation", "sharpness"} <= metrics.keys() and "iou" in metrics
    again = shutil.copytree(small, tmp_path / "again")
    (tmp_path / "prompts.txt").write_text("a blue car\n")
    options = ["--judge", f"{small},{again}", f"--trainer.callbacks.prompts={tmp_path / 'prompts.txt'}"]
    assert main(["test", str(run), *options]) == 0
    written = json.loads((run / "test.json").read_text())["metrics"]
    score = pytest.approx(metrics["clip_score_clip-small"])
    assert written["clip_score_again"] == written["clip_score_clip-small"] == score
    assert {"r_precision_again", "janus_again", "psnr"} <= written.keys()
    for name in ("preprocessor_config.json", "model.safetensors", "merges.txt"):
        (again / name).rename(tmp_path / "aside")
        lack = "has no weights" if "model" in name else "is no whole CLIP"
        assert lack in refused("test", run, "--judge", again, code=4)
        (tmp_path / "aside").rename(again / name)
    (again / "model.safetensors").write_bytes((again / "model.safetensors").read_bytes()[:1000])
    for place, lack in ((again, "is torn"), (tmp_path / "none", "There is no"), ("openai/clip-vit", "HF_HUB_OFFLINE")):
        assert lack in refused("fit", "--config", recipe, "--run.name=two", "--judge", place, code=4)
    assert not run.with_name("two").exists()
