"""The watch on features made by hand."""

import pytest
import torch

from eiup.probes import Neutral, Probe, Sight, fit, seen_in_neutral
from eiup.watch import BOUND, Watch

WIDTH, POSITIONS = 16, 9
SIGN = torch.eye(WIDTH)[3] * 12.0


def images(count, shown, seed):
    """Features that are noise; where ``shown``, one position of each image has the sign of the concept."""
    features = torch.randn(count, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(seed))
    where = torch.zeros(count, POSITIONS, dtype=torch.bool)
    where[range(count), [i % POSITIONS for i in range(count)]] = True
    if shown:
        features[where] += SIGN
    return features, where


def sight_of(*probes):
    layer = torch.nn.Identity()
    sight = Sight([layer], probes, torch.device("cpu"))

    def see(features):
        sight.keep(layer, features)
        return sight.q(slice(None)).amax(dim=1)

    return see


def test_a_probe_tells_images_that_show_the_concept_wherever_they_do():
    shown, where = images(12, True, 0)
    probe = fit(shown, where, ~where, images(40, False, 1)[0], Neutral.of(images(40, False, 4)[0]))
    see = sight_of(probe)
    assert see(shown)[:, 0].quantile(0.1) == pytest.approx(1, abs=1e-4)
    assert (see(images(30, True, 2)[0])[:, 0] >= BOUND).all()
    assert (see(images(30, False, 3)[0])[:, 0] < BOUND).all()


def test_neutral_images_may_show_the_concept_now_and_then():
    shown, where = images(12, True, 0)
    neutral = torch.cat([images(24, False, 4)[0], images(16, True, 5)[0]])
    see = sight_of(fit(shown, where, ~where, images(40, False, 1)[0], Neutral.of(neutral)))
    assert (see(images(30, True, 2)[0])[:, 0] >= BOUND).all()
    assert (see(images(30, False, 3)[0])[:, 0] < BOUND).all()


def test_what_every_image_shows_is_never_seen():
    shown, where = images(12, True, 0)
    probe = fit(shown, where, ~where, images(40, False, 1)[0], Neutral.of(images(40, True, 4)[0]))
    assert (sight_of(probe)(shown) == 0).all()


def test_in_how_many_neutral_images_a_concept_is_seen():
    shown, where = images(12, True, 0)
    learnt_from = shown, where, ~where, images(40, False, 1)[0]
    neutral = Neutral.of(torch.cat([images(10, False, 4)[0], images(30, True, 5)[0]]))
    assert seen_in_neutral(*learnt_from, neutral) == pytest.approx(0.75, abs=0.05)
    assert seen_in_neutral(shown, where, ~where, shown, neutral) is None


def test_what_erasing_does_not_change_is_never_seen():
    shown, where = images(12, True, 0)
    nowhere = torch.zeros(where.shape)
    probe = fit(shown, nowhere, ~where, shown, Neutral.of(images(40, False, 4)[0]))
    assert (sight_of(probe)(shown) == 0).all()


def test_what_comes_along_with_a_concept_does_not_tell_it():
    company = torch.eye(WIDTH)[7] * 20.0
    shown, where = images(12, True, 0)
    probe = fit(shown + company, where, ~where, images(40, False, 1)[0], Neutral.of(images(40, False, 4)[0]))
    see = sight_of(probe)
    assert see(images(30, False, 3)[0] + company).max() < BOUND
    assert see(images(30, True, 2)[0] + company).min() >= BOUND


def test_concepts_are_seen_each_by_its_own_probe():
    shown, where = images(12, True, 0)
    probe = fit(shown, where, ~where, images(40, False, 1)[0], Neutral.of(images(40, False, 4)[0]))
    blind = Probe((0.0,) * WIDTH, 0.0)
    q = sight_of(blind, probe)(shown)
    assert (q[:, 0] == 0).all()
    assert (q[:, 1] > 0.5).all()


def test_a_word_that_the_model_does_not_know_is_never_seen():
    shown, where = images(12, False, 0)
    see = sight_of(fit(shown, where, ~where, images(12, False, 1)[0], Neutral.of(images(40, False, 4)[0])))
    assert (see(torch.cat([shown, images(40, False, 5)[0]])) == 0).all()


def test_neutral_images_come_back_from_what_is_stored_of_them():
    features = images(40, True, 4)[0] * torch.logspace(-3, 3, WIDTH)
    neutral = Neutral.of(features)
    back = Neutral.of_tensors(neutral.to_tensors())
    assert back.positions == 40 * POSITIONS
    deviation = neutral.covariance.diagonal().sqrt()
    off = (back.covariance - neutral.covariance) / deviation / deviation[:, None]
    assert off.abs().max() < 1e-3
    torch.testing.assert_close(back.covariance, back.covariance.T)
    torch.testing.assert_close(back.mean, neutral.mean)


def test_probes_do_not_depend_on_whether_neutral_images_were_stored():
    shown, where = images(12, True, 0)
    neutral = Neutral.of(images(40, False, 4)[0])
    stored = Neutral.of_tensors(neutral.to_tensors())
    one, other = (fit(shown, where, ~where, images(40, False, 1)[0], n) for n in (neutral, stored))
    directions = torch.tensor([one.direction, other.direction])
    assert torch.nn.functional.cosine_similarity(*directions, dim=0) > 0.9999
    assert one.offset == pytest.approx(other.offset, abs=0.01)


def test_the_positions_kept_of_a_neutral_image_have_those_that_stand_out():
    features = torch.randn(3, 400, WIDTH, generator=torch.Generator().manual_seed(8))
    features[:, 123] += SIGN
    kept = Neutral.of(features).extremes
    assert kept.shape[1] < 400 / 4
    for image, few in zip(features, kept):
        assert (few == image[123]).all(dim=1).any()


@pytest.mark.parametrize("missing", ["mean", "deviation", "correlation", "extremes", "scale", "positions"])
def test_neutral_images_are_not_made_of_a_part_or_of_what_is_no_number(missing):
    tensors = Neutral.of(images(40, False, 4)[0]).to_tensors()
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        Neutral.of_tensors({name: x for name, x in tensors.items() if name != missing})
    if missing != "positions":
        with pytest.raises(ValueError, match="no numbers"):
            Neutral.of_tensors({**tensors, missing: torch.full_like(tensors[missing], float("nan"))})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_a_probe_is_fitted_and_sees_in_full_precision(dtype):
    shown, where = images(12, True, 0)
    erased, neutral = images(40, False, 1)[0], images(40, False, 4)[0]

    def fitted():
        probe = fit(shown, where, ~where, erased, Neutral.of(neutral))
        return probe, probe.q(shown), sight_of(probe)(shown)[:, 0]

    probe, q, seen = fitted()
    with torch.autocast("cpu", dtype):
        again = fitted()
    assert again[0] == probe
    assert torch.equal(again[1], q)
    assert torch.equal(again[2], seen)
    torch.testing.assert_close(q, seen)


SIZE = (4, 4)
FIRST, BESIDE, OTHER = (0, 3), (1, 2), (3, 0)


class Watching:
    """Sampling passes of one image whose prompt brings the concept in, ``q`` at places as they are given."""

    def __init__(self):
        self.layer = torch.nn.Identity()
        self.watch = Watch(Sight([self.layer], [Probe((1.0,), 0.0)], torch.device("cpu")))

    def sees(self, *looks):
        """How the concept is erased after a pass in which it is seen so, in its first look and late ones."""
        self.watch.looks(0.0)
        self.watch.hear([0], [[0.8]])
        for at, places in zip((0.4, 0.7, 0.9), looks):
            begins_anew = self._looks(at, places)
        return begins_anew, self.watch.erased[0, 0]

    def _looks(self, at, places):
        watch, q = self.watch, torch.full(SIZE, -1.0)
        for place, value in places.items():
            q[place] = value
        assert watch.looks(at)
        watch.sight.keep(self.layer, q.flatten()[None, :, None])
        begins_anew = bool(watch.look(slice(None), [0], [0], SIZE))
        if begins_anew:
            watch.begin_anew()
        return begins_anew


def test_a_concept_is_erased_where_it_is_seen():
    begins_anew, erasure = Watching().sees({FIRST: 1.0, BESIDE: 0.3})
    assert begins_anew
    assert erasure.places[FIRST] == 1
    assert erasure.places[BESIDE] == erasure.places[OTHER] < 0.2


def test_a_concept_that_comes_up_elsewhere_is_erased_there_too_and_more():
    watching = Watching()
    _, first = watching.sees({FIRST: 1.0})
    begins_anew, second = watching.sees({FIRST: -1.0, OTHER: 0.9})
    assert begins_anew
    assert second.share > first.share
    assert second.places[FIRST] == second.places[OTHER] == 1
    assert second.places[BESIDE] < 0.2
    begins_anew, _ = watching.sees({FIRST: -1.0, OTHER: 0.1})
    assert not begins_anew


def test_a_place_that_does_not_yield_is_widened():
    watching = Watching()
    watching.sees({FIRST: 1.0})
    begins_anew, erasure = watching.sees({FIRST: 0.95})
    assert begins_anew
    assert erasure.places[FIRST] == erasure.places[BESIDE] == 1
    assert erasure.places[OTHER] < 0.2


def test_what_stays_as_it_was_while_the_concept_yields_is_something_else():
    watching = Watching()
    watching.sees({FIRST: 1.0, OTHER: 0.7})
    begins_anew, _ = watching.sees({FIRST: -1.0, OTHER: 0.68})
    assert not begins_anew


def test_a_concept_that_moves_to_a_place_where_it_is_erased_is_erased_more():
    watching = Watching()
    watching.sees({FIRST: 1.0, OTHER: 0.65})
    begins_anew, _ = watching.sees({FIRST: -1.0, OTHER: 1.0})
    assert begins_anew


def test_a_concept_that_comes_back_late_is_erased_there_too_and_more_behind_the_look():
    watching = Watching()
    _, first = watching.sees({FIRST: 1.0})
    begins_anew, second = watching.sees({FIRST: -1.0}, {FIRST: -1.0}, {FIRST: -1.0, OTHER: 0.8})
    assert begins_anew
    assert second.share > first.share
    assert second.afterwards > first.afterwards
    assert second.places[FIRST] == second.places[OTHER] == 1
    assert second.places[BESIDE] < 0.2
