"""The API's ``infotext``: a request's fields read from an infotext."""

from __future__ import annotations

from typing import Any

from modules import infotext_utils


def _value(field: infotext_utils.PasteField, params: dict[str, Any], fields_of_request: dict) -> Any:
    """What a field takes from the infotext, in the type of the request's field or of its component."""
    value = field.function(params) if field.function else params.get(field.label)
    if value is None:
        return None
    in_request = fields_of_request.get(field.api)
    kind = in_request.type_ if in_request is not None else type(field.component.value)
    if kind is type(None):
        return None
    if isinstance(value, dict) and value.get("__type__") == "generic_update":
        value = value.get("value")
    return value if value is None or isinstance(value, kind) else kind(value)


def apply_infotext(request, tabname: str, runner) -> dict[int, Any]:
    """Fill the fields that the request leaves out; returns script arguments by index.

    Settings that the infotext wants other than they are go into ``override_settings``.
    """
    if not request.infotext:
        return {}
    fields = infotext_utils.paste_fields[tabname]["fields"]
    given = request.dict(exclude_unset=True)
    params = infotext_utils.parse_generation_parameters(request.infotext)
    for field in fields:
        if field.api and field.api not in given:
            value = _value(field, params, request.__fields__)
            if value is not None:
                setattr(request, field.api, value)
    overrides = {key: value for _, key, value in infotext_utils.get_override_settings(params)}
    request.override_settings = overrides | (request.override_settings or {})
    indices = {id(component): index for index, component in enumerate(runner.inputs)}
    script_args = {}
    for field in fields:
        if id(field.component) in indices:
            value = _value(field, params, request.__fields__)
            if value is not None:
                script_args[indices[id(field.component)]] = value
    return script_args
