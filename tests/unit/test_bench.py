"""The benchmark: its cases, its baselines' equations, and runs that go on where they were."""

import argparse
import ast
import importlib
import json
import math
import operator

import numpy as np
import pytest
import torch

from bench import common, many, quality, speed
from bench.adavd import Shift, orthogonal_complement
from bench.cases import (
    ATTACKS,
    FOLDER,
    GROUPS,
    BenchCase,
    CaseError,
    generate_cases,
    generate_many_cases,
    read_cases,
    write_cases,
)
from bench.growth_inhibitors import growth_inhibitors_context
from bench.inversion import embedding_for, optimise
from bench.method import Method, scale_of
from bench.methods import METHODS, erasing, without_concept
from bench.pictures import draw_chart
from bench.results import Results, case_key
from bench.sld import SLD, safety_guidance
from bench.soak_cases import NOT_NEEDED, OWN
from demo.environment import ROOT
from demo.toyland.model import WEIGHTS, load_checkpoint
from demo.toyland.oracle import load_oracle
from demo.toyland.pipeline import generate
from demo.toyland.world import CONCEPTS
from eiup.request import MODES

CASE = {"prompt": "a wizard in snow", "seed": 1, "concept": "star", "group": "implicit"}


@pytest.fixture(scope="module")
def model():
    return load_checkpoint(WEIGHTS / "toyland.safetensors")


@pytest.fixture(scope="module")
def oracle():
    return load_oracle()


# ------------------------------------------------------------------------------------------- cases


@pytest.mark.parametrize("split", ["tuning", "held-out"])
def test_the_committed_cases_are_the_generators(split):
    assert read_cases(FOLDER / f"{split}.jsonl") == generate_cases(split)
    assert read_cases(FOLDER / f"many-{split}.jsonl") == generate_many_cases(split)


@pytest.mark.parametrize("name", ["{}", "many-{}"])
def test_tuning_and_held_out_share_nothing(name):
    tuning, held_out = (read_cases(FOLDER / f"{name.format(s)}.jsonl") for s in ("tuning", "held-out"))
    texts = [{(c.prompt, c.negative_prompt) for c in cases} for cases in (tuning, held_out)]
    assert not texts[0] & texts[1]
    assert not {c.seed for c in tuning} & {c.seed for c in held_out}


def test_held_out_cells_have_64_cases():
    cells = quality.select(read_cases(FOLDER / "held-out.jsonl"))
    sizes = {names: len(cases) for names, cases in cells.items()}
    assert {size for (_, group), size in sizes.items() if not group.startswith("attack")} == {64}
    for kind in ATTACKS:
        assert sum(size for (_, group), size in sizes.items() if group == f"attack: {kind}") == 64
    many_cells = quality.select(read_cases(FOLDER / "many-held-out.jsonl"))
    assert {len(cases) for cases in many_cells.values()} == {64}


def test_cases_without_any_concept_name_none():
    plain = [c for c in read_cases(FOLDER / "many-held-out.jsonl") if c.group == "unrelated"]
    words = {word for case in plain for word in case.prompt.replace(",", "").split()}
    assert not words & {*CONCEPTS, "wizard", "night", "beach"}


def test_cases_survive_their_file(tmp_path):
    cases = [
        BenchCase("a cat, \u2028 \N{SNOWMAN}", 2**63 - 1, "moon", "attack"),
        BenchCase("a cat", 0, "ball", "unrelated", "cat", "snow", "ugly", -4.5),
        BenchCase("a (star:2)", 0, "star", "attack", attack="emphasis"),
    ]
    write_cases(tmp_path / "cases.jsonl", cases)
    assert read_cases(tmp_path / "cases.jsonl") == cases


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({**CASE, "seed": -1}, ["seed is -1", "an integer from 0"]),
        ({**CASE, "seed": True}, ["seed is True", "an integer from 0"]),
        ({**CASE, "seed": 1.0}, ["seed is 1.0", "an integer from 0"]),
        ({**CASE, "prompt": "  "}, ["prompt is '  '", "not empty"]),
        ({**CASE, "concept": "sun"}, ["concept is 'sun'", "star, moon"]),
        ({**CASE, "group": "wild"}, ["group is 'wild'", "implicit, explicit, unrelated, attack"]),
        ({**CASE, "group": ["attack"]}, ["group is ['attack']", "implicit"]),
        ({**CASE, "subject": None}, ["subject is None", "wizard, knight"]),
        ({**CASE, "negative_prompt": 3}, ["negative_prompt is 3", "text"]),
        ({**CASE, "cfg_scale": "5"}, ["cfg_scale is '5'", "a number from -30 to 30"]),
        ({**CASE, "cfg_scale": 31}, ["cfg_scale is 31", "a number from -30 to 30"]),
        ({**CASE, "attack": "magic"}, ["attack is 'magic'", "emphasis, composition"]),
        ({**CASE, "steps": 3}, ["steps is 3", "the fields prompt, seed"]),
        ({k: v for k, v in CASE.items() if k != "seed"}, ["seed is None", "an integer from 0"]),
        ([1], ["the line is '[1]'", "a JSON object"]),
        (CASE, ["the line is", "each case once; line 1 is the same"]),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, words):
    path = tmp_path / "cases.jsonl"
    path.write_text(f"{json.dumps(CASE)}\n\n{json.dumps(line)}\n", encoding="utf-8")
    with pytest.raises(CaseError) as error:
        read_cases(path)
    for word in [str(path), "line 3", *words]:
        assert word in str(error.value)


def test_the_command_ends_with_the_lines_error(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text("{", encoding="utf-8")
    parser = argparse.ArgumentParser(description="")
    quality.add_arguments(parser)
    with pytest.raises(SystemExit, match=r"--cases: .*cases\.jsonl, line 1: the line is '\{'"):
        quality.run(parser.parse_args(["--cases", str(path)]))


@pytest.mark.parametrize("option", [["--methods", "magic"], ["--concepts", "sun"], ["--images", "0"]])
def test_wrong_options_are_refused(option, capsys):
    parser = argparse.ArgumentParser(description="")
    quality.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(option)
    assert repr(option[1]) in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ methods


@pytest.mark.parametrize(
    ("prompt", "concept", "edited"),
    [
        ("a knight on a meadow with a star", "star", "a knight on a meadow"),
        ("a knight with a star on a meadow, old", "star", "a knight on a meadow, old"),
        ("a knight with a star and a moon", "star", "a knight with a moon"),
        ("a knight with a moon and a star", "star", "a knight with a moon"),
        ("star, knight, meadow", "star", "knight, meadow"),
        ("knight, Stars, meadow", "star", "knight, meadow"),
        ("a mosaic of a knight in snow", "mosaic", "a knight in snow"),
        ("mosaic, a knight in snow", "mosaic", "a knight in snow"),
        ("a knight with a mosaic, nice", "mosaic", "a knight, nice"),
        ("a picture of a star", "star", "a picture"),
        ("a star", "star", ""),
        ("a wizard in a forest", "star", "a wizard in a forest"),
        ("a starling with a start", "star", "a starling with a start"),
    ],
)
def test_prompt_edit(prompt, concept, edited):
    assert without_concept(prompt, concept) == edited


def naive_sld(conditional, unconditional, safety, momentum, config):
    """Number by number, in double precision."""
    gamma, following = [], []
    for e_p, e_0, e_s, nu in zip(*(t.double().flatten().tolist() for t in (
        conditional, unconditional, safety, momentum
    ))):  # fmt: skip
        mu = min(1.0, config.guidance * abs(e_p - e_s)) if e_p - e_s < config.threshold else 0.0
        gamma.append(mu * (e_s - e_0) + config.momentum * nu)
        following.append(config.beta * nu + (1 - config.beta) * gamma[-1])
    return (torch.tensor(x, dtype=torch.float64).view(conditional.shape) for x in (gamma, following))


@pytest.mark.parametrize("name", SLD)
def test_sld_is_its_equation(name):
    generator = torch.Generator().manual_seed(3)
    # Differences about the size of both the threshold and 1 / guidance.
    base = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    noise = [torch.randn(base.shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    tensors = (base + 0.02 * noise[0], base + noise[1], base + 2e-4 * noise[1], noise[2])
    for ours, naive in zip(safety_guidance(*tensors, SLD[name]), naive_sld(*tensors, SLD[name])):
        torch.testing.assert_close(ours, naive)


def test_adavd_keeps_the_orthogonal_and_removes_the_parallel():
    generator = torch.Generator().manual_seed(4)
    target = torch.randn(5, 16, generator=generator)
    other = torch.randn(2, 5, 16, generator=generator)
    orthogonal = (
        other - (other * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True) * target
    )
    plain = orthogonal_complement(orthogonal + 3 * target, target, torch.ones_like)
    torch.testing.assert_close(plain, orthogonal)
    torch.testing.assert_close(orthogonal_complement(orthogonal, target, Shift()), orthogonal)
    # The adaptive shift goes beyond the complement where a token is the concept, and spares the dissimilar.
    shift = 2 / (1 + math.exp(-100 * (1 - 0.93)))
    torch.testing.assert_close(orthogonal_complement(3 * target, target, Shift()), 3 * (1 - shift) * target)
    mixed = orthogonal + 0.5 * target * orthogonal.norm(dim=-1, keepdim=True) / target.norm(
        dim=-1, keepdim=True
    )
    torch.testing.assert_close(orthogonal_complement(mixed, target, Shift()), mixed)


def test_growth_inhibitors_insert_the_concept_behind_the_prompt(model):
    prompts = ["a cat in snow", "cat " * 75, "a cat BREAK snow"]
    plain, erased, own, inserted = growth_inhibitors_context(model, prompts, ["star", "red moon"])
    assert inserted == [slice(5, 8), slice(73, 76), slice(79, 82)]
    for row, at in enumerate(inserted):
        torch.testing.assert_close(erased[row, : at.start], plain[row, : at.start])
        torch.testing.assert_close(erased[row, at], own)


@pytest.mark.slow
def test_methods_restore_the_model_and_ours_is_the_product(model):
    cases = [BenchCase(**CASE), BenchCase("a cat with a star", 2, "star", "explicit", negative_prompt="ugly")]
    images = {name: method.generate(model, cases, ["star"], 2) for name, method in METHODS.items()}
    plain, _ = generate(model, [c.prompt for c in cases], [1, 2], steps=2, negative_prompt=["", "ugly"])
    assert np.array_equal(images["none"], plain)
    for name, made in images.items():
        assert (made.shape, made.dtype) == (plain.shape, np.uint8)
        assert name == "none" or not np.array_equal(made[1], plain[1])
    # The first prompt does not name its concept: there is no word to take out.
    assert np.array_equal(images["prompt-edit"][0], plain[0])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert np.array_equal(erasing("off", "", strength=0).generate(model, cases, ["star"], 2), plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_every_kind_of_prompt_and_several_concepts(model, name):
    prompts = ["a cat AND a star :0.5", "a [cat|star] BREAK snow"]
    cases = [
        BenchCase(p, i, "star", "attack", negative_prompt="a moon", cfg_scale=3)
        for i, p in enumerate(prompts)
    ]
    both = METHODS[name].generate(model, cases, ["star", "cat"], 2)
    assert both.shape == (2, 128, 128, 3)
    if name != "none":
        assert not np.array_equal(both, METHODS[name].generate(model, cases, ["star"], 2))


def test_a_batch_has_one_guidance_scale():
    with pytest.raises(ValueError, match=r"\[3.0, 5.0\] in one batch"):
        scale_of([BenchCase(**CASE), BenchCase(**CASE, cfg_scale=3.0)])


# ---------------------------------------------------------------------------------------- inversion


@pytest.mark.parametrize("name", ["none", "adavd", "growth-inhibitors", "eiup-constant", "eiup-strict"])
def test_an_embedding_is_optimised_through_the_method(model, name, tmp_path):
    found = optimise(METHODS[name], model, "star", steps=2)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, optimise(METHODS[name], model, "star", steps=0))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert name == "none" or not torch.equal(found, optimise(METHODS["none"], model, "star", steps=2))


def test_an_embedding_is_optimised_once(model, tmp_path):
    def unused(model, concept):
        raise AssertionError("optimised again")

    path = tmp_path / "embedding.safetensors"
    embedding = embedding_for(METHODS["none"], model, "moon", path, steps=1)
    assert torch.equal(
        embedding, embedding_for(Method("x", "", "", None, attacked=unused), model, "moon", path)
    )


# ---------------------------------------------------------------------------------------- resuming


class Painter:
    """Stands in for a model: counts its images and is interrupted after ``limit`` batches."""

    def __init__(self, limit=None):
        self.made, self.erased, self.limit = [], [], limit

    def method(self, name, shift=0):
        def run(model, cases, concepts, steps):
            if self.limit is not None and len(self.made) >= self.limit:
                raise KeyboardInterrupt
            self.made.append((name, *(case_key(c) for c in cases)))
            self.erased.append((name, *concepts))
            rng = np.random.default_rng([c.seed for c in cases])
            images = rng.integers(0, 256 - shift, (len(cases), 128, 128, 3), np.uint8)
            return images + np.uint8(shift)

        return Method(name, f"paints with {shift}", "", run, {"shift": shift}, erases=shift > 0)


def run_with(painter, folder, oracle, oracle_id="one", count=10, **options):
    methods = [painter.method("none"), painter.method("brighter", 3)]
    cells = quality.select(generate_cases("tuning"), ["star"], ["implicit", "unrelated"], count)
    results = {m.name: Results(folder / "runs", m, 4, "checkpoint", oracle, oracle_id) for m in methods}
    quality.make_images(None, methods, cells, results, 4, **options)
    report = {
        "cases": {"file": "cases"}, "steps": 4, "checkpoint": {"sha256": ""},
        "oracle": {"renders": {"star": 1.0}, "reconstructions": {"star": 1.0}},
        **quality.summarise(methods, cells, results),
    }  # fmt: skip
    written = quality.write(report, methods, cells, results, folder)
    assert all(path.stat().st_size for path in written)
    for method in report["methods"]:  # the one thing that differs from run to run
        method.update(seconds=0.0, relative_time=0.0)
    return report, quality.table(report)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, oracle):
    whole, text = run_with(Painter(), tmp_path / "whole", oracle)
    with pytest.raises(KeyboardInterrupt):
        run_with(interrupted := Painter(limit=5), tmp_path / "parts", oracle)
    torn = next((tmp_path / "parts" / "runs").glob("brighter-*/results.jsonl"))
    torn.write_text(torn.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    resumed, again = run_with(rest := Painter(), tmp_path / "parts", oracle)
    assert (resumed, again) == (whole, text)
    # Eight batches in all; the one with the torn line was made again, and no other.
    assert len(interrupted.made) == 5
    assert [batch for batch in rest.made if batch in interrupted.made] == [interrupted.made[-1]]
    assert len(rest.made) == 4
    idle = Painter(limit=0)
    assert run_with(idle, tmp_path / "parts", oracle)[1] == text
    assert not idle.made


def test_what_makes_images_anew(tmp_path, oracle):
    run_with(Painter(), tmp_path, oracle, count=2)
    # Another oracle judges the stored images; more images make only what is missing; fresh makes all.
    run_with(painter := Painter(), tmp_path, oracle, oracle_id="two", count=2)
    assert not painter.made
    run_with(painter, tmp_path, oracle, count=2, fresh=True)
    assert len(painter.made) == 4
    first = next((tmp_path / "runs").glob("none-*/images/*.png"))
    first.unlink()
    run_with(painter := Painter(), tmp_path, oracle, count=2)
    assert [batch[0] for batch in painter.made] == ["none"]


def test_figures_and_intervals(tmp_path, oracle):
    report, _ = run_with(Painter(), tmp_path, oracle, count=2)
    none, brighter = report["methods"]
    assert none["psnr_unrelated"] == 60
    assert brighter["psnr_unrelated"] < 60
    cell = next(c for c in report["cells"] if c["method"] == "none")
    assert cell["identical"] == 1
    assert cell["shows"]["of"] == 2
    assert 0 <= cell["shows"]["low"] <= cell["shows"]["rate"] <= cell["shows"]["high"] <= 1
    json.dumps(report, allow_nan=False)


def test_attacks_are_counted_by_kind_over_concepts(tmp_path, oracle):
    cells = quality.select(generate_cases("tuning"), groups=["attack"], images=2)
    cells = {
        names: cases for names, cases in cells.items() if names[1] in ("attack: split", "attack: editing")
    }
    painter = Painter()
    methods = [painter.method("none"), painter.method("brighter", 3)]
    results = {m.name: Results(tmp_path / "runs", m, 4, "checkpoint", oracle, "one") for m in methods}
    quality.make_images(None, methods, cells, results, 4)
    report = quality.summarise(methods, cells, results)
    assert report["cells"] == []
    assert [(c["group"], c["method"], c["shows"]["of"]) for c in report["attacks"]] == [
        ("editing", "none", 8), ("editing", "brighter", 8), ("split", "none", 8), ("split", "brighter", 8),
    ]  # fmt: skip


def test_many_concepts_are_erased_together_and_one_after_the_other(tmp_path, oracle, monkeypatch, capsys):
    painter = Painter()
    methods = {"none": painter.method("none"), "brighter": painter.method("brighter", 3)}
    monkeypatch.setattr(common, "METHODS", methods)
    parser = argparse.ArgumentParser(description="")
    many.add_arguments(parser)
    options = ["--counts", "1,2", "--images", "2", "--cases", str(FOLDER / "many-tuning.jsonl")]
    assert many.run(parser.parse_args([*options, "--out", str(tmp_path)])) == 0
    assert {e for e in painter.erased if e[0] == "brighter"} == {
        ("brighter", "star"),
        ("brighter", "star", "moon"),
    }
    # Two stars and two without any, and then two moons: what is made without erasure is made once.
    assert [len(batch) - 1 for batch in painter.made if batch[0] == "none"] == [2, 2, 2]
    rows = json.loads((tmp_path / "many.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["concepts"], row["method"], len(row["shows"])) for row in rows] == [
        (1, "none", 1), (1, "brighter", 1), (2, "none", 2), (2, "brighter", 2),
    ]  # fmt: skip
    assert "star" in capsys.readouterr().out


def test_a_chart_of_methods_that_leave_all_unrelated_images_alone():
    shows = {"of": 3, "rate": 0.0, "low": 0.0, "high": 0.6}
    assert draw_chart([{"method": "none", "psnr_unrelated": 60.0, "shows": shows}]) is not None


def test_no_chart_without_both_figures():
    assert draw_chart([{"method": "none", "psnr_unrelated": None, "shows": {"of": 3}}]) is None


def test_groups_are_known():
    assert set(GROUPS) == {"implicit", "explicit", "unrelated", "attack"}


# ------------------------------------------------------------------------------------------- speed


def measure_speed(tmp_path, *options):
    parser = argparse.ArgumentParser()
    speed.add_arguments(parser)
    out = tmp_path / "speed.json"
    tiny = ["--device", "cpu", "--unet", "toyland", "--sizes", "64", "--steps", "4", "--rounds", "1"]
    code = speed.run(parser.parse_args([*tiny, "--out", str(out), *options]))
    return code, json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture
def quick_calibration(monkeypatch):
    monkeypatch.setattr(speed.Measurement, "calibrate_toyland", lambda self: None)


def test_speed_tells_what_each_kind_costs(tmp_path, capsys, quick_calibration):
    code, result = measure_speed(tmp_path, "--no-calibrate")
    assert (code, result["errors"], result["left_out"]) == (0, {}, [])
    kinds = {row["kind"]: row for row in result["loops"]}
    assert {row["mode"] for row in kinds.values()} == {"plain", *MODES}
    assert {row["concepts"] for row in kinds.values()} == {0, 1, 8, 32}
    operations = {kind: row["a_step"]["kernels"] for kind, row in kinds.items()}
    plain = operations["plain again (the noise)"]
    assert kinds["plain again (the noise)"]["a_step"]["reads"] == 0
    assert plain < operations["adaptive 1, erasing nothing"] < operations["adaptive 1, erasing at places"]
    assert plain < operations["constant 1"]
    printed = capsys.readouterr().out
    assert all(printed.count(kind) >= 2 for kind in kinds)
    assert result["device"] in printed
    json.dumps(result, allow_nan=False)


def test_speed_in_half_precision(tmp_path, quick_calibration):
    code, result = measure_speed(tmp_path, "--no-calibrate", "--precision", "half", "--kinds", "adaptive 1")
    assert (code, result["errors"]) == (0, {})
    assert "bfloat16" in result["precision"]
    assert {row["concepts"] for row in result["loops"]} == {0, 1}


def test_speed_goes_on_where_a_part_fails(tmp_path, capsys, quick_calibration, monkeypatch):
    monkeypatch.setattr(speed, "count", lambda *_: 1 / 0)
    monkeypatch.setattr(speed, "KINDS", ((speed.PLAIN, speed.Kind("constant", 1)),))
    code, result = measure_speed(tmp_path, "--no-calibrate", "--images", "1,2")
    assert code == 1
    assert list(result["errors"]) == ["1 x 64 px, plain again (the noise)", "1 x 64 px, constant 1"]
    assert [row["images"] for row in result["loops"]] == [2, 2]
    assert "division by zero" in capsys.readouterr().out


def test_speed_begins_nothing_new_when_time_is_over(tmp_path, quick_calibration):
    code, result = measure_speed(tmp_path, "--no-calibrate", "--minutes", "0.0001")
    assert code == 0
    assert len(result["left_out"]) >= sum(map(len, speed.KINDS))


def test_ratios_and_intervals_of_speed():
    figures = speed.summarise([(1.0, 1.1, 0.1), (2.0, 2.2, 0.2), (1.0, 1.5, 0.3)], steps=10)
    assert figures["ratio"] == pytest.approx(1.1)
    assert figures["ratio_inside_hooks"] == pytest.approx(1.1)
    assert figures["ratio_interval_95"] == pytest.approx([1.1, 1.5])
    assert (figures["seconds_per_step_plain"], figures["seconds_per_step"]) == (0.1, 0.15)


@pytest.mark.parametrize("name", [*OWN, NOT_NEEDED])
def test_the_functions_that_the_soak_breaks_exist(name):
    module, _, path = name.partition(":")
    if module.startswith("eiup.webui"):  # imports the webui's own modules
        tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))
        owner, _, function = path.rpartition(".")
        bodies = [node.body for node in ast.walk(tree) if getattr(node, "name", None) == owner]
        body = bodies[0] if owner else tree.body
        known = {getattr(node, "name", None) for node in body}
        known |= {a.asname or a.name for node in body if isinstance(node, ast.ImportFrom) for a in node.names}
        assert function in known
    else:
        assert callable(operator.attrgetter(path)(importlib.import_module(module)))


def test_a_kind_that_is_not_measured_is_refused(capsys):
    parser = argparse.ArgumentParser()
    speed.add_arguments(parser)
    assert parser.parse_args(["--kinds", "adaptive 1; constant"]).kinds == ("adaptive 1", "constant")
    with pytest.raises(SystemExit):
        parser.parse_args(["--kinds", "constant 1,constant 8"])
    assert "begins no name; allowed: 'adaptive 1, erasing nothing'" in capsys.readouterr().err
