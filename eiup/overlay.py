"""Heat maps over an image: reading them from infotext, and drawing them. Needs Pillow and numpy only.

A map is text, ``WxH:`` and base64 of four bits a position, row by row, of at most 16 by 16 positions: 0 is
the median and less, 15 the largest value.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LARGEST = 16
LEVELS = 15
# Of the largest value of a map; what is lower lets more of the image through.
OPACITY = 0.75
# matplotlib's inferno in equal steps.
_COLOURS = np.array(
    [
        (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85),
        (227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164),
    ]
)  # fmt: skip
_CAPTION, _CAPTION_BACKGROUND = (235, 235, 235), (24, 24, 27)


@dataclass(frozen=True)
class ConceptMap:
    """Where a concept was forming, ``values [H, W]`` in 0..1; and the suppressed share, 0 for nothing."""

    concept: str
    share: float
    values: np.ndarray


def map_values(text: str) -> np.ndarray:
    """A map's values ``[H, W]`` in 0..1. Raises ``ValueError`` for anything that is no map."""
    size, _, packed = text.partition(":")
    width, height = (int(side) for side in size.split("x"))
    levels = [level for byte in base64.b64decode(packed, validate=True) for level in (byte >> 4, byte & 15)]
    if not (0 < width <= LARGEST and 0 < height <= LARGEST and 0 <= len(levels) - width * height <= 1):
        raise ValueError(f"a map of {size} positions has {len(levels)} levels")
    return np.array(levels[: width * height], dtype=np.float32).reshape(height, width) / LEVELS


def maps_in(value: str) -> list[ConceptMap]:
    """The maps in the JSON that infotext holds under ``EIUP``; empty where the image was made without maps.

    Raises ``ValueError`` for JSON or maps that cannot be read.
    """
    try:
        told = json.loads(value)
        results = told.get("result", {}).get("concepts", [])
        names = [c["concept"] if isinstance(c, dict) else c for c in told["concepts"]]
        return [
            ConceptMap(str(name), float(result["share"]), map_values(result["map"]))
            for name, result in zip(names, results)
            if "map" in result
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no heat maps can be read from {value[:80]!r}") from error


def colours(values: np.ndarray) -> np.ndarray:
    """``values [H, W]`` in 0..1 as colours ``[H, W, 3]`` in 0..255, dark to bright."""
    at = np.clip(values, 0, 1) * (len(_COLOURS) - 1)
    below = np.minimum(at.astype(int), len(_COLOURS) - 2)
    part = (at - below)[..., None]
    return (_COLOURS[below] * (1 - part) + _COLOURS[below + 1] * part).round().astype(np.uint8)


def overlaid(image: Image.Image, values: np.ndarray) -> Image.Image:
    """``image`` with a map ``[H, W]`` stretched over it; where the map is 0, the image stays as it is."""
    grid = Image.fromarray(np.asarray(values, dtype=np.float32))
    smooth = np.asarray(grid.resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)
    alpha = (smooth * OPACITY)[..., None]
    mixed = np.asarray(image.convert("RGB")) * (1 - alpha) + colours(smooth) * alpha
    return Image.fromarray(mixed.round().astype(np.uint8))


def captioned(image: Image.Image, caption: str, font: ImageFont.ImageFont | None = None) -> Image.Image:
    """``image`` with a strip below it that holds ``caption``, in as many lines as it takes."""
    font = font or ImageFont.load_default()
    margin = 6
    lines = _lines(caption, font, image.width - 2 * margin)
    line_height = max(font.getbbox("Xg")[3] + 3, 8)
    strip = line_height * len(lines) + 2 * margin
    result = Image.new("RGB", (image.width, image.height + strip), _CAPTION_BACKGROUND)
    result.paste(image, (0, 0))
    draw = ImageDraw.Draw(result)
    for number, line in enumerate(lines):
        draw.text((margin, image.height + margin + number * line_height), line, _CAPTION, font)
    return result


def picture(
    image: Image.Image, maps: Sequence[ConceptMap], font: ImageFont.ImageFont | None = None
) -> Image.Image:
    """``image`` with the largest value at every place of the maps of what was suppressed, and the concepts'
    names below. ``maps`` are as :func:`maps_in` returns them. Raises ``ValueError`` where there are none."""
    if not maps:
        raise ValueError("the image was made without heat maps: ask for them with maps")
    suppressed = [of_concept for of_concept in maps if of_concept.share > 0]
    names = ", ".join(of_concept.concept for of_concept in suppressed or maps)
    if not suppressed:
        return captioned(image.convert("RGB"), f"nothing suppressed: {names}", font)
    largest = np.max([of_concept.values for of_concept in suppressed], axis=0)
    return captioned(overlaid(image, largest), names, font)


def _lines(text: str, font: ImageFont.ImageFont, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels; a word that is longer is broken."""
    text = _drawable(" ".join(text.split()), font)
    lines, line = [], ""
    for word in text.split(" "):
        if line and font.getlength(f"{line} {word}") > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
        while len(line) > 1 and font.getlength(line) > width:
            fits = next((n for n in range(len(line) - 1, 1, -1) if font.getlength(line[:n]) <= width), 1)
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line]


def _drawable(text: str, font: ImageFont.ImageFont) -> str:
    """``text`` as far as ``font`` has it: Pillow's own bitmap font has Latin letters only."""
    try:
        font.getlength(text)
    except UnicodeError:
        return text.encode("latin-1", "replace").decode("latin-1")
    return text
