"""X/Y/Z plot: images for all combinations of the values of up to three axes.

Extensions add to ``axis_options``; names, the order of arguments and the order of what is returned are the
host's.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from copy import copy
from io import StringIO
from itertools import chain, product
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw

from modules import errors, images, processing, scripts
from modules.processing import Processed
from modules.shared import opts, state

LEGEND = 20
"""Pixels of a line of the legend."""
_NUMBER = r"([+-]?\d+(?:\.\d*)?)"
_RANGE = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}(?:\s*\(([+-]\d+(?:\.\d*)?)\s*\))?\s*")
_COUNTED_RANGE = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*\[(\d+)\s*\]\s*")


def apply_field(field: str) -> Callable[[Any, Any, Sequence[Any]], None]:
    return lambda p, x, xs: setattr(p, field, x)


def apply_prompt(p: Any, x: str, xs: Sequence[str]) -> None:
    """Put ``x`` in the place of the first value."""
    if xs[0] not in p.prompt and xs[0] not in p.negative_prompt:
        raise RuntimeError(f"Prompt S/R did not find {xs[0]} in prompt or negative prompt.")
    p.prompt = p.prompt.replace(xs[0], x)
    p.negative_prompt = p.negative_prompt.replace(xs[0], x)


def do_nothing(p: Any, x: Any, xs: Sequence[Any]) -> None: ...


def format_value_add_label(p: Any, opt: AxisOption, x: Any) -> str:
    return f"{opt.label}: {round(x, 8) if isinstance(x, float) else x}"


def format_nothing(p: Any, opt: AxisOption, x: Any) -> str:
    return ""


class AxisOption:
    """``type`` makes a value of a text, ``confirm(p, values)`` raises for wrong ones before anything is
    generated, ``apply(p, value, values)`` sets one on the copy of ``p`` that makes an image."""

    def __init__(
        self, label: str, type: Callable, apply: Callable, format_value: Callable = format_value_add_label,
        confirm: Callable | None = None, cost: float = 0.0, choices: Callable | None = None,
        prepare: Callable | None = None,
    ):  # fmt: skip
        self.label, self.type, self.apply, self.format_value = label, type, apply, format_value
        self.confirm, self.cost, self.choices, self.prepare = confirm, cost, choices, prepare


axis_options = [
    AxisOption("Nothing", str, do_nothing, format_value=format_nothing),
    AxisOption("Seed", int, apply_field("seed")),
    AxisOption("Steps", int, apply_field("steps")),
    AxisOption("CFG Scale", float, apply_field("cfg_scale")),
    AxisOption("Prompt S/R", str, apply_prompt),
]


def csv_string_to_list_strip(data_str: str) -> list[str]:
    return [
        text.strip() for text in chain.from_iterable(csv.reader(StringIO(data_str), skipinitialspace=True))
    ]


def _numbers(text: str, kind: type) -> list[Any]:
    """The number, or those of a range such as ``1-3``, ``1-3 (+0.5)`` or ``0-2 [5]``."""
    if counted := _COUNTED_RANGE.fullmatch(text):
        start, end, count = counted.groups()
        return [kind(x) for x in np.linspace(float(start), float(end), int(count)).tolist()]
    if ranged := _RANGE.fullmatch(text):
        start, end, step = float(ranged[1]), float(ranged[2]), float(ranged[3] or 1)
        return [kind(x) for x in np.arange(start, end + step / 2, step).tolist()]
    return [kind(text)]


def _axis_values(p: Any, option: AxisOption, text: str, chosen: list[str], csv_mode: bool) -> list[Any]:
    if option.label == "Nothing":
        return [0]
    if option.choices is not None and not csv_mode:
        texts = chosen
    else:
        texts = option.prepare(text) if option.prepare else csv_string_to_list_strip(text)
    if option.type in (int, float):
        values = [x for entry in texts if entry.strip() for x in _numbers(entry, option.type)]
    else:
        values = [option.type(entry) for entry in texts]
    if option.confirm:
        option.confirm(p, values)
    return values


def _with_legend(grid: Image.Image, top: list[str], left: list[str], margin: int) -> Image.Image:
    """The grid with a line of text over each column and in the corner of each row."""
    result = Image.new("RGB", (grid.width + margin, grid.height + LEGEND + margin), "white")
    result.paste(grid, (0, LEGEND))
    draw = ImageDraw.Draw(result)
    for n, text in enumerate(top):
        draw.text((n * grid.width // len(top) + 2, 2), text, fill="black")
    for n, text in enumerate(left):
        draw.text((2, LEGEND + n * grid.height // len(left) + 2), text, fill="white", stroke_fill="black",
                  stroke_width=2)  # fmt: skip
    return result


class Script(scripts.Script):
    def title(self) -> str:
        return "X/Y/Z plot"

    def ui(self, is_img2img: bool) -> list[Any]:
        self.current_axis_options = list(axis_options)
        axes = [component for name in "xyz" for component in self._axis(name)]
        with gr.Row():
            draw_legend = self._checkbox("Draw legend", "draw_legend", True)
            lone_images = self._checkbox("Include Sub Images", "include_lone_images")
            sub_grids = self._checkbox("Include Sub Grids", "include_sub_grids")
            no_fixed_seeds = self._checkbox("Keep -1 for seeds", "no_fixed_seeds")
        with gr.Row():
            vary = [self._checkbox(f"Vary seeds for {name.upper()}", f"vary_seeds_{name}") for name in "xyz"]
        margin = gr.Slider(0, 500, 0, step=2, label="Grid margins (px)", elem_id=self.elem_id("margin_size"))
        csv_mode = self._checkbox("Use text inputs instead of dropdowns", "csv_mode")
        return [*axes, draw_legend, lone_images, sub_grids, no_fixed_seeds, *vary, margin, csv_mode]

    def _checkbox(self, label: str, item: str, value: bool = False) -> gr.Checkbox:
        return gr.Checkbox(value, label=label, elem_id=self.elem_id(item))

    def _axis(self, name: str) -> tuple[gr.Dropdown, gr.Textbox, gr.Dropdown]:
        labels = [option.label for option in self.current_axis_options]
        title = name.upper()
        with gr.Row():
            axis = gr.Dropdown(
                label=f"{title} type", choices=labels, value=labels[name == "x"], type="index",
                elem_id=self.elem_id(f"{name}_type"),
            )  # fmt: skip
            text = gr.Textbox(label=f"{title} values", lines=1, elem_id=self.elem_id(f"{name}_values"))
            chosen = gr.Dropdown(label=f"{title} values", visible=False, multiselect=True, interactive=True)

        def show_choices(index: int | None) -> tuple[dict, dict]:
            choices = self.current_axis_options[index or 0].choices
            return gr.update(visible=choices is None), gr.update(
                visible=choices is not None, choices=choices() if choices else [], value=[]
            )

        axis.change(show_choices, [axis], [text, chosen])
        return axis, text, chosen

    def run(
        self, p, x_type, x_values, x_chosen, y_type, y_values, y_chosen, z_type, z_values, z_chosen,
        draw_legend, include_lone_images, include_sub_grids, no_fixed_seeds, vary_x, vary_y, vary_z,
        margin_size, csv_mode,
    ) -> Processed:  # fmt: skip
        if not no_fixed_seeds:
            processing.fix_seed(p)
        given = (x_type, x_values, x_chosen), (y_type, y_values, y_chosen), (z_type, z_values, z_chosen)
        options = [self.current_axis_options[index or 0] for index, _, _ in given]
        axes = [
            _axis_values(p, option, text, chosen, csv_mode)
            for option, (_, text, chosen) in zip(options, given)
        ]
        sizes = [len(values) for values in axes]
        x_seeds = sizes[0] if vary_x else 1
        y_seeds = sizes[1] if vary_y else 1
        seed_steps = int(vary_x), vary_y * x_seeds, vary_z * x_seeds * y_seeds
        state.job_count = int(np.prod(sizes)) * p.n_iter

        cells = []
        for iz, iy, ix in product(*(range(size) for size in reversed(sizes))):
            pc = copy(p)
            pc.styles = pc.styles[:]
            for option, values, index in zip(options, axes, (ix, iy, iz)):
                option.apply(pc, values[index], values)
            pc.seed += sum(step * index for step, index in zip(seed_steps, (ix, iy, iz)))
            cells.append(self._cell(pc))

        made = [cell for cell in cells if cell.images]
        if not made:
            return Processed(p, [])
        legends = [
            [option.format_value(p, option, value) for value in values]
            for option, values in zip(options, axes)
        ]
        return self._grids(
            p, cells, made[0], sizes, legends if draw_legend else None, int(margin_size),
            include_sub_grids, include_lone_images,
        )  # fmt: skip

    @staticmethod
    def _cell(p: Any) -> Processed:
        """One image; empty where it failed, or where the user has stopped."""
        if not (state.interrupted or state.stopping_generation):
            try:
                return processing.process_images(p)
            except Exception as error:
                errors.display(error, "generating image for xyz plot")
        return Processed(p, [])

    @staticmethod
    def _grids(p, cells, example, sizes, legends, margin, include_sub_grids, include_lone_images):
        """All grids side by side, then each of them, then the images."""
        blank = Image.new("RGB", example.images[0].size)
        pictures = [cell.images[0] if cell.images else blank for cell in cells]
        texts = [cell.infotexts[0] if cell.images else "" for cell in cells]
        per_grid = sizes[0] * sizes[1]
        grids = []
        for start in range(0, len(pictures), per_grid):
            grid = images.image_grid(pictures[start : start + per_grid], rows=sizes[1])
            grids.append(_with_legend(grid, legends[0], legends[1], margin) if legends else grid)
        main = images.image_grid(grids, rows=1)
        if legends and sizes[2] > 1:
            main = _with_legend(main, legends[2], [], 0)
        grid_text = example.infotexts[0]
        shown, infotexts = [main], [grid_text]
        if include_sub_grids:
            shown, infotexts = shown + grids, infotexts + [grid_text] * len(grids)
        if include_lone_images:
            shown, infotexts = shown + pictures, infotexts + texts
        if opts.grid_save:
            images.save_image(
                main, p.outpath_grids, "xyz_grid", p.seed, p.prompt, opts.grid_format, info=grid_text, p=p,
                grid=True,
            )  # fmt: skip
        return Processed(
            p, shown, seed=p.seed, info=grid_text, infotexts=infotexts, index_of_first_image=1,
            all_prompts=example.all_prompts, all_negative_prompts=example.all_negative_prompts,
            all_seeds=example.all_seeds, all_subseeds=example.all_subseeds,
        )  # fmt: skip
