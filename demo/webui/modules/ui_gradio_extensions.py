"""Puts the host's and the extensions' scripts and style sheets into gradio's page."""

from __future__ import annotations

import os

import gradio as gr

from modules import localization, scripts, shared, util
from modules.paths import script_path

_original_response = gr.routes.templates.TemplateResponse
# Gradio's page loads these from elsewhere; without a network they would only hold it up.
_FROM_ELSEWHERE = (
    b"https://fonts.gstatic.com",
    b"https://fonts.googleapis.com",
    b"https://cdnjs.cloudflare.com",
)


def webpath(fn: str) -> str:
    """The URL of a file, which changes when the file does."""
    return f"file={util.truncate_path(fn)}?{os.path.getmtime(fn)}"


def javascript_html() -> str:
    # script.js defines what the others call while they load.
    tags = [f'<script src="{webpath(os.path.join(script_path, "script.js"))}"></script>']
    tags += [
        f'<script{kind} src="{webpath(file.path)}"></script>'
        for ending, kind in ((".js", ""), (".mjs", ' type="module"'))
        for file in scripts.list_scripts("javascript", ending)
    ]
    if shared.cmd_opts.theme:
        tags.append(f'<script>set_theme("{shared.cmd_opts.theme}");</script>')
    return "\n".join(tags)


def css_html() -> str:
    return "\n".join(
        f'<link rel="stylesheet" property="stylesheet" href="{webpath(path)}">'
        for path in scripts.list_files_with_name("style.css")
    )


def _without_foreign_tags(body: bytes) -> bytes:
    """The page without links and scripts that lead to other hosts."""
    for address in _FROM_ELSEWHERE:
        while (at := body.find(address)) != -1:
            start = body.rfind(b"<", 0, at)
            end = body.index(b">", at) + 1
            if body.startswith(b"<script", start):
                end = body.index(b"</script>", start) + len(b"</script>")
            body = body[:start] + body[end:]
    return body


def reload_javascript() -> None:
    """From now on, pages get the scripts and style sheets as they are now."""
    js, css = javascript_html().encode(), css_html().encode()

    def template_response(*args, **kwargs):
        response = _original_response(*args, **kwargs)
        body = _without_foreign_tags(response.body)
        # Unlike the host's, a localization that is chosen holds from the next page on.
        translations = f"<script>{localization.localization_js(shared.opts.localization)}</script>".encode()
        body = body.replace(b"</head>", translations + js + b"</head>").replace(b"</body>", css + b"</body>")
        response.body = body
        response.init_headers()
        return response

    gr.routes.templates.TemplateResponse = template_response
