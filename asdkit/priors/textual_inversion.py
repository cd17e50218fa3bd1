"""A textual inversion: a word whose embedding was learned, for use in prompts."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asdkit.core.errors import PriorUnavailable
from asdkit.core.text import first_line
from asdkit.priors.weights import shapes_of

_ENCODERS = {"clip_g": "_2"}  # the end of a text encoder's name, by the name that a file for several gives it
_log = logging.getLogger(__name__)


def learned_words(file: Path) -> dict[str, Tensor]:
    """The embeddings in a file of a textual inversion, by their names there; none of another file's."""
    from safetensors.torch import load_file

    if any("." in name for name in shapes_of(file)):
        return {}
    return {name: value.float() for name, value in load_file(file).items()}


def word_of(file: Path) -> str:
    """The word of a textual inversion: the name of its tensor, or that of the file; empty of another file."""
    names = list(learned_words(file))
    single = names[0] if len(names) == 1 else ""
    return "" if not names else file.stem if single in ("", "emb_params", "clip_l", "clip_g") else single


def add_words(file: Path, pipeline: Any, texts: list[str]) -> None:
    """Teach a pipeline the word of a textual inversion.

    The file is in diffusers' or in A1111's layout, of one or of two text encoders. One of the prompts should say it.
    """
    word, words = word_of(file), learned_words(file)
    try:
        if len(words) > 1 and not words.keys() <= {"clip_l", "clip_g"}:
            raise ValueError(f"it holds several words, {', '.join(words)}")
        for name, value in words.items():
            end = _ENCODERS.get(name, "")
            encoder: Any = getattr(pipeline, f"text_encoder{end}", None)
            tokenizer: Any = getattr(pipeline, f"tokenizer{end}", None)
            if encoder is None or not value.isfinite().all():
                raise ValueError("it is not finite" if encoder else f"this model has no text_encoder{end}")
            vectors, most = len(torch.atleast_2d(value)), tokenizer.model_max_length
            if not 0 < vectors <= most:
                raise ValueError(f"it has {vectors} vectors, and a prompt {most} tokens")
            pipeline.load_textual_inversion(value, token=word, text_encoder=encoder, tokenizer=tokenizer)
    except Exception as error:  # diffusers' reader raises whatever it stumbles over
        reason = first_line(error)
        raise PriorUnavailable(
            f"The textual inversion {file} can't be added ({reason}); name one that was made for this kind of model."
        ) from error
    if not any(word in text for text in texts):
        _log.warning("No prompt says %s, the word of the textual inversion %s.", word, file.name)
