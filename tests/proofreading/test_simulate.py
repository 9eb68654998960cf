"""The simulation against counts by hand, and against a literal one that paints masks and searches the patches anew."""

import copy
import itertools

import numpy as np
import pytest

from plurimask import uncertainty
from plurimask.instances import Instances
from plurimask.metrics.bootstrap import Interval, paired_difference
from plurimask.metrics.segmentation import score
from plurimask.proofreading.simulate import SHARES, simulate

SHAPE = (42, 50)

# The drawn image at an IoU of 0.75 after some inspections, TP / (TP + FP + FN): four true objects; found are two
# halves, an invention and one of the four; with the doubtful one, the missed one beside it is seen.
S = {
    "": 1 / 7,
    "split": 2 / 5,
    "invention": 1 / 6,
    "doubtful": 2 / 7,
    "invention split": 2 / 4,
    "doubtful split": 3 / 5,
    "doubtful invention": 2 / 6,
    "doubtful invention split": 3 / 4,
}


def way(*inspections):
    """S of the drawn image after every inspection."""
    return [S[" ".join(sorted(inspections[:made]))] for made in range(len(inspections) + 1)]


def area(values):
    return float(np.trapezoid(values) / (len(values) - 1))


def row(simulation, inspection, order):
    return next(one for one in simulation.rows if (one.inspection, one.order) == (inspection, order))


def at_75(images, **settings):
    return simulate(images, thresholds=[0.75], **settings)


# -------------------------------------------------------------------------------------------------- counted by hand


def test_curves_of_the_drawn_image(worms):
    curves = at_75([worms]).curves
    expected = {
        "doubt": way("invention", "split", "doubtful"),  # 1/4, and twice 1/12: the first first
        "peaks": way("split", "invention", "doubtful"),  # all are 3/4 in a patch
        "ideal": way("split", "doubtful", "invention"),
    }
    for order, values in expected.items():
        np.testing.assert_allclose(curves[order].average, np.interp(SHARES, np.arange(4) / 3, values))
        assert curves[order].areas.tolist() == [pytest.approx(area(values))]
        assert curves[order].gain.mean == pytest.approx(area(values) - curves["random"].areas[0])
    assert curves["random"].gain == Interval(0, 0, 0)


def test_random_orders_against_all_orders(worms):
    names = ["split", "invention", "doubtful"]
    every = np.mean([way(*order) for order in itertools.permutations(names)], axis=0)
    simulation = at_75([worms], repeats=2000, corrections=[0, 50, 100, 150])
    np.testing.assert_allclose(
        simulation.curves["random"].average, np.interp(SHARES, np.arange(4) / 3, every), atol=0.01
    )
    np.testing.assert_allclose(row(simulation, "object", "random").average, every, atol=0.01)
    # The split worm has two peaks; the second of them is settled.
    peaks = [list(dict.fromkeys(order)) for order in itertools.permutations(["split", *names])]
    settled = np.mean([way(*order) for order in peaks], axis=0)
    assert abs(settled - every).max() > 0.02, "test invalid"
    np.testing.assert_allclose(row(simulation, "peak", "random").average, settled, atol=0.01)


def test_corrections_go_where_the_doubt_is(worms, agglomerate):
    certain = agglomerate([worms[1]] * 4), worms[1]
    simulation = at_75([certain, worms], corrections=[75, 0, 25, 500])
    found = row(simulation, "object", "doubt")
    assert found.corrections == (3, 0, 1, 20)
    doubtful = way("invention", "split", "doubtful")
    np.testing.assert_allclose(found.s[:, 0], [(1 + doubtful[made]) / 2 for made in (3, 0, 1, 3)])
    assert simulation.truth_count == 8
    assert simulation.missed == 2
    assert simulation.unreachable == {"peak": 1, "object": 1}


def test_the_best_image_comes_first(worms, draw, agglomerate):
    # In the second image one correction mends all there is.
    truth, found = draw(["1111"]), draw(["1122"])
    simulation = at_75([worms, (agglomerate([found]), truth)], corrections=[0, 25, 50])
    for inspection in ("peak", "object"):
        expected = [(S[""] + 0) / 2, (S[""] + 1) / 2, (S["split"] + 1) / 2]
        np.testing.assert_allclose(row(simulation, inspection, "ideal").average, expected)


@pytest.mark.parametrize(("images", "expected"), [(22, (0, 2, 4, 7, 9)), (25, (0, 3, 5, 8, 10)), (3, (0, 0, 1, 1, 1))])
def test_corrections_are_in_proportion_to_the_images(agglomerate, images, expected):
    nothing = Instances.empty((8, 8))
    assert simulate([(agglomerate([nothing]), nothing)] * images).rows[0].corrections == expected


def test_images_without_objects(agglomerate, touching_blobs):
    nothing = Instances.empty(touching_blobs.shape)
    nowhere, everywhere = agglomerate([nothing] * 2), agglomerate([touching_blobs] * 2)
    simulation = simulate([(nowhere, nothing)], empty=0.5)
    assert all((one.s == 0.5).all() for one in simulation.rows)
    assert all((curve.average == 0.5).all() and curve.areas == [0.5] for curve in simulation.curves.values())
    missed = simulate([(nowhere, touching_blobs)])
    assert missed.missed == missed.truth_count == 2
    assert missed.unreachable == {"peak": 2, "object": 2}
    assert all((one.s == 0).all() for one in missed.rows)
    invented = simulate([(everywhere, nothing)])
    assert invented.curves["random"].average[[0, 50, 100]].tolist() == [0, 0, 1]


def test_volumes(touching_balls, agglomerate):
    half = touching_balls.select([0])
    simulation = simulate([(agglomerate([half, half]), touching_balls)])
    assert simulation.curves["doubt"].average[[0, -1]].tolist() == [0.5, 1]


def test_errors(worms, touching_blobs):
    doubtful, truth = worms
    with pytest.raises(ValueError, match="at least one image"):
        simulate([])
    with pytest.raises(ValueError, match=r"image 1 .*shape"):
        simulate([worms, (doubtful, touching_blobs)])
    with pytest.raises(ValueError, match=r"image 0 .*which hypothesis"):
        simulate([worms], choose=lambda result: truth)
    for wrong in ({"thresholds": []}, {"thresholds": [0.5, 1.5]}, {"thresholds": [0.0]}):
        with pytest.raises(ValueError, match="thresholds"):
            simulate([worms], **wrong)
    for wrong in ({"repeats": 0}, {"corrections": [-1]}):
        with pytest.raises(ValueError, match="at least one order"):
            simulate([worms], **wrong)


# ------------------------------------------------------------------------------------------------------- invariances


@pytest.mark.parametrize("seed", range(4))
def test_in_the_end_only_what_is_out_of_reach_is_wrong(random_image, seed):
    image = random_image(seed)
    simulation = simulate([image], repeats=2, corrections=[0, 50_000])
    count = simulation.truth_count
    right = (count - simulation.unreachable["object"]) / count
    for curve in simulation.curves.values():
        assert curve.average[0] == pytest.approx(score(image[1], image[0].best()).s.mean())
        assert curve.average[-1] == pytest.approx(right)
    for order in simulation.curves:
        assert row(simulation, "object", order).average[-1] == pytest.approx(right)
        # What a settled peak would have shown may stay missed.
        low = (count - simulation.missed) / count
        assert low <= row(simulation, "peak", order).average[-1] <= 1 - simulation.unreachable["peak"] / count


def test_the_curve_of_an_image_is_its_own(images):
    together = simulate(images, repeats=1)
    for number, image in enumerate(images):
        alone = simulate([image], repeats=1).curves
        for order in ("doubt", "peaks", "ideal"):
            assert alone[order].areas == pytest.approx(together.curves[order].areas[number])
    areas = {order: curve.areas for order, curve in together.curves.items()}
    assert together.curves["doubt"].gain == paired_difference(areas["doubt"], areas["random"])


def test_a_seed_is_a_result(images):
    first, again, other = (simulate(images, repeats=3, seed=seed) for seed in (1, 1, 2))
    assert (first.curves["random"].areas == again.curves["random"].areas).all()
    assert (row(first, "peak", "random").s == row(again, "peak", "random").s).all()
    assert (first.curves["random"].areas != other.curves["random"].areas).any()


@pytest.fixture
def images(random_image):
    return [random_image(seed, count=5) for seed in range(3)]


# ---------------------------------------------------------------------------- Rumberger et al. 2020, Table 2, literally


class Proofread:
    """One image: masks of the current segmentation, and the entropy that every hypothesis has left in every patch."""

    def __init__(self, doubtful, truth):
        self.truth = list(truth.to_masks())
        self.counts = np.zeros((len(doubtful), *SHAPE), int)
        for plane, box, crop in zip(self.counts, doubtful.boxes, doubtful.counts, strict=True):
            plane[box[0, 0] : box[1, 0], box[0, 1] : box[1, 1]] = crop
        padded = np.pad(self.counts, [(0, 0), *[(0, -length % 4) for length in SHAPE]])
        tiles = padded.reshape(len(doubtful), padded.shape[1] // 4, 4, padded.shape[2] // 4, 4)
        self.sums = tiles.sum(axis=(2, 4))
        self.entropies = uncertainty.binary_entropy(tiles / doubtful.draws).mean(axis=(2, 4)).round(9)
        best = doubtful.best()
        self.current = dict(zip(best.features["hypothesis"].tolist(), best.to_masks(), strict=True))
        self.put_in = {}
        self.conflicts = doubtful.conflicts.tolist()

    def counterpart(self, mask):
        ious = [(mask & other).sum() / (mask | other).sum() for other in self.truth]
        return int(np.argmax(ious)) if ious and max(ious) > 0 else None

    def peak(self, n):
        """Its highest patch; of equal ones the fullest, then the first."""
        full = np.where(self.entropies[n] == self.entropies[n].max(), self.sums[n], -1)
        return np.unravel_index(full.argmax(), full.shape)

    def correct_at(self, hypothesis, i, j):
        place = np.zeros(SHAPE, bool)
        place[max(0, 4 * i - 4) : 4 * i + 8, max(0, 4 * j - 4) : 4 * j + 8] = True
        claimed = {self.counterpart(mask) for mask in self.current.values()}
        there = [n for n, mask in self.current.items() if (mask & place).any() or n == hypothesis]
        corrected = {self.counterpart(self.current[n]) for n in there} - {None}
        corrected |= {n for n, mask in enumerate(self.truth) if (mask & place).any() and n not in claimed}
        gone = set(there) | {n for n, mask in self.current.items() if self.counterpart(mask) in corrected}
        for n in gone:
            del self.current[n]
        for n in corrected:
            self.put_in[n] = self.truth[n]
        rivals = {b for pair in self.conflicts for a, b in (pair, pair[::-1]) if a in gone}
        rivals |= {n for n, plane in enumerate(self.counts) if (plane[place] > 0).any()}
        for n in gone | {hypothesis} | {n for n in rivals if n not in self.current}:
            self.entropies[n] = -1

    def scores(self):
        masks = [*self.current.values(), *self.put_in.values()]
        return score(Instances.from_masks(self.truth, SHAPE), Instances.from_masks(masks, SHAPE)).s


def literal_table(images, most):
    """``(most + 1, R)`` mean S after 0, 1, ... corrections."""
    states = [Proofread(*image) for image in images]
    means = [np.mean([state.scores() for state in states], axis=0)]
    for _ in range(most):
        # The highest patch; of equal ones that of the first image, then of the first hypothesis.
        every = [
            (-state.entropies[n].max(), at, n)
            for at, state in enumerate(states)
            for n in range(len(state.entropies))
            if state.entropies[n].max() >= 0
        ]
        if every:
            _, at, n = min(every)
            states[at].correct_at(n, *states[at].peak(n))
        means.append(np.mean([state.scores() for state in states], axis=0))
    return np.array(means)


def literal_ideal(images, most):
    """The best first correction by trying all, then the best second one, ...; mean avS."""
    states = [Proofread(*image) for image in images]
    means = [np.mean([state.scores().mean() for state in states])]
    for _ in range(most):
        options = []
        for at, state in enumerate(states):
            for n in range(len(state.entropies)):
                if state.entropies[n].max() >= 0:
                    changed = copy.deepcopy(state)
                    changed.correct_at(n, *changed.peak(n))
                    options.append((changed.scores().mean() - state.scores().mean(), at, changed))
        if options:
            _, at, changed = max(options, key=lambda option: option[0])
            states[at] = changed
        means.append(np.mean([state.scores().mean() for state in states]))
    return np.array(means)


def test_peaks_against_the_literal_simulation(images):
    made = list(range(12))
    found = row(simulate(images, corrections=[50 * k // 3 + 1 for k in made], repeats=1), "peak", "peaks")
    assert found.corrections == tuple(made)
    np.testing.assert_allclose(found.s, literal_table(images, 11))
    np.testing.assert_allclose(found.average, found.s.mean(axis=1))
    assert not np.allclose(found.s[0], found.s[3]), "test invalid"


def test_ideal_against_trying_all(images):
    simulation = simulate(images[:2], corrections=[0, 25, 50], repeats=1)
    np.testing.assert_allclose(row(simulation, "peak", "ideal").average, literal_ideal(images[:2], 2))
