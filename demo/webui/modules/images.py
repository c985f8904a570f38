"""Images: resizing, grids, saving, and reading their infotext."""

from __future__ import annotations

import io
import math
import os
import threading

from PIL import Image, ImageFont, PngImagePlugin

from modules import script_callbacks
from modules.shared import opts

LANCZOS = Image.Resampling.LANCZOS
_numbering = threading.Lock()


def read(fp, **kwargs) -> Image.Image:
    """Open an image, with its metadata."""
    image = Image.open(fp, **kwargs)
    image.load()
    return image


def get_font(fontsize: int) -> ImageFont.FreeTypeFont:
    """The font for text in images."""
    return ImageFont.load_default(fontsize)


def fix_image(image: Image.Image | None) -> Image.Image | None:
    return image


def flatten(img: Image.Image, bgcolor: str) -> Image.Image:
    """RGB, with a colour where the image is transparent."""
    if img.mode != "RGBA":
        return img.convert("RGB")
    background = Image.new("RGBA", img.size, bgcolor)
    background.alpha_composite(img)
    return background.convert("RGB")


def resize_image(
    resize_mode: int, im: Image.Image, width: int, height: int, upscaler_name: str | None = None
) -> Image.Image:
    """0 stretches, 1 crops to the aspect ratio, 2 fits and fills the border with the nearest edge."""
    if resize_mode in (0, 3) or im.size == (width, height):
        return im.resize((width, height), LANCZOS)
    ratios = width / im.width, height / im.height
    ratio = max(ratios) if resize_mode == 1 else min(ratios)
    scaled = im.resize((max(1, round(im.width * ratio)), max(1, round(im.height * ratio))), LANCZOS)
    left, top = (width - scaled.width) // 2, (height - scaled.height) // 2
    if resize_mode == 1:
        return scaled.crop((-left, -top, width - left, height - top))
    filled = scaled.resize((width, height), Image.Resampling.NEAREST)
    filled.paste(scaled, (left, top))
    return filled


def image_grid(imgs: list[Image.Image], batch_size: int = 1, rows: int | None = None) -> Image.Image:
    """All images side by side, as near to a square as it gets."""
    rows = rows or max(1, round(math.sqrt(len(imgs))))
    columns = math.ceil(len(imgs) / rows)
    width, height = imgs[0].size
    grid = Image.new("RGB", (columns * width, rows * height), "black")
    for index, image in enumerate(imgs):
        grid.paste(image, (index % columns * width, index // columns * height))
    return grid


def png_info(texts: dict) -> PngImagePlugin.PngInfo:
    """Text chunks for a PNG; entries that are not text are left out."""
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        if isinstance(key, str) and isinstance(value, str):
            info.add_text(key, value)
    return info


def _next_path(folder: str, seed, extension: str, suffix: str) -> str:
    numbers = [int(name[:5]) for name in os.listdir(folder) if name[:5].isdigit()]
    return os.path.join(folder, f"{max(numbers, default=-1) + 1:05}-{seed}{suffix}.{extension}")


def save_image(
    image: Image.Image, path: str, basename: str, seed=None, prompt: str | None = None,
    extension: str = "png", info: str | None = None, short_filename: bool = False, no_prompt: bool = False,
    grid: bool = False, pnginfo_section_name: str = "parameters", p=None, existing_info: dict | None = None,
    forced_filename: str | None = None, suffix: str = "", save_to_dirs: bool | None = None,
) -> tuple[str, None]:  # fmt: skip
    """Write ``path/NNNNN-SEED.png`` with its infotext, telling extensions; returns (file, None)."""
    extension = extension.lower()
    with _numbering:
        os.makedirs(path, exist_ok=True)
        name = _next_path(path, f"grid-{seed}" if grid else seed, extension, suffix)
        if forced_filename is not None:
            name = os.path.join(path, f"{forced_filename}.{extension}")
        pnginfo = dict(existing_info or {})
        if info is not None and opts.enable_pnginfo:
            pnginfo[pnginfo_section_name] = info
        params = script_callbacks.ImageSaveParams(image, p, name, pnginfo)
        script_callbacks.before_image_saved_callback(params)
        if extension == "png":
            params.image.save(params.filename, pnginfo=png_info(params.pnginfo))
        else:
            rgb = params.image.convert("RGB")
            rgb.save(params.filename, quality=opts.jpeg_quality, exif=exif(params.pnginfo.get("parameters")))
        params.image.already_saved_as = params.filename
    script_callbacks.image_saved_callback(params)
    return params.filename, None


_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286


def exif(comment: str | None) -> Image.Exif:
    """EXIF data with an infotext as its user comment, for formats without text chunks."""
    data = Image.Exif()
    if comment:
        data.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + comment.encode("utf-16-be")
    return data


def _exif_comment(image: Image.Image) -> str | None:
    comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    if not isinstance(comment, bytes):
        return comment
    if comment.startswith(b"UNICODE\0"):
        return comment[8:].decode("utf-16-be", errors="replace")
    return comment.removeprefix(b"ASCII\0\0\0").decode("utf-8", errors="replace")


_TECHNICAL = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "exif", "icc_profile", "background",
              "timestamp", "duration", "loop", "progressive", "progression"}  # fmt: skip


def read_info_from_image(image: Image.Image) -> tuple[str | None, dict]:
    """The infotext, and what else the metadata says."""
    items = {key: value for key, value in (image.info or {}).items() if key not in _TECHNICAL}
    infotext = items.pop("parameters", None)
    if "exif" in (image.info or {}):
        infotext = _exif_comment(image) or infotext
    return infotext, items


def image_data(data: bytes) -> tuple[str, None]:
    """The infotext of a file dropped onto the prompt."""
    infotext, _ = read_info_from_image(read(io.BytesIO(data)))
    return infotext or "", None
