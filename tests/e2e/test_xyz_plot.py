"""The axes of the X/Y/Z plot: what each image of a plot was made with, and what is refused."""

from __future__ import annotations

import pytest

from tests.e2e.support import changed, encoded, erasing, same, scene
from tests.e2e.test_infotext import value_in

AXES = (
    "Enabled", "Concepts", "Strength", "Start", "End", "Mode", "Preserve", "Feedback", "Weight of a concept",
)  # fmt: skip


def axes_of(webui, is_img2img=False):
    """The labels of the plot's axes, in the order of their indices."""
    listed = webui.get("/sdapi/v1/script-info").json()
    plot = next(s for s in listed if s["name"] == "x/y/z plot" and s["is_img2img"] == is_img2img)
    return plot["args"][0]["choices"]


def plot_of(webui, is_img2img=False, **axes):
    """The part of a payload that makes a plot; ``x="Strength", x_values="0, 2"`` and so on."""
    labels = axes_of(webui, is_img2img)
    args = []
    for name in "xyz":
        label = f"[EIUP] {axes[name]}" if name in axes else "Nothing"
        args += [labels.index(label), axes.get(f"{name}_values", ""), []]
    legend, lone_images, sub_grids, keep_seeds, margin, csv_mode = False, True, False, False, 0, True
    args += [legend, lone_images, sub_grids, keep_seeds, False, False, False, margin, csv_mode]
    return {"script_name": "x/y/z plot", "script_args": args}


def plot(webui, payload, **axes):
    """The images of a plot and EIUP's value in the infotext of each; None where there is none."""
    answer = webui.txt2img(**scene(**payload, **plot_of(webui, **axes)))
    # The first is the grid. An image that was left out has no infotext in a real webui.
    values = [value_in(text) if "EIUP: " in (text or "") else None for text in answer.infotexts[1:]]
    return answer.images[1:], values


def refused(webui, payload, **axes):
    response = webui.post("/sdapi/v1/txt2img", scene(**payload, **plot_of(webui, **axes)))
    assert response.status_code == 422, response.text
    assert "images" not in response.json()
    return response.json()["errors"]


@pytest.mark.parametrize("is_img2img", [False, True])
def test_every_field_has_an_axis(webui, is_img2img):
    labels = axes_of(webui, is_img2img)
    assert [label for label in labels if "EIUP" in label] == [f"[EIUP] {name}" for name in AXES]


def test_scripts_that_are_loaded_again_add_their_axes_once(webui, reload_ui):
    before = axes_of(webui)
    for _ in range(2):
        reload_ui()
        assert axes_of(webui) == before
    images, _ = plot(webui, erasing("star"), x="Strength", x_values="0, 2")
    assert changed(*images)


def test_each_image_is_made_with_its_strength(webui, plain):
    images, values = plot(webui, erasing("star", mode="constant"), x="Strength", x_values="0, 1, 2.5")
    assert [value["strength"] for value in values] == [0, 1, 2.5]
    assert same(images[0], plain)
    for strength, image in zip((1.0, 2.5), images[1:]):
        wanted = webui.txt2img(**scene(**erasing("star", strength=strength, mode="constant")))
        assert same(image, wanted.images[0])


def test_nothing_of_a_plot_is_left_behind(webui, plain):
    expected = webui.txt2img(**scene(**erasing("star"))).images[0]
    plot(webui, erasing("star"), x="Concepts", x_values="moon, stamp")
    after = webui.txt2img(**scene(**erasing("star")))
    assert same(after.images[0], expected)
    assert value_in(after.infotexts[0])["concepts"] == ["star"]
    assert same(webui.txt2img(**scene()).images[0], plain)


def test_a_quoted_value_may_hold_several_concepts(webui):
    _, values = plot(webui, erasing("stamp"), x="Concepts", x_values='star, "star, moon:1.5", ""')
    concepts = [value and value["concepts"] for value in values]
    assert concepts == [["star"], ["star", {"concept": "moon", "weight": 1.5}], None]


def test_three_axes_at_once(webui):
    _, values = plot(
        webui, erasing("star", "moon"), x="Mode", x_values="constant, strict",
        y="Weight of a concept", y_values="star:0.5, moon:2", z="End", z_values="0.5, 1",
    )  # fmt: skip
    half, double = {"concept": "star", "weight": 0.5}, {"concept": "moon", "weight": 2.0}
    assert [(v["mode"], v["concepts"], v.get("end", 1.0)) for v in values] == [
        (mode, concepts, end)
        for end in (0.5, 1.0)
        for concepts in ([half, "moon"], ["star", double])
        for mode in ("constant", "strict")
    ]


def test_enabled_and_preserve_are_true_or_false(webui, plain):
    images, values = plot(
        webui, erasing("star"), x="Enabled", x_values="False, True", y="Preserve", y_values="true, false"
    )
    preserved = [value and value.get("preserve", False) for value in values]
    assert preserved == [None, True, None, False]
    assert same(images[0], plain)
    assert changed(images[3], plain)


def test_a_plot_of_img2img(webui):
    image = encoded(webui.txt2img(**scene()).pngs[0])
    answer = webui.img2img(
        **scene(
            init_images=[image], denoising_strength=0.75, **erasing("star"),
            **plot_of(webui, is_img2img=True, x="Strength", x_values="1, 3"),
        )
    )  # fmt: skip
    assert [value_in(text)["strength"] for text in answer.infotexts[1:]] == [1, 3]


# Axis and values, and what the message has to name: field, value, what is allowed.
WRONG = {
    "too strong": (("Strength", "1, 11"), ("strength", "11", "0 to 10")),
    "unknown mode": (("Mode", "constant, gentle"), ("mode", "'gentle'", "adaptive")),
    "not in the syntax": (("Concepts", "star, moon:much"), ("concepts", "moon:much", "watermark:1.5")),
    "no switch": (("Enabled", "True, perhaps"), ("enabled", "'perhaps'", "true or false")),
    "weights of two": (
        ("Weight of a concept", '"star:1, moon:2"'),
        ("weight of a concept", "star:1, moon:2", "star:1.5"),
    ),
}


@pytest.mark.parametrize(("axis", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_refused_before_anything_is_made(webui, axis, named):
    message = refused(webui, erasing("star"), x=axis[0], x_values=axis[1])
    for part in ("EIUP", *named):
        assert part in message


# Each value is right by itself. Axes, and what the message has to name.
TOGETHER = {
    "an axis and the request": ({"x": "Start", "x_values": "0.25, 0.75"}, ("start", "0.75", "0.5")),
    "two axes": (
        {"x": "Start", "x_values": "0, 0.5", "y": "End", "y_values": "0.25, 1"},
        ("start", "0.5", "0.25"),
    ),
    "the weight of a concept that is not erased": (
        {"x": "Weight of a concept", "x_values": "star:2, moon:2"},
        ("weight of a concept", "moon:2", "Add 'moon'"),
    ),
    "the weight of a concept that one of the images has not": (
        {"x": "Weight of a concept", "x_values": "star:2", "y": "Concepts", "y_values": "star, moon"},
        ("weight of a concept", "star:2", "Add 'star'"),
    ),
}


@pytest.mark.parametrize(("axes", "named"), TOGETHER.values(), ids=TOGETHER)
def test_values_that_do_not_go_together_are_refused_before_anything_is_made(webui, axes, named):
    message = refused(webui, erasing("star", end=0.5), **axes)
    for part in ("EIUP", *named):
        assert part in message


def test_values_that_go_together_only_as_the_axes_have_them(webui):
    _, values = plot(
        webui, erasing("star", end=0.5), x="Start", x_values="0.25, 0.75", y="End", y_values="0.75, 1"
    )
    assert [(value["start"], value.get("end", 1.0)) for value in values] == [
        (start, end) for end in (0.75, 1.0) for start in (0.25, 0.75)
    ]
