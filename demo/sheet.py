"""Draws the contact sheet: a panel per concept, prompts down, without and with the extension across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_INK, _SOFT, _RULE, _PAPER = (28, 30, 36), (104, 108, 118), (222, 224, 230), (255, 255, 255)
_ACCENT = (176, 38, 62)
_MARGIN, _PANEL_GAP, _PAIR_GAP, _TILE = 36, 40, 6, 128
_CAPTION_SIZE, _CAPTION_LINES, _ROW_GAP = 15, 2, 12


@dataclass(frozen=True)
class Pair:
    """One prompt's image without and with the extension."""

    prompt: str
    without: Image.Image
    with_: Image.Image


@dataclass(frozen=True)
class Panel:
    """One concept's pairs by group; every panel of a sheet has the same groups of the same length."""

    title: str
    subtitle: str
    groups: dict[str, Sequence[Pair]]


def draw_sheet(title: str, subtitle: str, headings: dict[str, str], panels: Sequence[Panel]) -> Image.Image:
    """The sheet as an RGB image. ``headings`` gives each group's heading, in the order of drawing."""
    panel_width = 2 * _TILE + _PAIR_GAP
    width = 2 * _MARGIN + len(panels) * panel_width + (len(panels) - 1) * _PANEL_GAP
    row_height = _TILE + 6 + _CAPTION_LINES * (_CAPTION_SIZE + 3) + _ROW_GAP
    rows = {
        group: max((len(panel.groups.get(group, ())) for panel in panels), default=0) for group in headings
    }
    headed = [group for group in headings if rows[group]]
    top = _MARGIN + 128
    height = top + sum(42 + rows[group] * row_height for group in headed) + _MARGIN - _ROW_GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [_MARGIN + index * (panel_width + _PANEL_GAP) for index in range(len(panels))]

    draw.text((_MARGIN, _MARGIN - 10), title, fill=_INK, font=_font(28))
    draw.text((_MARGIN, _MARGIN + 28), subtitle, fill=_SOFT, font=_font(16))
    for left, panel in zip(lefts, panels, strict=True):
        draw.text((left, _MARGIN + 66), panel.title, fill=_ACCENT, font=_font(22))
        after = left + draw.textlength(panel.title, font=_font(22)) + 10
        draw.text((after, _MARGIN + 72), panel.subtitle, fill=_SOFT, font=_font(15))
        for offset, label in ((0, "without"), (_TILE + _PAIR_GAP, "with EIUP")):
            centre = left + offset + _TILE / 2
            draw.text((centre, _MARGIN + 110), label, fill=_INK, font=_font(15), anchor="mm")

    y = top
    for group in headed:
        draw.line((_MARGIN, y + 4, width - _MARGIN, y + 4), fill=_RULE, width=1)
        draw.text((_MARGIN, y + 13), headings[group], fill=_SOFT, font=_font(16))
        y += 42
        for row in range(rows[group]):
            for left, panel in zip(lefts, panels, strict=True):
                pairs = panel.groups.get(group, ())
                if row < len(pairs):
                    _draw_pair(sheet, draw, left, y, pairs[row])
            y += row_height
    return sheet


def _draw_pair(sheet: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, pair: Pair) -> None:
    for offset, image in ((0, pair.without), (_TILE + _PAIR_GAP, pair.with_)):
        sheet.paste(
            image.convert("RGB").resize((_TILE, _TILE), Image.Resampling.LANCZOS), (left + offset, top)
        )
    font = _font(_CAPTION_SIZE)
    for index, line in enumerate(_wrap(draw, pair.prompt, font, 2 * _TILE + _PAIR_GAP)):
        draw.text((left, top + _TILE + 5 + index * (_CAPTION_SIZE + 3)), line, fill=_INK, font=font)


def _wrap(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font=font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > _CAPTION_LINES:
        lines = [*lines[: _CAPTION_LINES - 1], lines[_CAPTION_LINES - 1] + " ..."]
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
