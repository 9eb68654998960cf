"""Calibration against closed forms, simulated truth, and the loss written out anew."""

import numpy as np
import pytest
from scipy.special import expit, logit

from plurimask.platt import SMALLEST_SLOPE, Platt

INSIDE = np.linspace(0.01, 0.99, 99)


def simulated(slope, offset, *, count, seed=0):
    """Probabilities p, and objects that exist with probability sigmoid(slope * logit(p) + offset)."""
    generator = np.random.default_rng(seed)
    probability = generator.uniform(0.02, 0.98, count)
    return probability, generator.random(count) < expit(slope * logit(probability) + offset)


def penalised_loss(slope, offset, probability, exists):
    """Cross-entropy with Platt's targets and the prior about (1, 0), from their definitions, object by object."""
    positives = sum(map(bool, exists))
    negatives = len(exists) - positives
    total = ((slope - 1) ** 2 + offset**2) / 2
    for p, real in zip(probability, exists, strict=True):
        target = (positives + 1) / (positives + 2) if real else 1 / (negatives + 2)
        p = min(max(p, 1 / 510), 509 / 510)
        q = 1 / (1 + np.exp(-(slope * np.log(p / (1 - p)) + offset)))
        total -= target * np.log(q) + (1 - target) * np.log(1 - q)
    return total


def test_the_default_changes_no_bit():
    probability = np.concatenate([[0.0, 1.0, 1e-300], np.random.default_rng(0).random(100)])
    calibrated = Platt()(probability)
    np.testing.assert_array_equal(calibrated, probability)
    assert calibrated is not probability


def test_closed_forms():
    np.testing.assert_allclose(Platt(slope=2)(INSIDE), INSIDE**2 / (INSIDE**2 + (1 - INSIDE) ** 2))
    odds = 3 * INSIDE / (1 - INSIDE)
    np.testing.assert_allclose(Platt(offset=np.log(3))(INSIDE), odds / (1 + odds))


def test_certainty_is_clipped_at_half_a_draw_of_255():
    odds = (0.5 / 255) / (1 - 0.5 / 255)
    doubled = 2 * odds / (1 + 2 * odds)
    np.testing.assert_allclose(Platt(offset=np.log(2))([0.0, 0.5 / 255]), [doubled, doubled])


@pytest.mark.parametrize(("slope", "offset"), [(0.01, -3.0), (0.5, 1.0), (4.0, 2.0)])
def test_it_rises(slope, offset):
    assert (np.diff(Platt(slope, offset)(INSIDE)) > 0).all()
    assert (np.diff(Platt(slope, offset)(np.linspace(0, 1, 1001))) >= 0).all()


def test_shapes_are_kept():
    assert Platt(slope=0.5)(np.full((2, 3), 0.5)).shape == (2, 3)
    assert Platt(slope=0.5)([]).shape == (0,)


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.5, -0.5), (2.0, 1.0)])
def test_it_finds_what_made_the_data(slope, offset):
    fitted = Platt.fit(*simulated(slope, offset, count=20_000))
    assert fitted.slope == pytest.approx(slope, abs=0.1)
    assert fitted.offset == pytest.approx(offset, abs=0.1)


SEPARABLE = ([0.1, 0.2, 0.3, 0.7, 0.8, 1.0], [False, False, False, True, True, True])
CASES = {
    "few": simulated(0.7, 0.3, count=12),
    "some": simulated(2.0, -1.0, count=200),
    "separable": SEPARABLE,
    "all exist": ([0.6, 0.9, 1.0, 0.95], [True] * 4),
    "none exists": ([0.6, 0.9, 0.0, 0.95], [False] * 4),
    "one object": ([0.7], [True]),
    "equal probabilities": ([0.8] * 10, [True] * 3 + [False] * 7),
    "certain": ([0.0, 1.0, 1.0, 1.0], [True, True, False, True]),
}


@pytest.mark.parametrize("name", CASES)
def test_no_other_line_is_more_probable(name):
    probability, exists = CASES[name]
    fitted = Platt.fit(probability, exists)
    assert SMALLEST_SLOPE <= fitted.slope < 10 and abs(fitted.offset) < 10
    least = penalised_loss(fitted.slope, fitted.offset, probability, exists)
    # The loss is convex: what is lower than its surroundings is lowest.
    for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False):
        slope, offset = fitted.slope + 0.01 * np.cos(angle), fitted.offset + 0.01 * np.sin(angle)
        if slope >= SMALLEST_SLOPE:
            assert penalised_loss(slope, offset, probability, exists) > least


def test_separable_data_would_have_no_finite_maximum_without_targets_and_prior():
    likelihood = [
        np.prod([Platt(slope)(p) if real else 1 - Platt(slope)(p) for p, real in zip(*SEPARABLE, strict=True)])
        for slope in (1, 10, 100)
    ]
    assert likelihood[0] < likelihood[1] < likelihood[2], "test invalid: the data are not separable"


def test_the_prior_is_worth_a_few_objects():
    # logit(1/2) is 0: nothing is said of the slope, and 3 objects barely move the offset.
    fitted = Platt.fit([0.5, 0.5, 0.5], [True, True, False])
    assert fitted.slope == pytest.approx(1.0, abs=1e-6)
    # Targets 3/4, 3/4, 1/3: 3 sigmoid(b) - 11/6 + b = 0.
    assert 3 * expit(fitted.offset) - 11 / 6 + fitted.offset == pytest.approx(0, abs=1e-6)


def test_the_order_of_objects_is_never_turned_round():
    probability, exists = simulated(-2.0, 0.0, count=500)
    assert Platt.fit(probability, exists).slope == SMALLEST_SLOPE


def test_the_order_of_the_rows_does_not_matter():
    probability, exists = simulated(0.7, 0.3, count=300)
    order = np.random.default_rng(1).permutation(300)
    there, back = Platt.fit(probability, exists), Platt.fit(probability[order], exists[order])
    assert there.slope == pytest.approx(back.slope, abs=1e-5)
    assert there.offset == pytest.approx(back.offset, abs=1e-5)


@pytest.mark.parametrize("probability", [[1.1], [-0.1], [0.5, np.nan]])
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(ValueError, match="is not a probability"):
        Platt(slope=2)(probability)
    with pytest.raises(ValueError, match="is not a probability"):
        Platt.fit(probability, [True] * len(probability))


@pytest.mark.parametrize(("probability", "exists"), [([], []), ([0.5], [True, False]), ([[0.5]], [[True]])])
def test_what_cannot_be_fitted_is_refused(probability, exists):
    with pytest.raises(ValueError, match="cannot be fitted"):
        Platt.fit(probability, exists)


@pytest.mark.parametrize("numbers", [(0.0, 0.0), (-1.0, 0.0), (np.nan, 0.0), (np.inf, 0.0), (1.0, np.nan)])
def test_what_does_not_rise_is_refused(numbers):
    with pytest.raises(ValueError, match="calibrate nothing"):
        Platt(*numbers)


def test_a_mean_is_fitted_as_an_event_would_be():
    # Two predictions, each with a mean of what is observed there: two parameters meet both, but for the prior.
    predicted = np.repeat([0.2, 0.9], 2000)
    observed = np.concatenate([np.tile([0.0, 0.2], 1000), np.tile([0.5, 0.9], 1000)])
    fitted = Platt.fit_mean(predicted, observed)
    assert fitted([0.2, 0.9]) == pytest.approx([0.1, 0.7], abs=1e-3)
    # Numbers that are 0 or 1 are an event, whose targets are not moved inwards.
    slope = logit(0.7) - logit(0.1)
    events = np.concatenate([np.arange(2000) < 200, np.arange(2000) < 1400])
    assert Platt.fit_mean(predicted, events).slope == pytest.approx(slope / (logit(0.9) - logit(0.2)), abs=1e-2)
    with pytest.raises(ValueError, match="is not a probability"):
        Platt.fit_mean([0.5], [1.5])
    with pytest.raises(ValueError, match="cannot be fitted"):
        Platt.fit_mean([], [])
