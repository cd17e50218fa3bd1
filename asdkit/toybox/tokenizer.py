"""The toybox's text side: a CLIP tokenizer with one token per word of the world."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from asdkit.toybox import captions

MAX_TOKENS = 24


def build_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer whose merges make each word of the captions a single token; others fall into letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list(",.'-0123456789")
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in captions.vocabulary():
        pieces = _encode([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            merges.append(pair)
            vocabulary.append("".join(pair))
            pieces = ["".join(pair), *pieces[2:]]
    vocabulary = list(dict.fromkeys(vocabulary)) + ["<|startoftext|>", "<|endoftext|>"]
    numbers = {token: i for i, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=numbers, merges=merges, model_max_length=MAX_TOKENS)


def _encode(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """The pieces of a word under byte-pair merges in order of priority."""
    for first, second in merges:
        i = 0
        while i < len(pieces) - 1:
            if (pieces[i], pieces[i + 1]) == (first, second):
                pieces[i : i + 2] = [first + second]
            i += 1
    return pieces


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write vocab.json and merges.txt, the layout that transformers 4 and 5 both read."""
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], indent=0) + "\n")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def save_text_encoder(encoder: CLIPTextModel, folder: Path) -> None:
    """Write fp16 weights under transformers 4's names (prefix `text_model.`), which version 5 reads as well."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.config.dtype = torch.float32  # what the fp16 file is to be loaded as
    encoder.config.save_pretrained(folder)
    weights = {f"text_model.{name}": value.half().contiguous() for name, value in encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
