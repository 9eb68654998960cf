"""What is said of hypotheses, in numbers that can be written down without the code."""

import math
from dataclasses import replace

import numpy as np
import pytest

from plurimask.instances import Instances
from plurimask.metrics.hypotheses import Honesty, Outcomes
from plurimask.probabilistic import ProbabilisticInstances


def compared(truth, found):
    """truth: a label map."""
    return Outcomes.of(Instances.from_labels(truth), found)


def test_counted_by_hand(bars, seen):
    # True bars at 0 and 8. Found: the first, the second moved by one column (3 of 5 columns), an invention.
    outcomes = compared(bars(0, 8), seen(bars(0, 9, 16), 10, 8, 4))
    np.testing.assert_allclose(outcomes.expected, [1, 0.8, 0.4])
    np.testing.assert_allclose(outcomes.observed, [1, 0.6, 0])
    honesty = Honesty.of([outcomes])
    assert honesty.brier == pytest.approx((0.2**2 + 0.4**2) / 3)
    assert honesty.iou_error == honesty.iou_ece == pytest.approx((0.2 + 0.4) / 3)  # every object has a bin of its own
    assert honesty.above == {0.5: (2 / 3, 2 / 3), 0.75: (2 / 3, 1 / 3), 0.9: (1 / 3, 1 / 3)}
    assert honesty.existence == {"brier": honesty.brier, "ece": honesty.ece}
    assert honesty.expected_iou["above"]["0.75"] == {"expected": 2 / 3, "observed": 1 / 3}
    twice = Honesty.of([outcomes, outcomes])
    assert (twice.brier, twice.iou_error) == pytest.approx((honesty.brier, honesty.iou_error))


def test_what_is_expected_is_what_was_calibrated(bars, seen):
    found = seen(bars(0), 8).calibrated(lambda p: p, lambda p: p / 2)
    assert compared(bars(0), found).expected.tolist() == [0.4]


def test_without_a_pixel_nothing_is_expected(bars, seen):
    found = seen(bars(0, 8), 10, 0)
    outcomes = compared(bars(0), found)
    assert len(outcomes.existence.probability) == 2 and len(outcomes.expected) == 1


def test_nothing_found(bars):
    honesty = Honesty.of([compared(bars(0), ProbabilisticInstances.empty((8, 32), 10))])
    assert math.isnan(honesty.iou_error) and math.isnan(honesty.iou_ece) and math.isnan(honesty.brier)
    assert honesty.expected_iou == {
        "error": None,
        "ece": None,
        "above": {limit: {"expected": None, "observed": None} for limit in ("0.50", "0.75", "0.90")},
    }
    assert honesty.border is None


def test_borders_in_a_few_numbers(bars, seen):
    # Only left and right of the second bar are within the image; it was found one column to the right.
    found = seen(bars(0, 9), 10, 8)
    found = replace(found, features={"border": np.array([[[9, 9], [9, 1]], [[9, 1], [9, 2]]], float)})
    honesty = Honesty.of([compared(bars(0, 8), found)])
    # Right of the first bar 0 / 1; left and right of the second -1 / 1 and 1 / 2.
    assert honesty.border["count"] == 3 and honesty.border["error"] == pytest.approx(2 / 3)
    assert honesty.border["bias"] == pytest.approx(-0.5 / 3)
    assert honesty.border["spread"] == pytest.approx(np.std([0, -1, 0.5]))
    surprise = np.log(2) / 3 + 1.25 / 6 + np.log(2 * np.pi) / 2
    assert honesty.border["surprise"] == pytest.approx(surprise)
