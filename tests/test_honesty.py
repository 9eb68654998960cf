"""The worth of doubt: numbers that can be written down without the code, and what is not there."""

import math
from dataclasses import replace

import numpy as np
import pytest

from plurimask.honesty import PATCH_THRESHOLD, examine, summarise
from plurimask.instances import Instances
from plurimask.metrics.patch_uncertainty import THRESHOLDS
from plurimask.metrics.selective import risk_coverage
from plurimask.probabilistic import ProbabilisticInstances

DRAWS = 10


def examined(truth, found):
    """truth: a label map."""
    return examine(Instances.from_labels(truth), found, found.best())


@pytest.fixture
def planted(bars, seen):
    """Bars at 0 and 8 are true. Found are these, sure and rather sure, and one at 16 that is rather unsure."""
    return examined(bars(0, 8), seen(bars(0, 8, 16), 10, 8, 6))


def test_one_invented_object(planted):
    honesty = summarise([planted])
    # Probabilities 1, 0.8 and 0.6; the last is not there.
    assert honesty.existence.brier.mean == pytest.approx((0.2**2 + 0.6**2) / 3)
    # Every probability has a bin of its own.
    assert honesty.existence.ece.mean == pytest.approx((0.2 + 0.6) / 3)
    assert honesty.existence.reliability.observed.tolist() == [0, 1, 1]
    # Its pixels say the same, as all outlines are alike and fill their boxes.
    assert honesty.mask.brier.mean == pytest.approx(honesty.existence.brier.mean)
    assert honesty.mask.ece.mean == pytest.approx(honesty.existence.ece.mean)
    # The invented one is the most doubtful: a perfect order, in which one of three inspections finds the error.
    assert honesty.ranking.errors.share.tolist() == [0, 1, 1, 1]
    assert honesty.ranking.area.mean == pytest.approx(1 - 1 / 6)
    assert honesty.ranking.aurc.mean == pytest.approx((0 + 0 + 1 / 3) / 3)


def test_patches_at_the_papers_threshold(planted):
    honesty = summarise([planted])
    assert honesty.threshold == PATCH_THRESHOLD
    assert PATCH_THRESHOLD in THRESHOLDS
    # Two patches an object. The sure one is accurate and certain; 0.8 and 0.6 are uncertain everywhere.
    assert {name: value.mean for name, value in honesty.at_threshold.items()} == pytest.approx(
        {"p(accurate|certain)": 1, "p(uncertain|inaccurate)": 1, "PAvPU": 4 / 6}
    )


def test_the_value_is_that_of_all_images_together(bars, seen):
    generator = np.random.default_rng(0)
    images = []
    for _ in range(6):
        times = generator.integers(1, DRAWS + 1, 3)
        images.append(examined(bars(0, 8), seen(bars(*generator.choice([0, 2, 8, 16, 20], 3, replace=False)), *times)))
    honesty = summarise(images)
    for calibration in (honesty.existence, honesty.mask):
        assert calibration.ece.mean == pytest.approx(calibration.reliability.ece)
        assert calibration.ece.low <= calibration.ece.high
        assert 0 <= calibration.brier.low <= calibration.brier.mean <= calibration.brier.high <= 1
    doubts = np.concatenate([image.doubt for image in images])
    ious = np.concatenate([image.ious for image in images])
    assert honesty.ranking.aurc.mean == risk_coverage(doubts, 1 - ious).aurc
    assert honesty.ranking.aurc.low < honesty.ranking.aurc.mean < honesty.ranking.aurc.high
    assert honesty.ranking.area.low < honesty.ranking.area.mean < honesty.ranking.area.high


def test_equal_images_leave_no_room(planted):
    honesty = summarise([planted] * 5)
    for number in (honesty.existence.brier, honesty.existence.ece, honesty.mask.ece, honesty.ranking.aurc):
        assert number.low == pytest.approx(number.mean)
        assert number.high == pytest.approx(number.mean)
    assert honesty.ranking.area.low == pytest.approx(honesty.ranking.area.high)


def test_nothing_to_measure_is_nan(bars):
    nothing = examined(bars(0), ProbabilisticInstances.empty((8, 32), DRAWS))
    honesty = summarise([nothing, nothing])
    numbers = [honesty.existence.brier, honesty.existence.ece, honesty.mask.brier, honesty.mask.ece]
    numbers += [honesty.ranking.aurc, honesty.ranking.area, *honesty.at_threshold.values()]
    assert all(math.isnan(end) for number in numbers for end in (number.mean, number.low, number.high))
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])


def test_resamples_without_an_object_make_the_interval_wide(planted, bars):
    nothing = examined(bars(0), ProbabilisticInstances.empty((8, 32), DRAWS))
    honesty = summarise([planted, nothing])
    for number in (honesty.existence.brier, honesty.ranking.aurc):
        assert (number.low, number.high) == (0, 1)


def test_without_errors_no_order_finds_one(bars, seen):
    honesty = summarise([examined(bars(0, 8), seen(bars(0, 8), 10, 6))])
    assert math.isnan(honesty.ranking.area.mean)
    assert honesty.ranking.aurc.mean == 0


def test_the_objects_of_a_threshold_are_ranked_by_their_own_hypotheses(bars, seen):
    truth, found = bars(0, 8), seen(bars(0, 8, 16), 8, 4, 10)
    examination = examine(Instances.from_labels(truth), found, found.threshold(0.75))
    assert examination.doubt == pytest.approx([0.2, 0])
    assert examination.ious.tolist() == [1, 0]
    assert examination.wrong.tolist() == [False, True]


def test_borders_of_all_hypotheses_that_exist(bars, seen):
    # Bars of four columns at 0 and 8 are true. Found: the first, at the edge of the image in three ways; the second one
    # column to the right, rejected though it exists; and an invention, whose sigmas say nothing.
    found = seen(bars(0, 9, 16), 10, 4, 6)
    border = np.array([[[9, 9], [9, 2]], [[9, 1], [9, 2]], [[9, 9], [9, 9]]], float)
    image = examined(bars(0, 8), replace(found, features={"border": border}))
    assert image.borders.errors.tolist() == [0, -1, 1] and image.borders.sigmas.tolist() == [2, 1, 2]
    honesty = summarise([image, image])
    assert honesty.border.count == 6
    assert honesty.border.bias.mean == pytest.approx((0 - 1 + 0.5) / 3)
    assert summarise([examined(bars(0, 8), found)]).border is None
