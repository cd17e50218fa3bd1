"""Which recipe of `recipes/priors` has the settings that a model's family needs."""

from asdkit.core.text import local
from asdkit.priors.families import family_of
from asdkit.priors.hub import ALIASES
from asdkit.priors.locate import EMBEDDED, base_of_file, settings_of_model
from asdkit.priors.random_models import RANDOM

_OVERLAYS = ("sd15", "sd21", "sdxl", "sd35", "flux", "pixart", "if")
_OF_FAMILY = {
    "StableDiffusionXL": "sdxl",
    "StableDiffusion3": "sd35",
    "Flux": "flux",
    "PixArt": "pixart",
    "DeepFloydIF": "if",
}


def overlay_of(path: str, config: str = "") -> str:
    """The name of a model's overlay, such as `sdxl`; empty for asdkit's own models, which the recipes are made for.

    Args:
        path: the model, as `locate` takes it. Of an id, its small files are fetched.
        config: of a single file: the model whose settings it shares.

    Raises:
        PriorUnavailable: it can't be had, or is of an unknown kind.
    """
    name = path.removeprefix(RANDOM).partition("@")[0]
    if name == EMBEDDED:
        return ""
    if name in ALIASES or path.startswith(RANDOM):
        return "sd35" if name == "sd3" else next((overlay for overlay in _OVERLAYS if name.startswith(overlay)), "")
    file = local(path)
    if file.is_file():
        return overlay_of(config or base_of_file(file))
    files = settings_of_model(path)
    if files.has("asdkit.json"):
        return ""
    family = family_of(str(files.json("model_index.json").get("_class_name"))).__name__
    width = 0 if family in _OF_FAMILY else files.json("unet/config.json").get("cross_attention_dim")
    return _OF_FAMILY.get(family, "sd21" if width == 1024 else "sd15")
