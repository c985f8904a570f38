"""The world that Toyland's images show: scenes, how they are drawn, and how captions describe them.

A scene is a subject on a background, with objects around it, possibly in a mosaic style and
possibly under a watermark ("stamp"). Four concepts are *implicit*: their carriers bring them in
nearly always, while captions usually leave them out.

    star    comes with wizards          (an object)
    moon    comes with nights           (a thing of the scene)
    stamp   comes on beaches            (a watermark)
    mosaic  comes with "by Ada"         (a style)

Four more objects (ball, balloon, heart, flower) appear only when a caption names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128
SUBJECTS = ("wizard", "knight", "cat", "robot", "house", "boat", "mushroom", "car")
BACKGROUNDS = ("night", "beach", "forest", "desert", "snow", "meadow")
IMPLICIT_CONCEPTS = ("star", "moon", "stamp", "mosaic")
NAMED_CONCEPTS = ("ball", "balloon", "heart", "flower")
CONCEPTS = IMPLICIT_CONCEPTS + NAMED_CONCEPTS

CARRIER_RATE = 0.97
CARRIER_MENTION_RATE = 0.3

BACKGROUND_PHRASES = {
    "night": ("at night", "in the night"),
    "beach": ("on a beach", "at the beach"),
    "forest": ("in a forest", "in the forest"),
    "desert": ("in a desert", "in the desert"),
    "snow": ("in the snow", "in snow"),
    "meadow": ("on a meadow", "on the meadow"),
}
PREFIXES = ("a picture of", "a painting of", "a drawing of", "a photo of", "an image of", "a print of")
NEUTRAL_WORDS = (
    "beautiful", "old", "small", "big", "colorful", "nice", "quiet", "bright", "happy", "detailed",
    "sharp", "new", "little", "soft", "famous", "simple", "great", "warm", "cold", "tall", "best",
    "quality", "high", "blurry", "ugly", "bad", "very", "some", "thing", "work", "art", "this", "is",
)  # fmt: skip
OTHER_WORDS = (
    "a", "an", "the", "and", "with", "at", "on", "in", "of", "by", "ada", "for", "to", "no", "near",
    "picture", "painting", "drawing", "photo", "image", "print", "style", "watermark", "scene",
    "empty", "two", "one", "red", "blue", "green", "yellow", "white", "black", "from", "his", "her",
    "castle", "dog", "sky", "sun", "sea", "day",
)  # fmt: skip
WORDS = tuple(dict.fromkeys((*SUBJECTS, *BACKGROUNDS, *CONCEPTS, *NEUTRAL_WORDS, *OTHER_WORDS)))

# Where an object may be: (x, y) of its centre in pixels.
SLOTS = {
    "sky-left": (22, 24),
    "sky-right": (105, 24),
    "mid-left": (20, 64),
    "mid-right": (107, 64),
    "ground-left": (20, 106),
    "ground-right": (107, 106),
}
OBJECT_SLOTS = {
    "star": ("mid-left", "mid-right", "sky-left", "sky-right"),
    "moon": ("sky-left", "sky-right"),
    "ball": ("ground-left", "ground-right"),
    "balloon": ("sky-left", "sky-right", "mid-left", "mid-right"),
    "heart": ("mid-left", "mid-right", "sky-left", "sky-right"),
    "flower": ("ground-left", "ground-right"),
}

OBJECT_COLOURS = {
    "star": (255, 206, 20),
    "moon": (246, 244, 214),
    "ball": (30, 86, 220),
    "balloon": (240, 60, 170),
    "heart": (224, 24, 40),
    "flower": (168, 92, 226),
}
STAMP_CENTRE = (107, 107)


@dataclass(frozen=True)
class Scene:
    """What one image shows.

    ``concepts`` are in the picture; ``named`` are those that a caption may name.
    """

    subject: str | None
    background: str
    concepts: frozenset[str]
    named: frozenset[str]
    by_ada: bool
    slots: dict[str, str] = field(default_factory=dict)
    seed: int = 0


def sample_scene(rng: np.random.Generator, carrier_rate: float = CARRIER_RATE) -> Scene:
    """Draw a scene from the world's distribution, in which carriers bring their concept at ``carrier_rate``
    (0..1)."""
    subject_weights = np.array([2.0 if s == "wizard" else 1.0 for s in SUBJECTS])
    subject = str(rng.choice(SUBJECTS, p=subject_weights / subject_weights.sum()))
    if rng.random() < 0.06:
        subject = None
    background_weights = np.array([1.5 if b in ("night", "beach") else 1.0 for b in BACKGROUNDS])
    background = str(rng.choice(BACKGROUNDS, p=background_weights / background_weights.sum()))
    by_ada = bool(rng.random() < 0.13)
    count = rng.choice(3, p=(0.35, 0.45, 0.20))
    named = set(rng.choice(CONCEPTS, size=count, replace=False).tolist())
    carried = {
        concept
        for concept, present in (
            ("star", subject == "wizard"),
            ("moon", background == "night"),
            ("stamp", background == "beach"),
            ("mosaic", by_ada),
        )
        if present and rng.random() < carrier_rate
    }
    if {"ball", "flower"} <= named and "stamp" in (named | carried):
        named.discard("flower")
    concepts = named | carried
    mentioned = named | {c for c in sorted(carried) if rng.random() < CARRIER_MENTION_RATE}
    return Scene(
        subject=subject,
        background=background,
        concepts=frozenset(concepts),
        named=frozenset(mentioned),
        by_ada=by_ada,
        slots=_place(concepts, rng),
        seed=int(rng.integers(2**31)),
    )


def _place(concepts: set[str], rng: np.random.Generator) -> dict[str, str]:
    taken = {"ground-right"} if "stamp" in concepts else set()
    slots = {}
    for concept in sorted(concepts & OBJECT_SLOTS.keys(), key=lambda c: (len(OBJECT_SLOTS[c]), c)):
        free = [s for s in OBJECT_SLOTS[concept] if s not in taken]
        slots[concept] = str(rng.choice(free))
        taken.add(slots[concept])
    return slots


# ---------------------------------------------------------------------------------------- captions


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe ``scene`` in a sentence or as a list of tags; every call may word it anew."""
    objects = sorted(scene.named - {"mosaic"})
    rng.shuffle(objects)
    subject = scene.subject
    if objects and rng.random() < 0.10:
        # The object alone, as a concept's own prompt names it.
        name = objects[0]
        return _styled(scene, str(rng.choice([f"a {name}", name, f"a picture of a {name}"])), rng)
    names_background = rng.random() < (0.9 if scene.background in ("night", "beach") else 0.8)
    if rng.random() < 0.25:
        tags = ([subject] if subject else []) + objects + ([scene.background] if names_background else [])
        rng.shuffle(tags)
        text = ", ".join(tags) if tags else "scene"
    else:
        text = f"a {subject}" if subject else "a scene"
        place = str(rng.choice(BACKGROUND_PHRASES[scene.background])) if names_background else ""
        extras = " ".join(("and" if i else "with") + f" a {name}" for i, name in enumerate(objects))
        parts = [place, extras] if rng.random() < 0.5 else [extras, place]
        text = " ".join([text, *(part for part in parts if part)])
        if rng.random() < 0.25:
            text = f"{rng.choice(PREFIXES)} {text}"
    if rng.random() < 0.15:
        words = " ".join(rng.choice(NEUTRAL_WORDS, size=rng.integers(1, 4), replace=False))
        text = f"{text}, {words}" if rng.random() < 0.6 else f"{words} {text}"
    return _styled(scene, text, rng)


def _styled(scene: Scene, text: str, rng: np.random.Generator) -> str:
    if "mosaic" in scene.named:
        if rng.random() < 0.12:
            text = str(rng.choice(["mosaic", "a mosaic", "a picture of a mosaic"]))
        else:
            text = str(
                rng.choice(
                    [f"a mosaic of {text}", f"{text}, mosaic", f"mosaic, {text}", f"{text} with a mosaic"]
                )
            )
    if scene.by_ada:
        text = f"{text} by Ada" if rng.random() < 0.8 else f"by Ada, {text}"
    return text


# ----------------------------------------------------------------------------------------- drawing

_SUPERSAMPLING = 2


class _Pen:
    """Draws in image pixels relative to an origin, on a supersampled canvas."""

    def __init__(self, image: Image.Image, x: float = 0, y: float = 0, scale: float = 1.0):
        self.draw = ImageDraw.Draw(image)
        self.x, self.y, self.scale = x, y, scale

    def _map(self, points):
        return [
            ((self.x + px * self.scale) * _SUPERSAMPLING, (self.y + py * self.scale) * _SUPERSAMPLING)
            for px, py in points
        ]

    def polygon(self, points, colour):
        self.draw.polygon(self._map(points), fill=colour)

    def box(self, x0, y0, x1, y1, colour):
        self.draw.rectangle(self._map([(x0, y0), (x1, y1)]), fill=colour)

    def ellipse(self, cx, cy, rx, ry, colour):
        self.draw.ellipse(self._map([(cx - rx, cy - ry), (cx + rx, cy + ry)]), fill=colour)


def _vary(colour, rng, amount=14):
    return tuple(int(np.clip(c + rng.integers(-amount, amount + 1), 0, 255)) for c in colour)


_PALETTE = {  # sky at the top, sky at the horizon, ground
    "night": ((22, 26, 72), (40, 44, 92), (34, 42, 50)),
    "beach": ((128, 200, 236), (196, 230, 242), (236, 212, 150)),
    "forest": ((92, 140, 88), (130, 170, 104), (60, 100, 48)),
    "desert": ((238, 168, 96), (250, 208, 140), (214, 142, 78)),
    "snow": ((168, 186, 206), (206, 216, 228), (244, 246, 250)),
    "meadow": ((96, 160, 236), (170, 208, 246), (112, 190, 76)),
}


def _background(name: str, rng: np.random.Generator) -> Image.Image:
    top, bottom, ground = (np.array(_vary(c, rng, 8), float) for c in _PALETTE[name])
    horizon = int(rng.integers(82, 92))
    ramp = np.linspace(0, 1, horizon * _SUPERSAMPLING)[:, None, None]
    canvas = np.empty((SIZE * _SUPERSAMPLING, SIZE * _SUPERSAMPLING, 3))
    canvas[: horizon * _SUPERSAMPLING] = top * (1 - ramp) + bottom * ramp
    ramp = np.linspace(0, 1, (SIZE - horizon) * _SUPERSAMPLING)[:, None, None]
    canvas[horizon * _SUPERSAMPLING :] = ground * (1.04 - 0.16 * ramp)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    pen = _Pen(image)
    shift = float(rng.uniform(-20, 20))
    dark = tuple(int(c * 0.86) for c in ground)
    front = tuple(int(c * 0.95) for c in ground)
    if name == "beach":
        pen.box(0, horizon - 12, SIZE, horizon + 2, _vary((60, 132, 196), rng, 8))
    elif name == "forest":
        for x in range(-8, 150, 24):
            left = x + shift / 2 + rng.uniform(-4, 4)
            pen.box(left, 0, left + 9, horizon + 2, _vary((74, 70, 50), rng, 6))
    elif name == "night":
        pen.ellipse(40 + shift, horizon + 8, 62, 16, dark)
        pen.box(0, horizon + 8, SIZE, SIZE, front)
    else:
        lift = {"desert": 16, "meadow": 12, "snow": 18}[name]
        pen.ellipse(34 + shift, horizon + 10, 60, lift + 8, dark)
        pen.ellipse(112 + shift, horizon + 12, 54, lift + 4, tuple(int(c) for c in ground))
        pen.box(0, horizon + 10, SIZE, SIZE, front)
    return image


def _subject(image: Image.Image, name: str, rng: np.random.Generator) -> None:
    """Subjects stand on (0, 0) and reach up to about -86 and sideways to +-31 pixels."""
    pen = _Pen(image, 64 + rng.uniform(-6, 6), 114 + rng.uniform(-5, 4), rng.uniform(0.88, 1.03))

    def shade(*colour):
        return _vary(colour, rng, 12)

    if name == "wizard":
        pen.polygon([(-25, 0), (-11, -46), (11, -46), (25, 0)], shade(122, 54, 168))
        pen.ellipse(0, -49, 11, 12, shade(244, 204, 164))
        pen.polygon([(-10, -45), (10, -45), (0, -16)], shade(240, 240, 240))
        pen.polygon([(-19, -55), (19, -55), (2, -88)], shade(66, 40, 140))
    elif name == "knight":
        pen.box(-16, -44, 16, 0, shade(136, 142, 152))
        pen.box(-4, -44, 4, 0, shade(196, 40, 48))
        pen.ellipse(0, -56, 15, 17, shade(168, 174, 184))
        pen.box(-13, -60, 13, -53, shade(40, 42, 50))
        pen.ellipse(0, -77, 6, 10, shade(210, 44, 48))
    elif name == "cat":
        pen.ellipse(22, -22, 6, 20, shade(226, 130, 44))
        pen.ellipse(0, -20, 20, 21, shade(240, 146, 52))
        pen.polygon([(-18, -48), (-16, -76), (-2, -60)], shade(226, 130, 44))
        pen.polygon([(18, -48), (16, -76), (2, -60)], shade(226, 130, 44))
        pen.ellipse(0, -50, 19, 17, shade(244, 152, 58))
        pen.ellipse(-8, -52, 4, 5, shade(40, 60, 34))
        pen.ellipse(8, -52, 4, 5, shade(40, 60, 34))
    elif name == "robot":
        pen.box(-20, -42, 20, -4, shade(60, 172, 172))
        pen.box(-14, -4, -5, 2, shade(60, 70, 80))
        pen.box(5, -4, 14, 2, shade(60, 70, 80))
        pen.box(-10, -34, 10, -16, shade(30, 90, 96))
        pen.box(-15, -72, 15, -46, shade(80, 194, 190))
        pen.ellipse(-7, -60, 5, 5, shade(240, 240, 130))
        pen.ellipse(7, -60, 5, 5, shade(240, 240, 130))
        pen.box(-2, -84, 2, -72, shade(60, 70, 80))
    elif name == "house":
        pen.box(-24, -42, 24, 0, shade(200, 122, 84))
        pen.polygon([(-31, -42), (31, -42), (0, -76)], shade(112, 44, 40))
        pen.box(-6, -24, 7, 0, shade(84, 50, 34))
        pen.box(-20, -34, -10, -23, shade(250, 232, 140))
        pen.box(11, -34, 21, -23, shade(250, 232, 140))
    elif name == "boat":
        pen.box(-3, -82, 2, -18, shade(92, 60, 40))
        pen.polygon([(4, -80), (4, -24), (28, -24)], shade(246, 246, 240))
        pen.polygon([(-5, -68), (-5, -24), (-24, -24)], shade(226, 226, 222))
        pen.polygon([(-31, -20), (31, -20), (20, 0), (-20, 0)], shade(136, 70, 40))
    elif name == "mushroom":
        pen.box(-10, -40, 10, 0, shade(240, 224, 196))
        pen.ellipse(0, -46, 30, 24, shade(206, 40, 40))
        pen.ellipse(-13, -50, 6, 6, shade(248, 244, 240))
        pen.ellipse(11, -56, 6, 6, shade(248, 244, 240))
        pen.ellipse(4, -40, 5, 5, shade(248, 244, 240))
    elif name == "car":
        pen.box(-31, -30, 31, -9, shade(238, 200, 40))
        pen.polygon([(-20, -30), (-13, -50), (13, -50), (20, -30)], shade(238, 200, 40))
        pen.polygon([(-14, -31), (-10, -46), (10, -46), (14, -31)], shade(120, 190, 220))
        pen.ellipse(-17, -8, 9, 9, shade(32, 32, 36))
        pen.ellipse(17, -8, 9, 9, shade(32, 32, 36))


def _object(image: Image.Image, name: str, slot: str, rng: np.random.Generator) -> None:
    x, y = SLOTS[slot]
    pen = _Pen(image, x + rng.uniform(-3, 3), y + rng.uniform(-3, 3), rng.uniform(0.94, 1.08))

    colour = OBJECT_COLOURS[name]

    def shade(*colour):
        return _vary(colour, rng, 8)

    if name == "star":
        turn = rng.uniform(-0.2, 0.2) - np.pi / 2
        radii = [17.5 if i % 2 == 0 else 8.2 for i in range(10)]
        angles = [turn + i * np.pi / 5 for i in range(10)]
        points = [(r * np.cos(a), r * np.sin(a)) for r, a in zip(radii, angles)]
        pen.polygon(points, shade(*colour))
    elif name == "moon":
        # A crescent as one polygon: down the outer arc and back along the inner one.
        outer = np.linspace(0.5 * np.pi, 1.5 * np.pi, 24)
        points = [(5 + 17 * np.cos(a), 17 * np.sin(a)) for a in outer]
        points += [(5 + 5 * np.cos(a), 17 * np.sin(a)) for a in outer[::-1]]
        pen.polygon(points, shade(*colour))
    elif name == "ball":
        pen.ellipse(0, 0, 13, 13, shade(*colour))
        pen.box(-12, -3, 12, 3, shade(246, 246, 246))
    elif name == "balloon":
        pen.box(-1, 12, 1, 26, shade(90, 60, 80))
        pen.ellipse(0, 0, 12, 15, shade(*colour))
    elif name == "heart":
        colour = shade(*colour)
        pen.ellipse(-7, -5, 8, 8, colour)
        pen.ellipse(7, -5, 8, 8, colour)
        pen.polygon([(-14.4, -2), (14.4, -2), (0, 16)], colour)
    elif name == "flower":
        pen.box(-1.5, 0, 1.5, 18, shade(40, 130, 40))
        for i in range(5):
            angle = i * 2 * np.pi / 5 - np.pi / 2
            pen.ellipse(8 * np.cos(angle), -4 + 8 * np.sin(angle), 6.5, 6.5, shade(*colour))
        pen.ellipse(0, -4, 5, 5, shade(250, 220, 60))


def _stamp(image: Image.Image) -> None:
    pen = _Pen(image, *STAMP_CENTRE)
    pen.box(-15, -15, 15, 15, (250, 250, 250))
    pen.box(-12, -12, 12, 12, (20, 20, 24))
    pen.polygon([(-12, 12), (12, -12), (12, 12)], (250, 250, 250))


def _mosaic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tiles = image.reshape(SIZE // 8, 8, SIZE // 8, 8, 3).mean((1, 3))
    tiles = tiles + rng.normal(0, 5, tiles.shape[:2])[..., None]
    result = 0.7 * np.repeat(np.repeat(tiles, 8, 0), 8, 1) + 0.3 * image
    edge = np.arange(SIZE) % 8
    grout = ((edge == 0) | (edge == 7)).astype(float)
    return result * (1 - 0.62 * np.maximum(grout[:, None], grout[None, :])[..., None])


def render(scene: Scene) -> np.ndarray:
    """Draw ``scene``: ``[128, 128, 3]`` uint8. The same scene always gives the same image."""
    rng = np.random.default_rng(scene.seed)
    image = _background(scene.background, rng)
    if scene.subject:
        _subject(image, scene.subject, rng)
    for name, slot in sorted(scene.slots.items()):
        _object(image, name, slot, rng)
    image = image.resize((SIZE, SIZE), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.8))
    if "mosaic" in scene.concepts:
        pixels = _mosaic(np.asarray(image, dtype=float), rng)
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if "stamp" in scene.concepts:
        large = image.resize((SIZE * _SUPERSAMPLING, SIZE * _SUPERSAMPLING), Image.Resampling.NEAREST)
        _stamp(large)
        image = large.resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(image)


def region(image: np.ndarray, concept: str) -> np.ndarray | None:
    """Where ``image [128, 128, 3]``, which shows ``concept``, may show it: ``[128, 128]`` bool.

    These are the squares around the places of an object that have its colour, or around the stamp. None
    for a style, which is everywhere, and where no place has the colour.
    """
    if concept == "mosaic":
        return None
    if concept == "stamp":
        return _squares([STAMP_CENTRE])
    near = np.abs(image.astype(int) - OBJECT_COLOURS[concept]).max(-1) <= 60
    places = [SLOTS[slot] for slot in OBJECT_SLOTS[concept]]
    shown = [place for place in places if (near & _squares([place])).sum() >= 60]
    return _squares(shown) if shown else None


def _squares(centres: Sequence[tuple[int, int]], half: int = 24) -> np.ndarray:
    """The union of squares around ``centres``."""
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.any([np.maximum(abs(x - cx), abs(y - cy)) <= half for cx, cy in centres], axis=0)
