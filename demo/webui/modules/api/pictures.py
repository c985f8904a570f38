"""Images as base64."""

from __future__ import annotations

import base64
import io

from fastapi import HTTPException
from PIL import Image

from modules import images
from modules.shared import opts


def decode_base64_to_image(encoding: str) -> Image.Image:
    """An image from base64 or a data URI; 500 with an explanation otherwise, as in the host."""
    if encoding.startswith(("http://", "https://")):
        raise HTTPException(status_code=500, detail="Requests not allowed")
    try:
        return images.read(io.BytesIO(base64.b64decode(encoding.rpartition(",")[2])))
    except Exception as error:
        raise HTTPException(status_code=500, detail="Invalid encoded image") from error


def encode_pil_to_base64(image: Image.Image) -> str:
    """In the format of the settings, with the infotext in its metadata."""
    kind = opts.samples_format.lower()
    buffer = io.BytesIO()
    if kind == "png":
        image.save(buffer, format="PNG", pnginfo=images.png_info(image.info))
    elif kind in ("jpg", "jpeg", "webp"):
        exif = images.exif(image.info.get("parameters"))
        image.convert("RGB").save(buffer, format="WEBP" if kind == "webp" else "JPEG", exif=exif)
    else:
        raise HTTPException(status_code=500, detail="Invalid image format")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
