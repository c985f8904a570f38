"""The chart of a quality report, and its contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from demo.figures import PSNR_CAP

from .cases import BenchCase
from .results import Results

_INK, _SOFT, _RULE, _PAPER = (28, 30, 36), (104, 108, 118), (222, 224, 230), (255, 255, 255)
_ACCENT, _OTHER = (176, 38, 62), (58, 96, 158)
_SPREAD = (196, 202, 214)
_COLUMNS = 4

_Box = tuple[float, float, float, float]


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def draw_chart(methods: Sequence[Mapping[str, Any]]) -> Image.Image | None:
    """Erasure against fidelity, one mark a method: PSNR of unrelated images in dB to the right, the rate at
    which the concept still shows upwards, with its 95 % interval. The better a method, the further it is to
    the lower right. None where no method has both figures.
    """
    marks = [m for m in methods if m["psnr_unrelated"] is not None and m["shows"]["of"]]
    if not marks:
        return None
    width, height, left, top, right, bottom = 2000, 1280, 170, 150, 230, 150
    image = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(image)
    lowest = 5 * int(min(PSNR_CAP - 5, *(m["psnr_unrelated"] for m in marks)) // 5)

    def x(value: float) -> float:
        return left + (value - lowest) / (PSNR_CAP - lowest) * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - value * (height - top - bottom)

    draw.text((left, 30), "How often a concept still shows, and what unrelated images keep", _INK, _font(44))
    caption = "The lower, the less of the concept; the further right, the less unrelated images change."
    draw.text((left, 88), caption, _SOFT, _font(28))
    for percent in range(0, 101, 20):
        draw.line((left, y(percent / 100), width - right, y(percent / 100)), _RULE, width=2)
        draw.text((left - 20, y(percent / 100)), f"{percent} %", _SOFT, _font(26), anchor="rm")
    for decibel in range(lowest, int(PSNR_CAP) + 1, 5):
        draw.line((x(decibel), y(0), x(decibel), y(0) + 12), _SOFT, width=2)
        draw.text((x(decibel), y(0) + 22), str(decibel), _SOFT, _font(26), anchor="mt")
    caption = f"PSNR of unrelated images against no erasure, dB ({PSNR_CAP:g}: unchanged)"
    draw.text(((left + width - right) / 2, height - 50), caption, _SOFT, _font(28), anchor="mm")
    taken: list[_Box] = []
    for mark in marks:
        at, rate = x(mark["psnr_unrelated"]), mark["shows"]
        draw.line((at, y(rate["low"]), at, y(rate["high"])), _SPREAD, width=4)
        taken.append((at - 12, y(rate["rate"]) - 12, at + 12, y(rate["rate"]) + 12))
    for mark in marks:
        colour = _ACCENT if mark["method"].startswith("eiup") else _OTHER
        at, height_of = x(mark["psnr_unrelated"]), y(mark["shows"]["rate"])
        draw.ellipse((at - 11, height_of - 11, at + 11, height_of + 11), colour)
        taken.append(_place(draw.textlength(mark["method"], _font(28)), at, height_of, taken, width))
        box = taken[-1]
        draw.text((box[0], (box[1] + box[3]) / 2), mark["method"], colour, _font(28), anchor="lm")
    return image.resize((width // 2, height // 2), Image.Resampling.LANCZOS)


def _place(wide: float, x: float, y: float, taken: Sequence[_Box], width: int) -> _Box:
    """A box for a mark's name that touches no other: beside the mark, or a little above or below."""
    boxes = [
        (x0, y - 16 + shift, x0 + wide, y + 16 + shift)
        for shift in (0, -36, 36, -72, 72, -108, 108)
        for x0 in (x + 20, x - 20 - wide)
        if x0 >= 0 and x0 + wide < width
    ]
    for box in boxes:
        if not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
            return box
    return boxes[0]


def draw_sheet(
    concept: str, results: Mapping[str, Results], groups: Mapping[str, Sequence[BenchCase]]
) -> Image.Image:
    """A row a method, the first cases of each group across; a frame says that the concept shows."""
    tile, gap, margin, label, top = 128, 6, 24, 170, 96
    columns = [(group, case) for group, cases in groups.items() for case in cases[:_COLUMNS]]
    width = margin * 2 + label + len(columns) * (tile + gap)
    image = Image.new("RGB", (width, top + len(results) * (tile + gap) + margin), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((margin, 16), concept, _ACCENT, _font(24))
    lefts = [margin + label + index * (tile + gap) for index in range(len(columns))]
    seen: set[str] = set()
    for (group, case), left in zip(columns, lefts):
        if group not in seen:
            draw.text((left, 22), group, _INK, _font(16))
        seen.add(group)
        for line, text in enumerate(_wrap(draw, case.prompt, tile)):
            draw.text((left, 50 + 14 * line), text, _SOFT, _font(11))
    for row, (name, stored) in enumerate(results.items()):
        y = top + row * (tile + gap)
        draw.text((margin, y + tile / 2), name, _INK, _font(16), anchor="lm")
        for (_, case), left in zip(columns, lefts):
            result = stored[case]
            with Image.open(result.image) as picture:
                image.paste(picture.convert("RGB").resize((tile, tile)), (left, y))
            if result.judgement.shows(concept):
                draw.rectangle((left, y, left + tile - 1, y + tile - 1), outline=_ACCENT, width=3)
    return image


def _wrap(draw: ImageDraw.ImageDraw, text: str, width: int, lines: int = 3) -> list[str]:
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if found[-1] and draw.textlength(longer, font=_font(11)) > width:
            found.append(word)
        else:
            found[-1] = longer
    return found[:lines]
