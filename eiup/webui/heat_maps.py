"""Heat maps saved beside images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from modules import errors, images, infotext_utils, shared

from .. import overlay
from ..request import INFOTEXT_KEY

ENDING = ".eiup.png"
# What the webui saves under the image's own infotext and is not the image.
_OTHERS = ("-mask", "-mask-composite")


def save_beside(params: Any) -> None:
    """The webui's ``on_image_saved`` callback: write ``NAME.eiup.png`` beside the image ``NAME.*``, where the
    setting is on and the image's infotext holds heat maps. The image is safe whatever happens here."""
    if not shared.opts.data.get("eiup_save_maps"):
        return
    try:
        _save(params.image, Path(params.filename), params.pnginfo.get("parameters") or "")
    except Exception:
        errors.report(f"EIUP: no heat map was saved beside {params.filename}", exc_info=True)


def _save(image: Any, path: Path, infotext: str) -> None:
    value = infotext_utils.parse_generation_parameters(infotext, []).get(INFOTEXT_KEY)
    if value is None or path.stem.endswith(_OTHERS):
        return
    maps = overlay.maps_in(value)
    if not maps:
        return
    target = path.with_name(path.stem + ENDING)
    unfinished = target.with_name(f"{target.name}.tmp")
    try:
        overlay.picture(image, maps, _font(image.width)).save(unfinished, format="PNG")
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _font(width: int) -> Any:
    """The webui's font for text in images, in a size that suits the image."""
    return images.get_font(max(10, round(width / 32)))
