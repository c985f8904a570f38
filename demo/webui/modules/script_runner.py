"""Runs the scripts of one tab: creates their components, then calls them in the course of a generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from modules import errors, scripts
from modules.scripts import AlwaysVisible, OnComponent, Script


def _guarded(call: Callable[[], Any], script: Script, what: str, default: Any = None) -> Any:
    try:
        return call()
    except Exception:
        errors.report(f"Error calling: {script.filename}/{what}", exc_info=True)
        return default


class ScriptRunner:
    def __init__(self):
        self.scripts: list[Script] = []
        self.selectable_scripts: list[Script] = []
        self.alwayson_scripts: list[Script] = []
        self.titles: list[str] = []
        self.title_map: dict[str, Script] = {}
        self.infotext_fields: list = []
        self.paste_field_names: list[str] = []
        self.inputs: list = [None]
        """Components of all scripts; the first is the list of selectable scripts."""
        self.on_before_component_elem_id: dict[str, list] = {}
        self.on_after_component_elem_id: dict[str, list] = {}

    # ---- creation -------------------------------------------------------------------------

    def initialize_scripts(self, is_img2img: bool) -> None:
        """Make one instance of each loaded script class."""
        for existing in (self.scripts, self.selectable_scripts, self.alwayson_scripts):
            existing.clear()
        for data in scripts.scripts_data:
            try:
                script = data.script_class()
            except Exception:
                errors.report(f"Error # failed to initialize Script {data.module}: ", exc_info=True)
                continue
            script.filename = data.path
            script.is_txt2img = not is_img2img
            script.is_img2img = is_img2img
            script.tabname = "img2img" if is_img2img else "txt2img"
            shown = script.show(is_img2img)
            if not shown:
                continue
            script.alwayson = shown is AlwaysVisible
            self.scripts.append(script)
            (self.alwayson_scripts if script.alwayson else self.selectable_scripts).append(script)
        self.apply_on_before_component_callbacks()

    def apply_on_before_component_callbacks(self) -> None:
        """Take over what scripts asked for with on_before_component and on_after_component."""
        for script in self.scripts:
            for asked, known in (
                (script.on_before_component_elem_id, self.on_before_component_elem_id),
                (script.on_after_component_elem_id, self.on_after_component_elem_id),
            ):
                for elem_id, callback in asked or []:
                    known.setdefault(elem_id, []).append((callback, script))
            script.on_before_component_elem_id = script.on_after_component_elem_id = None

    def prepare_ui(self) -> None:
        self.inputs = [None]

    def create_script_ui(self, script: Script) -> None:
        script.args_from = script.args_to = len(self.inputs)
        try:
            self._create_controls(script)
        except Exception:
            errors.report(f"Error creating UI for {script.name}: ", exc_info=True)

    def _create_controls(self, script: Script) -> None:
        from modules.api.models import describe_script

        controls = _guarded(lambda: script.ui(script.is_img2img), script, "ui")
        script.controls = controls
        if controls is None:
            return
        script.name = _guarded(script.title, script, "title", default=script.filename).lower()
        script.api_info = describe_script(script, controls)
        self.infotext_fields += script.infotext_fields or []
        self.paste_field_names += script.paste_field_names or []
        self.inputs += controls
        script.args_to = len(self.inputs)

    def setup_ui_for_section(self, section: str | None, scriptlist: list[Script] | None = None) -> None:
        """Create the components of the always visible scripts of a section, or of the given scripts."""
        for script in self.alwayson_scripts if scriptlist is None else scriptlist:
            if script.alwayson and script.section != section:
                continue
            if script.create_group:
                with gr.Group(visible=script.alwayson) as script.group:
                    self.create_script_ui(script)
            else:
                self.create_script_ui(script)

    def setup_ui(self) -> list:
        """Create what belongs to no section, and the list of selectable scripts; returns all components."""
        for script in self.scripts:
            title = _guarded(script.title, script, "title", default=script.filename)
            self.title_map[title.lower()] = script
        self.titles = [
            _guarded(script.title, script, "title", default=f"{script.filename} [error]")
            for script in self.selectable_scripts
        ]
        self.setup_ui_for_section(None)
        choice = gr.Dropdown(
            label="Script", elem_id="script_list", choices=["None", *self.titles], value="None", type="index"
        )
        self.inputs[0] = choice
        self.setup_ui_for_section(None, self.selectable_scripts)
        if self.selectable_scripts:
            groups = [script.group for script in self.selectable_scripts]

            def show(chosen: int):
                shown = [gr.update(visible=chosen == number) for number in range(1, len(groups) + 1)]
                # gradio takes a list for a single output's value.
                return shown if len(shown) > 1 else shown[0]

            choice.change(show, inputs=[choice], outputs=groups)
        self.infotext_fields.append((choice, lambda params: gr.update(value=params.get("Script", "None"))))
        self.apply_on_before_component_callbacks()
        return self.inputs

    # ---- lookup ---------------------------------------------------------------------------

    def script(self, title: str) -> Script | None:
        return self.title_map.get(title.lower())

    def ordered_scripts(self, method_name: str) -> list[Script]:
        """The scripts that override a method: all of them for components, else the always visible ones."""
        candidates = self.scripts if method_name.endswith("_component") else self.alwayson_scripts
        return [
            s for s in candidates if getattr(type(s), method_name, None) is not getattr(Script, method_name)
        ]

    def set_named_arg(self, args, script_name: str, arg_elem_id: str, value: Any, fuzzy: bool = False):
        """``args`` with one component's argument replaced; ``RuntimeError`` where there is none."""
        script = next((found for found in self.scripts if found.name == script_name), None)
        if script is None:
            raise RuntimeError(f"script {script_name} not found")
        for index, control in enumerate(script.controls, start=script.args_from):
            if arg_elem_id == control.elem_id or (fuzzy and arg_elem_id in (control.elem_id or "")):
                changed = list(args)
                changed[index] = value
                return type(args)(changed)
        raise RuntimeError(f"arg_elem_id {arg_elem_id} not found in script {script_name}")

    # ---- running --------------------------------------------------------------------------

    def run(self, p, *args):
        """Run the script chosen from the list; None when none is."""
        if not args or not args[0]:
            return None
        script = self.selectable_scripts[args[0] - 1]
        return script.run(p, *args[script.args_from : script.args_to])

    def _call(
        self, method_name: str, p, *extra: Any, only: Callable[[Script], bool] | None = None, **kwargs: Any
    ):
        """Call ``script.method(p, *extra, *own arguments, **kwargs)`` per script, reporting what fails."""
        for script in self.ordered_scripts(method_name):
            if only is not None and not only(script):
                continue
            try:
                own = p.script_args[script.args_from : script.args_to]
                getattr(script, method_name)(p, *extra, *own, **kwargs)
            except Exception:
                errors.report(f"Error running {method_name}: {script.filename}", exc_info=True)

    def setup_scrips(self, p, *, is_ui: bool = True) -> None:
        """``setup``, under the host's misspelt name."""
        self._call("setup", p, only=lambda script: is_ui or not script.setup_for_ui_only)

    def before_process(self, p) -> None:
        self._call("before_process", p)

    def process(self, p) -> None:
        self._call("process", p)

    def before_process_batch(self, p, **kwargs) -> None:
        self._call("before_process_batch", p, **kwargs)

    def after_extra_networks_activate(self, p, **kwargs) -> None:
        self._call("after_extra_networks_activate", p, **kwargs)

    def process_batch(self, p, **kwargs) -> None:
        self._call("process_batch", p, **kwargs)

    def process_before_every_sampling(self, p, **kwargs) -> None:
        self._call("process_before_every_sampling", p, **kwargs)

    def before_hr(self, p) -> None:
        self._call("before_hr", p)

    def on_mask_blend(self, p, mba) -> None:
        self._call("on_mask_blend", p, mba)

    def post_sample(self, p, ps) -> None:
        self._call("post_sample", p, ps)

    def postprocess_batch(self, p, images, **kwargs) -> None:
        self._call("postprocess_batch", p, images=images, **kwargs)

    def postprocess_batch_list(self, p, pp, **kwargs) -> None:
        self._call("postprocess_batch_list", p, pp, **kwargs)

    def postprocess_image(self, p, pp) -> None:
        self._call("postprocess_image", p, pp)

    def postprocess_maskoverlay(self, p, ppmo) -> None:
        self._call("postprocess_maskoverlay", p, ppmo)

    def postprocess_image_after_composite(self, p, pp) -> None:
        self._call("postprocess_image_after_composite", p, pp)

    def postprocess(self, p, processed) -> None:
        self._call("postprocess", p, processed)

    # ---- components -----------------------------------------------------------------------

    def _announce(self, when: str, listeners: list, component, **kwargs: Any) -> None:
        for callback, script in listeners:
            try:
                callback(OnComponent(component=component))
            except Exception:
                errors.report(f"Error running on_{when}_component: {script.filename}", exc_info=True)
        for script in self.ordered_scripts(f"{when}_component"):
            try:
                getattr(script, f"{when}_component")(component, **kwargs)
            except Exception:
                errors.report(f"Error running {when}_component: {script.filename}", exc_info=True)

    def before_component(self, component, **kwargs) -> None:
        self._announce(
            "before", self.on_before_component_elem_id.get(kwargs.get("elem_id"), []), component, **kwargs
        )

    def after_component(self, component, **kwargs) -> None:
        self._announce(
            "after", self.on_after_component_elem_id.get(component.elem_id, []), component, **kwargs
        )
