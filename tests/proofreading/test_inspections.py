"""What an inspection sees and corrects: a drawn image, and random ones against the rules on dense masks."""

import math

import numpy as np
import pytest
from scipy import ndimage

from plurimask import uncertainty
from plurimask.instances import Instances
from plurimask.proofreading.inspections import Scene, at_objects, at_peaks

SPLIT, SECOND_HALF, INVENTION, DOUBTFUL = range(4)  # of the drawn image, from left to right
H = uncertainty.binary_entropy


def scene(image, choose=None):
    doubtful, truth = image
    return Scene(doubtful, doubtful.best() if choose is None else choose(doubtful), truth)


def outcomes(queue):
    return {(one.goes, one.comes) for one in queue.inspections}


def sets(*pairs):
    return {(frozenset(goes), frozenset(comes)) for goes, comes in pairs}


def test_the_drawn_image_is_what_it_is_said_to_be(worms):
    drawn = scene(worms)
    assert drawn.found.boxes[:, 0, 1].tolist() == [0, 12, 36, 52]
    assert drawn.counterpart.tolist() == [0, 0, -1, 1]
    assert drawn.missed == {2, 3}
    assert drawn.shown.all()


def test_objects_of_the_drawn_image(worms):
    queue = at_objects(scene(worms))
    assert outcomes(queue) == sets(
        ({SPLIT, SECOND_HALF}, {0}),  # the split worm is mended at once
        ({INVENTION}, ()),
        ({DOUBTFUL}, {1, 2}),  # and the missed object beside it is seen
    )
    assert queue.within_reach() == {0, 1, 2}, "the far one is out of reach"
    # 1 - existence * agreement: the last of 3 patches is in three of four draws, and so is the whole invention.
    order = [next(place for place, one in enumerate(queue.inspections) if found in one.goes) for found in (0, 2, 3)]
    np.testing.assert_allclose(queue.doubts[order], [1 - 11 / 12, 1 - 3 / 4, 1 - 11 / 12])
    np.testing.assert_allclose(queue.peaks, H(np.array([3 / 4] * 3)))


def test_peaks_of_the_drawn_image(worms):
    queue = at_peaks(scene(worms))
    assert [sorted(one.goes) for one in queue.inspections] == [[0, 1], [0, 1], [2], [3]]
    assert [sorted(one.comes) for one in queue.inspections] == [[0], [0], [], [1, 2]]
    assert [sorted(one.settles) for one in queue.inspections] == [[0, 1], [0, 1], [2], [3]]
    np.testing.assert_allclose(queue.peaks, [0, *H(np.array([3 / 4] * 3))])


def test_a_peak_shows_less_than_an_object(draw, agglomerate):
    # The missed object is next to the first patch of the found one, but the doubt is at its last one.
    truth = draw(["2........", ".1111...."])
    usual, other = draw([".........", ".1111...."]), draw([".........", ".111....."])
    drawn = scene((agglomerate([usual, usual, usual, other]), truth))
    assert outcomes(at_peaks(drawn)) == sets(({0}, {0}))
    assert outcomes(at_objects(drawn)) == sets(({0}, {0, 1}))


def test_found_objects_at_a_peak_are_corrected_together(draw, agglomerate):
    truth = draw(["11122333", "11122333"])
    usual, other = draw(["11122333", "11122333"]), draw(["111.2333", "11122333"])
    queue = at_peaks(scene((agglomerate([usual, other]), truth)))
    middle = queue.inspections[int(queue.peaks.argmax())]
    assert queue.peaks.max() == pytest.approx(math.log(2))
    assert sorted(middle.goes) == sorted(middle.comes) == [0, 1]
    assert middle.settles == {0, 1}


def test_rivals_are_one_question(draw, agglomerate):
    """Whole in half of the draws, halves in the others; there are two."""
    truth = draw(["111222......33"])
    whole, halves = draw(["111111......22"]), draw(["111222......33"])
    drawn = scene((agglomerate([whole, whole, halves, halves]), truth))
    assert drawn.found.areas.tolist() == [6 * 16, 2 * 16], "test invalid: the whole is shown"
    assert outcomes(at_objects(drawn)) == sets(({0}, {0, 1}), ({1}, {2}))
    # All patches are in half of the draws: the first is as high as any, and the second half is not next to it.
    assert outcomes(at_peaks(drawn)) == sets(({0}, {0}), ({0}, {0, 1}), ({1}, {2}))
    assert [len(one.settles) for one in at_peaks(drawn).inspections if 0 in one.goes] == [3, 3, 3]


def test_what_only_a_rejected_hypothesis_shows(draw, agglomerate):
    truth, nothing = draw(["11...."]), draw(["......"])
    doubtful = agglomerate([truth, nothing, nothing, nothing])
    drawn = scene((doubtful, truth))
    assert len(drawn.found) == 0
    for queue in (at_objects(drawn), at_peaks(drawn)):
        assert outcomes(queue) == sets(((), {0}))
        assert queue.doubts.tolist() == [1 / 4]


def test_an_incomplete_patch_counts_as_certain_where_it_is_cut(agglomerate):
    labels = np.zeros((5, 6), int)
    labels[4, 4:] = 1
    there, empty = Instances.from_labels(labels), Instances.empty((5, 6))
    queue = at_peaks(scene((agglomerate([there, empty]), there)))
    assert queue.peaks.tolist() == pytest.approx([2 * math.log(2) / 16])


def test_no_objects(agglomerate):
    nothing = Instances.empty((8, 8))
    for queue in (at_peaks, at_objects):
        found = queue(scene((agglomerate([nothing, nothing]), nothing)))
        assert found.inspections == ()
        assert found.doubts.shape == found.peaks.shape == (0,)
        assert found.within_reach() == frozenset()


def test_volumes(touching_balls, agglomerate):
    drawn = scene((agglomerate([touching_balls, touching_balls]), touching_balls))
    assert outcomes(at_objects(drawn)) == sets(({0}, {0}), ({1}, {1}))
    assert at_peaks(drawn).peaks.tolist() == [0, 0]


def test_errors(worms, touching_blobs):
    doubtful, truth = worms
    with pytest.raises(ValueError, match="shape"):
        Scene(doubtful, doubtful.best(), touching_blobs)
    with pytest.raises(ValueError, match="which hypothesis"):
        Scene(doubtful, truth, truth)


# ------------------------------------------------------------------------------------------ the rules on dense masks


def dense_patches(values):
    """Mean over every patch of 4 x 4, missing pixels 0; and its 3 x 3 neighbourhood as pixels."""
    padded = np.pad(values, [(0, -length % 4) for length in values.shape])
    tops, lefts = padded.shape[0] // 4, padded.shape[1] // 4
    return np.array([[padded[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() for j in range(lefts)] for i in range(tops)])


def dense_around(shape, i, j):
    mask = np.zeros(shape, bool)
    mask[max(0, 4 * i - 4) : 4 * i + 8, max(0, 4 * j - 4) : 4 * j + 8] = True
    return mask


def dense_counts(doubtful):
    counts = np.zeros((len(doubtful), *doubtful.shape), int)
    for plane, box, crop in zip(counts, doubtful.boxes, doubtful.counts, strict=True):
        plane[box[0, 0] : box[1, 0], box[0, 1] : box[1, 1]] = crop
    return counts


def dense_counterparts(found, truth):
    partners = []
    for mask in found:
        ious = [(mask & other).sum() / (mask | other).sum() for other in truth]
        partners.append(int(np.argmax(ious)) if ious and max(ious) > 0 else None)
    return partners


def dense_outcome(place, looked_at, truth, partners):
    comes = {partners[one] for one in looked_at} - {None}
    goes = set(looked_at) | {one for one, partner in enumerate(partners) if partner in comes}
    comes |= {index for index, mask in enumerate(truth) if index not in partners and (mask & place).any()}
    return frozenset(goes), frozenset(comes)


CHOICES = {"best": lambda result: result.best(), "threshold": lambda result: result.threshold(0.75)}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("seed", range(8))
def test_peaks_against_dense_masks(random_image, seed, choice):
    drawn = scene(random_image(seed), CHOICES[choice])
    counts, found, truth = dense_counts(drawn.doubtful), drawn.found.to_masks(), drawn.truth.to_masks()
    hypothesis, partners = drawn.found.features["hypothesis"].tolist(), dense_counterparts(found, truth)
    queue = at_peaks(drawn)
    for index, one in enumerate(queue.inspections):
        entropies = dense_patches(H(counts[index] / 4)).round(9)
        assert queue.peaks[index] == pytest.approx(entropies.max())
        best = np.where(entropies == entropies.max(), dense_patches(counts[index]), -1)
        place = dense_around(counts.shape[1:], *np.unravel_index(best.argmax(), best.shape))
        touching = {n for n, mask in enumerate(found) if (mask & place).any() or hypothesis[n] == index}
        assert (one.goes, one.comes) == dense_outcome(place, touching, truth, partners)
        gone = {hypothesis[n] for n in one.goes}
        rivals = {int(b) for pair in drawn.doubtful.conflicts.tolist() for a, b in (pair, pair[::-1]) if a in gone}
        there = {n for n, plane in enumerate(counts) if (plane[place] > 0).any()}
        assert one.settles == gone | {index} | ((rivals | there) - set(hypothesis))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("seed", range(8))
def test_objects_against_dense_masks(random_image, seed, choice):
    drawn = scene(random_image(seed), CHOICES[choice])
    counts, found, truth = dense_counts(drawn.doubtful), drawn.found.to_masks(), drawn.truth.to_masks()
    hypothesis, partners = drawn.found.features["hypothesis"].tolist(), dense_counterparts(found, truth)
    links = drawn.doubtful.conflicts.tolist() + [
        [hypothesis[a], hypothesis[b]]
        for a in range(len(found))
        for b in range(len(found))
        if partners[a] == partners[b] is not None
    ]
    groups = [{index} for index in range(len(counts))]
    for a, b in links:  # union by hand
        joined = next(g for g in groups if a in g) | next(g for g in groups if b in g)
        groups = [g for g in groups if not g & joined] + [joined]
    expected = set()
    for group in groups:
        used = dense_patches(counts[sorted(group)].sum(axis=0)) > 0
        grown = ndimage.maximum_filter(used, 3)
        place = np.kron(grown, np.ones((4, 4), bool))[: counts.shape[1], : counts.shape[2]]
        looked_at = [n for n in range(len(found)) if hypothesis[n] in group]
        expected.add(dense_outcome(place, looked_at, truth, partners))
    queue = at_objects(drawn)
    assert len(queue.inspections) == len(groups)
    assert outcomes(queue) == expected
    assert [one.settles for one in queue.inspections] == [{index} for index in range(len(groups))]


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_in_twice(random_image, seed):
    """After any inspections: no found object beside its counterpart, and all of them leave what is within reach."""
    drawn = scene(random_image(seed))
    generator = np.random.default_rng(seed)
    for queue in (at_peaks(drawn), at_objects(drawn)):
        present, put_in = set(range(len(drawn.found))), set()
        for index in generator.permutation(len(queue.inspections)):
            present -= queue.inspections[index].goes
            put_in |= queue.inspections[index].comes
            assert not {int(drawn.counterpart[one]) for one in present} & put_in
        assert not present
        assert put_in == queue.within_reach()
        assert put_in >= frozenset(range(len(drawn.truth))) - drawn.missed


def test_the_random_images_have_every_kind_of_mistake(random_image):
    drawn = [scene(random_image(seed)) for seed in range(8)]
    assert any((one.counterpart < 0).any() for one in drawn), "no invention"
    assert any(len(set(one.counterpart.tolist())) < len(one.counterpart) for one in drawn), "no split"
    assert any(not one.shown.all() for one in drawn), "nothing rejected"
    assert any(len(one.doubtful.conflicts) for one in drawn), "no conflict"
    assert any(one.missed & at_objects(one).within_reach() for one in drawn), "nothing missed within reach"
    assert any(one.missed - at_objects(one).within_reach() for one in drawn), "nothing missed out of reach"
