"""Components that fit into gradio's forms, under the host's names."""

from __future__ import annotations

import itertools

import gradio as gr


class FormComponent:
    """Mixed into a component, lets it stand in a form without a gap around it."""

    def get_expected_parent(self):
        return gr.components.Form


gr.Dropdown.get_expected_parent = FormComponent.get_expected_parent


class ToolButton(FormComponent, gr.Button):
    """A small button with a symbol."""

    def __init__(self, *args, elem_classes: list[str] | str = (), **kwargs):
        further = [elem_classes] if isinstance(elem_classes, str) else elem_classes
        super().__init__(*args, elem_classes=["tool", *further], **kwargs)

    def get_block_name(self) -> str:
        return "button"


class ResizeHandleRow(gr.Row):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.elem_classes.append("resize-handle-row")

    def get_block_name(self) -> str:
        return "row"


class FormRow(FormComponent, gr.Row):
    def get_block_name(self) -> str:
        return "row"


class FormColumn(FormComponent, gr.Column):
    def get_block_name(self) -> str:
        return "column"


class FormGroup(FormComponent, gr.Group):
    def get_block_name(self) -> str:
        return "group"


class FormHTML(FormComponent, gr.HTML):
    def get_block_name(self) -> str:
        return "html"


class FormColorPicker(FormComponent, gr.ColorPicker):
    def get_block_name(self) -> str:
        return "colorpicker"


class DropdownMulti(FormComponent, gr.Dropdown):
    def __init__(self, **kwargs):
        super().__init__(multiselect=True, **kwargs)

    def get_block_name(self) -> str:
        return "dropdown"


class DropdownEditable(FormComponent, gr.Dropdown):
    def __init__(self, **kwargs):
        super().__init__(allow_custom_value=True, **kwargs)

    def get_block_name(self) -> str:
        return "dropdown"


class InputAccordion(gr.Checkbox):
    """An accordion with a checkbox in its header, whose value is the component's.

    It is an invisible checkbox beside a gr.Accordion; the page's script ties the two together. Use as a
    context manager for the accordion's content.
    """

    _numbers = itertools.count()

    def __init__(self, value: bool, **kwargs):
        self.accordion_id = kwargs.get("elem_id") or f"input-accordion-{next(self._numbers)}"
        super().__init__(value, **kwargs | {"elem_id": f"{self.accordion_id}-checkbox", "visible": False})
        self.change(
            fn=None,
            _js=f'(checked) => {{ inputAccordionChecked("{self.accordion_id}", checked); }}',
            inputs=[self],
        )
        self.accordion = gr.Accordion(
            **{"label": "Accordion"} | kwargs | {"elem_id": self.accordion_id},
            elem_classes=["input-accordion"], open=value,
        )  # fmt: skip

    def extra(self) -> gr.Column:
        """A place in the header, behind the label."""
        return gr.Column(
            elem_id=f"{self.accordion_id}-extra", elem_classes="input-accordion-extra", min_width=0
        )

    def __enter__(self) -> InputAccordion:
        self.accordion.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.accordion.__exit__(*error)

    def get_block_name(self) -> str:
        return "checkbox"
