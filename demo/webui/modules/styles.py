"""Prompt styles, read from ``styles.csv`` (columns name, prompt, negative_prompt)."""

from __future__ import annotations

import csv
import os
from typing import NamedTuple


class PromptStyle(NamedTuple):
    name: str
    prompt: str
    negative_prompt: str


def _merge(prompt: str, style: str) -> str:
    if "{prompt}" in style:
        return style.replace("{prompt}", prompt)
    return ", ".join(part for part in (prompt.strip(), style.strip()) if part) if style else prompt


class StyleDatabase:
    def __init__(self, path: str):
        self.path = path
        self.styles: dict[str, PromptStyle] = {}
        self.reload()

    def reload(self) -> None:
        self.styles.clear()
        if not os.path.exists(self.path):
            return
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                self.styles[row["name"]] = PromptStyle(row["name"], row["prompt"], row["negative_prompt"])

    def apply_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        for name in styles:
            if name in self.styles:
                prompt = _merge(prompt, self.styles[name].prompt)
        return prompt

    def apply_negative_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        for name in styles:
            if name in self.styles:
                prompt = _merge(prompt, self.styles[name].negative_prompt)
        return prompt
