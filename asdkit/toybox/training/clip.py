"""Training of the toybox's judge: a tiny CLIP that tells which prompt a picture shows."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import CLIPConfig, CLIPModel

from asdkit.core.bounds import Count, LearningRate, Share, checked
from asdkit.core.randomness import generator_for, seeded
from asdkit.toybox.clip import prompt_among
from asdkit.toybox.training import common
from asdkit.toybox.training.renders import Examples


@checked
class TrainCLIP(common.Training):
    """Trains a CLIPModel on pictures and the toybox's captions, by the symmetric contrastive loss.

    Args:
        output: the folder that receives `clip/` when training ends.
        width: the width of both towers.
        layers: the number of layers of the image tower; the text tower has two.
        size: the edge of the pictures in pixels.
        patch: the edge of an image patch in pixels.
        learning_rate: AdamW's learning rate, which is held, then brought to zero linearly over the last quarter of the
            steps.
        plain_captions: the share of examples captioned by the bare prompt, without free wording and view words.
        start: the pipeline folder whose `clip/`, of these sizes and words, training starts from, or `toybox` for the
            embedded one; random weights when empty.
        seed: the seed of the weights and of the choice of captions.
    """

    adamw = {"betas": (0.9, 0.98), "weight_decay": 0.05}

    def __init__(
        self,
        output: str = "toybox-weights",
        width: Count = 128,
        layers: Count = 4,
        size: Count = 128,
        patch: Count = 16,
        learning_rate: LearningRate = 1e-3,
        plain_captions: Share = 0.5,
        start: str = "",
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.tokenizer = common.build_tokenizer()
        text = common.text_settings(self.tokenizer, width)
        shared = ("hidden_size", "intermediate_size", "projection_dim", "num_attention_heads")
        vision = {name: text[name] for name in shared}
        vision |= {"image_size": size, "patch_size": patch, "num_hidden_layers": layers}
        with seeded(seed):
            self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
        self.clip.set_attn_implementation("eager")  # 1.6 times faster to train on a CPU than the fused attention
        if start:
            with common.starting_from(start) as folder:
                saved = CLIPModel.from_pretrained(folder / "clip", local_files_only=True)
                self.clip.load_state_dict(saved.state_dict())

    def training_step(self, batch: Examples) -> Tensor:
        generator = generator_for(self.hparams.seed, self.global_step, "captions", self.global_rank)
        plain = torch.rand(len(batch.captions), generator=generator) < self.hparams.plain_captions
        captions = [p if bare else c for p, c, bare in zip(batch.prompts, batch.captions, plain.tolist(), strict=True)]
        logits = self._logits(batch.images, captions)
        target = torch.arange(len(logits), device=logits.device)
        loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        facts = {"loss": loss, "top1": (logits.argmax(1) == target).float().mean()}
        self.log_dict(facts, prog_bar=True, batch_size=len(target))
        return loss

    def validation_step(self, batch: Examples) -> None:
        """Retrieval of a held-out render's prompt among the 200 of `asdkit.toybox.clip`."""
        pairs = zip(batch.images, batch.prompts, strict=True)
        hits = [float(self._logits(one[None], prompt_among(200, own))[0].argmax() == 0) for one, own in pairs]
        self.log("val_retrieval", sum(hits) / len(hits), prog_bar=True, batch_size=len(hits))

    def _logits(self, images: Tensor, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").to(self.device)
        return self.clip(pixel_values=images * 2 - 1, **tokens).logits_per_image

    def save(self) -> None:
        folder = Path(self.hparams.output) / "clip"
        common.save_half(self.clip, folder)
        common.save_tokenizer(self.tokenizer, folder)
