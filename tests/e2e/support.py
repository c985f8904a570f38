"""What the end-to-end tests share: a small scene to generate, and how images are compared."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from demo.host import Client, Generation

SCENE: dict[str, Any] = {
    "prompt": "a wizard in a forest",
    "negative_prompt": "",
    "seed": 7,
    "steps": 4,
    "width": 128,
    "height": 128,
    "cfg_scale": 5,
    "sampler_name": "Euler",
}
# The rounding of a batch differs from that of a single image.
ROUNDING = 2


def scene(**changes: Any) -> dict[str, Any]:
    """A payload of the API; 128x128 pixels and few steps, since most tests do not look at the picture."""
    return {**SCENE, **changes}


def erasing(*concepts: Any, **fields: Any) -> dict[str, Any]:
    """The part of a payload that switches erasure on, with named fields."""
    return with_args([{"concepts": list(concepts), **fields}])


def with_args(args: Any) -> dict[str, Any]:
    """The part of a payload that hands ``args`` to EIUP."""
    return {"alwayson_scripts": {"EIUP": {"args": args}}}


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(np.int16)


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two images in any pixel and colour, 0 to 255."""
    assert one.size == other.size
    return int(np.abs(pixels(one) - pixels(other)).max())


def same(one: Image.Image, other: Image.Image) -> bool:
    """Whether every pixel is the same. Files cannot be compared: they hold the infotext as well."""
    return difference(one, other) == 0


def changed(one: Image.Image, other: Image.Image) -> bool:
    """Whether two images differ by more than rounding does."""
    return difference(one, other) > ROUNDING


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


def post_raw(webui: Client, path: str, payload: Any) -> httpx.Response:
    """Post ``payload`` with NaN and Infinity written out, as Python's and JavaScript's own writers may do."""
    return webui.http.post(
        path, content=json.dumps(payload).encode(), headers={"Content-Type": "application/json"}
    )


def single_images(generate: Callable[..., Generation], count: int, **payload: Any) -> list[Image.Image]:
    """The images of a batch, each made in a request of its own."""
    return [generate(**{**payload, "seed": payload["seed"] + i}).images[0] for i in range(count)]


def second_checkpoint(first: Path, folder: Path) -> None:
    """A checkpoint that paints otherwise: the first one with the values of its text layers negated."""
    folder.mkdir()
    state = load_file(first)
    for name in state:
        if name.endswith("attn2.to_v.weight"):
            state[name] = -state[name]
    save_file(state, folder / "second.safetensors", metadata={"format": "pt"})
    shutil.copy(first.with_suffix(".yaml"), folder / "second.yaml")
    for clip in (path for path in first.parent.iterdir() if path.is_dir()):
        shutil.copytree(clip, folder / clip.name)
