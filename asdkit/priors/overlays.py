"""Which recipe of `recipes/priors` has the settings that a model's family needs."""

from asdkit.core.text import local
from asdkit.priors.families import StableDiffusion, family_of
from asdkit.priors.hub import ALIASES
from asdkit.priors.locate import EMBEDDED, base_of_file, settings_of_model
from asdkit.priors.random_models import RANDOM


def overlay_of(path: str, config: str = "") -> str:
    """The name of a model's overlay, such as `sdxl`; empty for asdkit's own models, which the recipes are made for.

    Args:
        path: the model, as `locate` takes it. Of an id, its small files are fetched.
        config: of a single file: the model whose settings it shares.
    """
    name = path.removeprefix(RANDOM).partition("@")[0]
    if name in ALIASES:
        return ALIASES[name].overlay
    if name == EMBEDDED or path.startswith(RANDOM):
        return ""
    file = local(path)
    if file.is_file():
        return overlay_of(config or base_of_file(file))
    files = settings_of_model(path)
    if files.has("asdkit.json"):
        return ""
    family = family_of(str(files.json("model_index.json").get("_class_name")))
    wide = family is StableDiffusion and files.json("unet/config.json").get("cross_attention_dim") == 1024
    return "sd21" if wide else family.overlay
