"""What calibration costs in rows of the U-Net, what is kept of it, and when that is used again."""

import json
import threading
from dataclasses import replace

import pytest
import torch

from eiup.build import build_eraser, calibrate_concepts
from eiup.calibration import NEUTRAL_PROMPTS, CalibrationCache
from eiup.errors import ErasureError
from eiup.probe_maker import CHECKED_PAIRS, NEUTRAL_FILES, ProbeMaker, rows_needed
from eiup.short_sampling import MOST_ROWS, ShortSampling
from tests.integration.painter import CONCEPTS, Painter, encoder
from tests.integration.support import EMPTY

STAR, MOON, BALL = CONCEPTS[:3]
CHECK = ShortSampling.rows(2 * CHECKED_PAIRS, CHECKED_PAIRS)


@pytest.fixture
def cache(tmp_path):
    return CalibrationCache(tmp_path / "cache")


@pytest.fixture
def painter():
    return Painter()


def learn(painter, concepts, cache=None, checkpoint="painter", side=8, encode=None, sees=True, **denoiser):
    """Probes of ``concepts``, each of which ``sees`` it or is blind, and the U-Net rows that they took."""
    painter.rows.clear()
    make_probes = ProbeMaker(
        painter,
        EMPTY,
        encode or encoder(),
        painter.denoiser(side, **denoiser),
        cache=cache,
        checkpoint=checkpoint,
    )
    with torch.no_grad():
        probes = make_probes(concepts)
    assert all(any(probe.direction) == sees for probe in probes)
    return probes, sum(painter.rows)


def with_lora(painter, strength):
    """The same model with a LoRA of this strength on its text layers."""
    other = Painter()
    generator = torch.Generator().manual_seed(3)
    for mine, its in zip(other.output_blocks, painter.output_blocks):
        for name in ("to_k", "to_v"):
            weight = getattr(its.attn2, name).weight
            change = torch.randn(32, 4, generator=generator) @ torch.randn(
                4, weight.shape[1], generator=generator
            )
            change *= strength * weight.norm() / change.norm()
            getattr(mine.attn2, name).weight.copy_(weight + change)
    return other


def cosine(one, other):
    return torch.nn.functional.cosine_similarity(
        torch.tensor(one.direction), torch.tensor(other.direction), dim=0
    ).item()


# ---------------------------------------------------------------------------------------------- rows


def test_rows_of_the_first_concept_of_further_ones_and_of_what_is_known(painter, cache):
    _, first = learn(painter, [STAR], cache)
    assert first == rows_needed(1) <= 350
    _, further = learn(painter, [MOON], cache)
    assert further == rows_needed(1, neutral=False) <= 120
    _, again = learn(painter, [STAR, MOON], cache)
    assert again == 0
    _, one_of_two = learn(painter, [STAR, BALL], cache)
    assert one_of_two == further


def test_eight_concepts_share_u_net_calls_of_a_usual_size(painter):
    _, rows = learn(painter, CONCEPTS)
    assert rows < rows_needed(0) + 8 * rows_needed(1, neutral=False)
    calls = len(painter.rows)
    assert max(painter.rows) == MOST_ROWS == 16
    # Hardly a call that is not full.
    assert calls * MOST_ROWS < 1.1 * rows


def test_what_concepts_are_learnt_with_does_not_change_their_probes(painter):
    together, _ = learn(painter, CONCEPTS[:3])
    for concept, probe in zip(CONCEPTS, together):
        (alone,), _ = learn(painter, [concept])
        assert cosine(probe, alone) > 0.999
        assert probe.offset == pytest.approx(alone.offset, abs=0.01)


def test_a_concept_that_is_asked_for_twice_is_learnt_once(painter):
    (one, other), rows = learn(painter, [STAR, replace(STAR, weight=3.0)])
    assert rows == rows_needed(1)
    assert one == other


# ---------------------------------------------------------------------------------- another model


def test_another_weight_of_a_lora_is_checked_on_a_few_rows_once(painter, cache):
    (probe,), _ = learn(painter, [STAR], cache)
    with torch.no_grad():
        other = with_lora(painter, 0.05)
    (checked,), rows = learn(other, [STAR], cache)
    assert rows == CHECK <= 30
    assert checked == probe
    assert learn(other, [STAR], cache) == ([probe], 0)
    assert learn(painter, [STAR], cache) == ([probe], 0)


def test_an_image_size_that_is_a_little_different_is_checked_on_a_few_rows(painter, cache):
    (probe,), _ = learn(painter, [STAR], cache)
    assert learn(painter, [STAR], cache, side=10) == ([probe], CHECK)
    assert learn(painter, [STAR], cache, side=10) == ([probe], 0)


def test_what_is_checked_together_shares_u_net_calls(painter, cache):
    probes, _ = learn(painter, [STAR, MOON], cache)
    checked, rows = learn(painter, [STAR, MOON], cache, side=10)
    assert checked == probes
    assert rows <= 2 * CHECK
    assert len(painter.rows) < 2 * 4


def test_where_a_kept_probe_does_not_hold_another_one_is_made_in_no_more_rows(painter, cache):
    (probe,), _ = learn(painter, [STAR], cache)
    other = Painter(1)
    learn(other, [MOON], cache)  # neutral images of its own
    (another,), rows = learn(other, [STAR], cache)
    assert rows == rows_needed(1, neutral=False) <= 120
    assert abs(cosine(probe, another)) < 0.9
    # Both are kept.
    assert learn(other, [STAR], cache) == ([another], 0)
    assert learn(painter, [STAR], cache) == ([probe], 0)


def test_without_a_checkpoint_only_what_is_exactly_the_same_is_used(painter, cache):
    learn(painter, [STAR], cache, checkpoint="")
    assert learn(painter, [STAR], cache, checkpoint="")[1] == 0
    with torch.no_grad():
        other = with_lora(painter, 0.05)
    assert learn(other, [STAR], cache, checkpoint="")[1] == rows_needed(1)
    assert learn(painter, [STAR], cache, checkpoint="", side=10)[1] == rows_needed(1)


def brings_in(concept):
    """An encoder under a LoRA with which prompts that say nothing in particular show ``concept``."""
    plain = encoder()
    shown = {text: f"{concept.name} {text}" for text in NEUTRAL_PROMPTS}
    return lambda texts: plain([shown.get(text, text) for text in texts])


@pytest.mark.parametrize("checkpoint", ["painter", ""])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rounding_makes_no_other_model(painter, cache, dtype, checkpoint):
    """Contexts that were encoded in another batch differ by rounding."""
    learn(painter, [STAR], cache, checkpoint=checkpoint)
    for seed in range(5):
        noise = torch.rand(77, 1, generator=torch.Generator().manual_seed(seed)) - 0.5
        other = replace(STAR, context=STAR.context * (1 + torch.finfo(dtype).eps * noise))
        assert learn(painter, [other], cache, checkpoint=checkpoint)[1] == 0


def test_what_a_concept_is_asked_for_with_makes_no_other_model(painter, cache):
    painter.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        learn(painter, [STAR], cache)
        learn(painter, [MOON, BALL], cache)
        assert learn(painter, [BALL, STAR, MOON], cache)[1] == 0


@pytest.mark.parametrize("checkpoint", ["painter", ""])
def test_a_lora_that_shows_a_concept_in_every_image_does_not_blind_the_model_without_it(
    painter, cache, checkpoint
):
    (expected,), _ = learn(painter, [STAR])
    known = {"cache": cache, "checkpoint": checkpoint}
    with torch.no_grad():
        other = with_lora(painter, 0.05)
    (blind,), _ = learn(other, [STAR], encode=brings_in(STAR), sees=False, **known)
    # Neither by that concept's probe nor by its neutral images.
    (probe,), rows = learn(painter, [STAR], **known)
    assert cosine(probe, expected) > 0.999
    assert probe.offset == pytest.approx(expected.offset, abs=0.01)
    assert rows <= rows_needed(1)
    assert learn(painter, [STAR], **known) == ([probe], 0)
    assert learn(other, [STAR], encode=brings_in(STAR), sees=False, **known) == ([blind], 0)
    # Its own neutral images serve the model from now on.
    assert learn(painter, [MOON], **known)[1] == rows_needed(1, neutral=False)
    assert len(list(cache.folder.glob("neutral-*"))) == 2


def test_a_concept_that_is_first_learnt_without_the_lora_is_not_blinded_either(painter, cache):
    (expected,), _ = learn(painter, [MOON])
    with torch.no_grad():
        other = with_lora(painter, 0.05)
    # Only the neutral images are the LoRA's.
    learn(other, [STAR], cache, encode=brings_in(MOON))
    (probe,), _ = learn(painter, [MOON], cache)
    assert cosine(probe, expected) > 0.999


def test_a_word_that_the_model_does_not_know_takes_no_neutral_images_of_its_own(painter, cache):
    unknown = replace(STAR, name="qwxz", context=torch.zeros_like(EMPTY))
    with torch.no_grad():
        other = with_lora(painter, 0.05)
    learn(painter, [unknown], cache, sees=False)
    assert learn(other, [unknown], cache, sees=False)[1] == rows_needed(1, neutral=False)
    assert learn(other, [unknown], cache, sees=False)[1] == 0


def test_neutral_images_of_another_model_serve_as_long_as_a_concept_is_told_from_them(painter, cache):
    with torch.no_grad():
        other = with_lora(painter, 0.05)
    learn(other, [STAR], cache)
    (probe,), rows = learn(painter, [MOON], cache)
    assert rows == rows_needed(1, neutral=False)
    assert len(list(cache.folder.glob("neutral-*"))) == 1
    assert cosine(probe, learn(painter, [MOON])[0][0]) > 0.99


@pytest.mark.parametrize(
    "other",
    [
        {"checkpoint": "another"},
        {"parameterization": "v"},
        {"alphas": torch.linspace(0.9999, 0.006, 1000)},
    ],
    ids=["checkpoint", "parameterization", "noise schedule"],
)
def test_another_checkpoint_parameterization_or_schedule_is_another_model(painter, cache, other):
    learn(painter, [STAR], cache)
    assert learn(painter, [STAR], cache, **other)[1] == rows_needed(1)
    assert learn(painter, [STAR], cache)[1] == 0


# ------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["probe-*.json", "neutral-*.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "garbage"])
def test_a_broken_file_is_made_anew(painter, cache, kind, damage):
    (probe,), _ = learn(painter, [STAR], cache)
    (file,) = cache.folder.glob(kind)
    content = file.read_bytes()
    broken = {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\x07" * len(content)}[damage]
    file.write_bytes(broken)
    if kind.startswith("probe"):
        assert learn(painter, [STAR], cache) == ([probe], rows_needed(1, neutral=False))
    else:
        assert learn(painter, [MOON], cache)[1] == rows_needed(1)
    assert file.read_bytes() == content
    assert not [path for path in cache.folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "content", ["{}", "[3]", '[{"probe": {"direction": [1], "offset": 0}, "models": []}]']
)
def test_json_that_is_no_probe_is_made_anew(painter, cache, content):
    learn(painter, [STAR], cache)
    (file,) = cache.folder.glob("probe-*.json")
    file.write_text(content)
    assert learn(painter, [STAR], cache)[1] == rows_needed(1, neutral=False)


def test_neutral_images_are_kept_as_moments_and_not_as_features(painter, cache):
    learn(painter, [STAR], cache)
    (file,) = cache.folder.glob("neutral-*.safetensors")
    features = 32 * 64 * 64 * 4
    assert file.stat().st_size < features / 3


def test_no_more_than_so_many_files_of_neutral_images_are_kept(painter, cache):
    for n in range(NEUTRAL_FILES + 3):
        cache.write_tensors(f"neutral-{n}", {"x": torch.ones(1)}, NEUTRAL_FILES)
        if n == NEUTRAL_FILES - 1:  # the first one is used again, so others go before it
            assert cache.read_tensors("neutral-0", dict) is not None
    left = {file.stem for file in cache.folder.glob("neutral-*.safetensors")}
    assert len(left) == NEUTRAL_FILES
    assert "neutral-0" in left
    assert "neutral-1" not in left


def test_probes_of_as_many_models_as_are_kept_do_not_grow_a_file_without_bound(painter, cache):
    learn(painter, [STAR], cache)
    (file,) = cache.folder.glob("probe-*.json")
    (kept,) = json.loads(file.read_text())
    for n in range(70):
        kept["models"].append({**kept["models"][0], "shape": [4, 100 + n, 100 + n]})
    file.write_text(json.dumps([kept] * 9))
    learn(painter, [STAR], cache, side=10)
    after = json.loads(file.read_text())
    assert len(after) <= 4
    assert max(len(one["models"]) for one in after[-1:]) <= 64


# ------------------------------------------------------------------- interruption, threads, progress


class StoppedError(Exception):
    pass


def test_what_was_finished_before_an_interruption_is_kept(painter, cache):
    limit = rows_needed(0) + 2 * rows_needed(1, neutral=False) + 40
    predict = painter.predict

    def until(*call):
        if sum(painter.rows) >= limit:
            raise StoppedError
        return predict(*call)

    painter.predict = until
    with pytest.raises(StoppedError):
        learn(painter, CONCEPTS[:4], cache)
    painter.predict = predict
    assert learn(painter, CONCEPTS[:2], cache)[1] == 0
    _, rest = learn(painter, CONCEPTS[:4], cache)
    assert 0 < rest <= 2 * rows_needed(1, neutral=False)


def test_after_an_interruption_the_u_net_is_as_it_was(painter, cache):
    def refuse(*call):
        raise StoppedError

    painter.predict, predict = refuse, painter.predict
    with pytest.raises(StoppedError):
        learn(painter, [STAR], cache)
    painter.predict = predict
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in painter.modules())


def test_two_threads_that_need_the_same_make_it_once(cache):
    rows, results, began = [], [], threading.Barrier(2)

    def work(painter):
        began.wait()
        results.append(learn(painter, [STAR, MOON], cache)[0])
        rows.append(sum(painter.rows))

    threads = [threading.Thread(target=work, args=(Painter(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert sorted(rows)[0] == 0
    assert rows_needed(1) < sorted(rows)[1] <= rows_needed(2)


def test_two_caches_of_one_folder_share_their_lock(tmp_path):
    (tmp_path / "a").mkdir()
    assert CalibrationCache(tmp_path / "a").lock is CalibrationCache(tmp_path / "b" / ".." / "a").lock
    assert CalibrationCache(tmp_path / "a").lock is not CalibrationCache(tmp_path / "b").lock


def test_progress_says_what_is_learnt_and_grows(painter, cache):
    reports, rows_at = [], []

    def report(progress):
        reports.append(progress)
        rows_at.append(sum(painter.rows))

    def prepare():
        reports.clear(), rows_at.clear(), painter.rows.clear()
        calibrate_concepts(
            painter, CONCEPTS[:3], EMPTY, encoder(), painter.denoiser(), cache=cache, report=report
        )

    prepare()
    assert len(reports) == len(painter.rows)  # before each call
    total = sum(painter.rows)
    assert [r.done for r in reports] == pytest.approx([done / total for done in rows_at], abs=0.05)
    done = [r.done for r in reports]
    assert done == sorted(done)
    assert done[0] == 0
    assert {r.of for r in reports} == {3}
    told = list(dict.fromkeys((r.number, r.concept) for r in reports))
    assert told == [(0, ""), (1, "star"), (2, "moon"), (3, "ball")]
    prepare()
    assert not reports


# --------------------------------------------------------------------------------- preparing ahead


@pytest.mark.parametrize(("mode", "maps"), [("adaptive", False), ("strict", False), ("constant", True)])
def test_what_was_prepared_is_found_by_an_eraser(painter, cache, mode, maps):
    known = (painter, [STAR, MOON], EMPTY, encoder(), painter.denoiser())
    calibrate_concepts(*known, cache=cache, checkpoint="painter")
    painter.rows.clear()
    before = {file: file.read_bytes() for file in cache.folder.iterdir()}
    build_eraser(*known, mode=mode, maps=maps, cache=cache, checkpoint="painter")
    assert not painter.rows
    assert before == {file: file.read_bytes() for file in cache.folder.iterdir()}


@pytest.mark.parametrize(("gate", "probes"), [(True, False), (False, True)])
def test_a_part_can_be_prepared_alone(painter, cache, gate, probes):
    known = (painter, [STAR], EMPTY, encoder(), painter.denoiser())
    calibrate_concepts(*known, cache=cache, gate=gate, probes=probes)
    assert bool(painter.rows) == probes
    of_probes = {*cache.folder.glob("probe-*"), *cache.folder.glob("neutral-*")}
    assert bool(of_probes) == probes
    assert bool({*cache.folder.iterdir()} - of_probes) == gate


# ------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_half_precision_gives_the_probes_of_full_precision(cache, dtype, how):
    full, _ = learn(Painter(), CONCEPTS[:3])
    painter = Painter()
    if how == "autocast":
        with torch.autocast("cpu", dtype):
            half, _ = learn(painter, CONCEPTS[:3], cache)
    else:
        painter.to(dtype)
        concepts = [replace(c, context=c.context.to(dtype)) for c in CONCEPTS[:3]]
        make_probes = ProbeMaker(
            painter,
            EMPTY.to(dtype),
            encoder(dtype),
            painter.denoiser(),
            cache=cache,
            checkpoint="painter",
        )
        half = make_probes(concepts)
    for one, other in zip(full, half):
        assert cosine(one, other) >= 0.99
    # In full precision, they hold.
    checked, rows = learn(Painter(), CONCEPTS[:3], cache)
    assert checked == half
    assert rows <= 3 * CHECK


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize(("where", "what"), [("features", "features"), ("predictions", "predicts")])
def test_overflow_ends_in_an_error_that_says_what_to_do_and_nothing_is_kept(
    painter, cache, where, what, value
):
    bias = (painter.inward if where == "features" else painter.outward).bias
    if where == "features":
        # Only what enters the layers overflows; what comes out of the U-Net is finite.
        handle = painter.output_blocks[0].attn2.to_q.register_forward_pre_hook(
            lambda m, args: (torch.full_like(args[0], value),), prepend=False
        )
        painter.forward = _finite(painter.forward)
    else:
        bias[0] = value
    with pytest.raises(ErasureError, match=rf"{what}.*half precision.*--no-half"):
        learn(painter, [STAR], cache)
    if where == "features":
        handle.remove()
    assert not cache.folder.exists() or not list(cache.folder.iterdir())


def _finite(forward):
    return lambda x, timesteps, context: forward(x, timesteps, context).nan_to_num(0, 0, 0)


def test_a_schedule_that_ends_in_pure_noise_is_no_obstacle(painter):
    alphas = torch.linspace(0.9999, 0.0, 1000)
    probes, _ = learn(painter, [STAR], alphas=alphas)
    assert torch.tensor(probes[0].direction).isfinite().all()
