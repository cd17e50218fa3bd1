"""The toybox's judge of prompts: a tiny CLIP."""

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from asdkit.core.randomness import generator_for
from asdkit.scores.redrawn import Scorer
from asdkit.toybox import world

EMBEDDED = Path(__file__).parent / "weights" / "clip"


@cache
def candidate_prompts(count: int) -> tuple[str, ...]:
    """`count` different prompts of the world, every eighth of a held-out thing, drawn as training draws them."""
    generator, prompts = generator_for(0, 0, "candidate prompts"), dict[str, None]()
    while len(prompts) < count:
        prompts[world.sample_thing(generator, held_out=len(prompts) % 8 == 7).prompt] = None
    return tuple(prompts)


def prompt_among(count: int, prompt: str) -> list[str]:
    """A prompt, and after it as many others of the world as make `count` together."""
    return [prompt, *(candidate for candidate in candidate_prompts(count) if candidate != prompt)][:count]


def resized(images: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B C size size"]:
    """Square pictures of another size."""
    if images.shape[-1] == size:
        return images
    return nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


class TinyCLIP:
    """A CLIPModel folder with its tokenizer, for ranking the prompts of a picture; a ValueError if it is missing."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise ValueError(f"There is no CLIP in {folder}; train one with recipes/toybox/clip.yaml.")
        from transformers import CLIPModel, CLIPTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self.model = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def cosines(self, images: Float[Tensor, "B 3 H W"], prompts: list[str]) -> Float[Tensor, "B N"]:
        """Of square pictures in [0,1], of any size, and prompts: how well each fits each, within [-1,1]."""
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        return self.model(pixel_values=self._pixels(images), **tokens).logits_per_image / self.model.logit_scale.exp()

    @torch.no_grad()
    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """What it sees in pictures in [0,1], before it is scaled to length 1."""
        seen = self.model.vision_model(pixel_values=self._pixels(images)).pooler_output
        projected: Tensor = self.model.visual_projection(seen)
        return projected

    def are_first(self, images: Float[Tensor, "B 3 H W"], prompts: list[str], count: int) -> Bool[Tensor, " B"]:
        """Of each picture, whether its own prompt ranks first among itself and `count` - 1 others of the world."""
        among = [prompt_among(count, prompt) for prompt in prompts]
        columns = {text: i for i, text in enumerate(dict.fromkeys(text for texts in among for text in texts))}
        ranked = torch.tensor([[columns[text] for text in texts] for texts in among])
        return self.cosines(images, list(columns)).gather(1, ranked).argmax(1) == 0

    def _pixels(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        """As the network takes them: of its own size, within [-1,1], on the CPU."""
        return resized(images.cpu(), self.model.config.vision_config.image_size) * 2 - 1


class CLIPScorer(Scorer):
    """Scores pictures for RewardSDS by the toybox's CLIP: the cosine of a picture and the prompt, in [-1, 1].

    Args:
        folder: the folder of the CLIP; the embedded one when empty.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = Path(folder) if folder else EMBEDDED
        self._clip: TinyCLIP | None = None

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompt: str) -> Float[Tensor, " B"]:
        self._clip = self._clip or TinyCLIP(self.folder)
        return self._clip.cosines(images, [prompt])[:, 0].to(images)
