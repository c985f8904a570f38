"""Settings: values, their defaults and labels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modules import errors


class OptionInfo:
    """One setting: its default, label, component in the page and label in the infotext."""

    def __init__(
        self, default: Any = None, label: str = "", component: Any = None, component_args: Any = None,
        onchange: Callable[[], Any] | None = None, section: tuple | None = None,
        refresh: Callable | None = None, comment_before: str = "", comment_after: str = "",
        infotext: str | None = None, restrict_api: bool = False, category_id: str | None = None,
    ):  # fmt: skip
        self.default = default
        self.label = label
        self.component = component
        self.component_args = component_args
        self.onchange = onchange
        self.section = section
        self.refresh = refresh
        self.comment_before = comment_before
        self.comment_after = comment_after
        self.infotext = infotext
        self.restrict_api = restrict_api
        self.category_id = category_id
        self.do_not_save = False

    def link(self, label: str, url: str) -> OptionInfo:
        self.comment_before += f'[<a href="{url}" target="_blank">{label}</a>]'
        return self

    def js(self, label: str, js_func: str) -> OptionInfo:
        self.comment_before += f'[<a onclick="{js_func}(); return false">{label}</a>]'
        return self

    def info(self, info: str) -> OptionInfo:
        return self.html(f'<span class="info">({info})</span>')

    def html(self, html: str) -> OptionInfo:
        self.comment_after += html
        return self

    def needs_restart(self) -> OptionInfo:
        return self.info("requires restart")

    def needs_reload_ui(self) -> OptionInfo:
        return self.info("requires Reload UI")


class OptionHTML(OptionInfo):
    """A piece of text among the settings; it has no value."""

    def __init__(self, text: str):
        super().__init__(default=text.strip())
        self.do_not_save = True


def options_section(section_identifier: tuple, options_dict: dict[str, OptionInfo]) -> dict[str, OptionInfo]:
    """Mark the options as members of a section ``(id, label)`` or ``(id, label, category)``."""
    for info in options_dict.values():
        info.section = tuple(section_identifier[:2])
        if len(section_identifier) > 2:
            info.category_id = section_identifier[2]
    return options_dict


class Options:
    """Attribute access to the settings' current values (``data``), falling back to the defaults."""

    typemap = {int: float}

    def __init__(self, data_labels: dict[str, OptionInfo], restricted_opts: set[str]):
        own = {
            "data_labels": data_labels,
            "data": {key: info.default for key, info in data_labels.items() if not info.do_not_save},
            "restricted_opts": restricted_opts,
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, key: str) -> Any:
        values = object.__getattribute__(self, "data")
        if key in values:
            return values[key]
        labels = object.__getattribute__(self, "data_labels")
        if key in labels:
            return labels[key].default
        raise AttributeError(f"no setting is called {key!r}")

    def __setattr__(self, key: str, value: Any) -> None:
        if key in ("data", "data_labels", "restricted_opts"):
            object.__setattr__(self, key, value)
        elif key in self.data_labels:
            if not self.data_labels[key].do_not_save:
                self.data[key] = value
        elif key in self.data:
            self.data[key] = value
        else:
            object.__setattr__(self, key, value)

    def set(self, key: str, value: Any, is_api: bool = False, run_callbacks: bool = True) -> bool:
        """Change a setting and run its ``onchange``; returns whether it changed.

        Raises ``KeyError`` for a setting that does not exist. When ``onchange`` fails, the old
        value is put back.
        """
        before = self.data.get(key)
        if before == value:
            return False
        info = self.data_labels[key]
        if info.do_not_save or (is_api and info.restrict_api):
            return False
        setattr(self, key, value)
        if run_callbacks and info.onchange is not None:
            try:
                info.onchange()
            except Exception as error:
                errors.display(error, f"changing setting {key} to {value}")
                setattr(self, key, before)
                return False
        return True

    def get_default(self, key: str) -> Any:
        info = self.data_labels.get(key)
        return info.default if info else None

    def onchange(self, key: str, func: Callable[[], Any], call: bool = True) -> None:
        """Register what to run after the setting changed."""
        self.data_labels[key].onchange = func
        if call:
            func()

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.data_labels[key] = info
        if not info.do_not_save:
            self.data.setdefault(key, info.default)

    def cast_value(self, key: str, value: Any) -> Any:
        """A value read from text, in the type of this setting's default."""
        default = self.data_labels[key].default
        example = default if default is not None else getattr(self, key, None)
        if value is None or example is None:
            return None
        if isinstance(example, bool) and value == "False":
            return False
        return type(example)(value)

    def load(self, filename: str) -> None:
        """Read saved settings; a file that cannot be read is reported and left where it is."""
        if not os.path.exists(filename):
            return
        try:
            with open(filename, encoding="utf8") as file:
                self.data.update(json.load(file))
        except Exception:
            errors.report(f"Could not read the settings in {filename}; using the defaults", exc_info=True)

    def save(self, filename: str) -> None:
        os.makedirs(os.path.dirname(filename), exist_ok=True)
        with open(filename, "w", encoding="utf8") as file:
            json.dump(self.data, file, indent=4, ensure_ascii=False)

    def dumpjson(self) -> str:
        """The settings for the page's ``opts``."""
        return json.dumps({key: self.data.get(key, info.default) for key, info in self.data_labels.items()})


@dataclass
class OptionsCategory:
    id: str
    label: str


class OptionsCategories:
    def __init__(self):
        self.mapping: dict[str, OptionsCategory] = {}

    def register_category(self, category_id: str, label: str) -> str:
        self.mapping.setdefault(category_id, OptionsCategory(category_id, label))
        return category_id


categories = OptionsCategories()
