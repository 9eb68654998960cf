"""Counts of a corrected image against matching all of its objects anew."""

import numpy as np
import pytest

from plurimask.instances import Instances, concatenate
from plurimask.metrics.segmentation import THRESHOLDS, score
from plurimask.proofreading.corrections import Components, Corrections
from plurimask.proofreading.inspections import Scene, at_objects, at_peaks

QUEUES = {"peaks": at_peaks, "objects": at_objects}


def corrections(image, queue, *, thresholds=THRESHOLDS, empty=1.0):
    doubtful, truth = image
    scene = Scene(doubtful, doubtful.best(), truth)
    return scene, Corrections.of(Components.of(scene, thresholds), queue(scene), empty=empty)


def anew(scene, inspections, **settings):
    """The scores of the image with these inspections made, from its masks."""
    gone = frozenset[int]().union(*(one.goes for one in inspections))
    comes = frozenset[int]().union(*(one.comes for one in inspections))
    kept = scene.found.select(sorted(set(range(len(scene.found))) - gone))
    kept = Instances(kept.boxes, kept.masks, kept.scores, kept.shape)
    return score(scene.truth, concatenate([kept, scene.truth.select(sorted(comes))]), **settings)


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("seed", range(6))
def test_counts_and_s_against_the_metrics(random_image, seed, queue):
    thresholds = (0.2, 0.5, 0.7, 0.95)  # low ones entangle many objects
    scene, reviewed = corrections(random_image(seed, count=8), QUEUES[queue], thresholds=thresholds)
    order = np.random.default_rng(seed).permutation(len(reviewed.alone)).tolist()
    counts = reviewed.counts([order])[0]
    s = reviewed.s(counts)
    for made in range(len(order) + 1):
        scores = anew(scene, [reviewed.queue.inspections[index] for index in order[:made]], thresholds=thresholds)
        assert counts[made].tolist() == [*scores.tp.tolist(), scores.found_count]
        np.testing.assert_allclose(s[made], scores.s)


@pytest.mark.parametrize("queue", QUEUES)
def test_many_orders_at_once_are_each_for_itself(random_image, queue):
    _, reviewed = corrections(random_image(3, count=12), QUEUES[queue], thresholds=(0.2, 0.5))
    assert len(reviewed.tangles) > 0, "test invalid"
    orders = np.stack([np.random.default_rng(seed).permutation(len(reviewed.alone)) for seed in range(20)])
    alone = [reviewed.counts([order])[0] for order in orders]
    np.testing.assert_array_equal(reviewed.counts(orders), alone)
    # A way that ends early is the beginning of the whole one.
    np.testing.assert_array_equal(reviewed.counts(orders[:, :4]), np.array(alone)[:, :5])
    assert reviewed.counts(orders[:, :0]).tolist() == [[reviewed.start.tolist()]] * 20


def test_a_tangle_of_more_inspections_than_an_integer_has_bits(agglomerate):
    """Seventy bars, each moved by one column: at a threshold of 1/3 every one meets the next."""
    width, count = 4, 70
    starts = 2 * np.arange(count)
    masks = [
        (np.arange(2 * count + width) >= start) & (np.arange(2 * count + width) < start + width) for start in starts
    ]
    truth = Instances.from_masks([np.stack([mask] * 4) for mask in masks], (4, 2 * count + width))
    found = Instances(truth.boxes, truth.masks, truth.scores, truth.shape)
    scene, reviewed = corrections((agglomerate([found]), truth), at_objects, thresholds=(1 / 3, 0.9))
    assert max(len(tangle.effects) for tangle in reviewed.tangles) == count > 63
    order = np.random.default_rng(0).permutation(count).tolist()
    counts = reviewed.counts([order])[0]
    for made in (0, 1, 35, count):
        scores = anew(scene, [reviewed.queue.inspections[index] for index in order[:made]], thresholds=(1 / 3, 0.9))
        assert counts[made].tolist() == [*scores.tp.tolist(), scores.found_count]


def test_equal_objects_are_matched_one_to_one(agglomerate):
    """Three true objects on one place, found as two: neither is any of them matched twice, nor the third found."""
    mask = np.ones((4, 4), bool)
    truth, found = (Instances.from_masks([mask] * count, (4, 4)) for count in (3, 2))
    _, reviewed = corrections((agglomerate([found]), truth), at_objects, thresholds=(0.5,))
    # Both have the first true object as their counterpart; it and the two missed ones come in.
    assert reviewed.counts([[0]])[0].tolist() == [[2, 2], [3, 3]]


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("seed", range(2))
def test_greedy_takes_the_best_that_is_left(random_image, seed, queue):
    scene, reviewed = corrections(random_image(seed), QUEUES[queue])
    every, made, settled = reviewed.queue.inspections, [], set()
    for best, gain in reviewed.greedy():
        assert best not in settled
        before = anew(scene, made).s.mean()
        left = set(range(len(every))) - settled
        gains = {index: anew(scene, [*made, every[index]]).s.mean() - before for index in left}
        assert gain == pytest.approx(gains[best])
        assert gain == pytest.approx(max(gains.values()))
        made.append(every[best])
        settled |= every[best].settles
    assert settled == set(range(len(every)))


def test_what_nothing_counts(agglomerate, touching_blobs):
    nothing = Instances.empty(touching_blobs.shape)
    nowhere, everywhere = agglomerate([nothing]), agglomerate([touching_blobs])
    cases = {(nowhere, nothing): [0.25], (nowhere, touching_blobs): [0], (everywhere, touching_blobs): [1, 1, 1]}
    for image, expected in cases.items():
        _, reviewed = corrections(image, at_objects, thresholds=(0.5,), empty=0.25)
        assert reviewed.s(reviewed.counts([range(len(reviewed.alone))])).ravel().tolist() == expected
    # Two inventions: wrong until the last one has gone.
    _, reviewed = corrections((everywhere, nothing), at_objects, thresholds=(0.5,), empty=0.25)
    assert reviewed.s(reviewed.counts([[1, 0]])).ravel().tolist() == [0, 0, 0.25]
