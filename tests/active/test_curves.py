"""Curves drawn by hand."""

import numpy as np
import pytest

from plurimask.active.curves import Record, area, compare, curve


def record(strategy, seed, number, value):
    return Record(strategy, seed, number, (), 10 + 5 * number, 10 + 5 * number, {"avS": value}, {}, {})


def ways(**values):
    """strategy -> one list of values per seed."""
    return [
        record(name, seed, number, value)
        for name, seeds in values.items()
        for seed, rounds in enumerate(seeds)
        for number, value in enumerate(rounds)
    ]


def test_a_curve_is_put_in_order():
    annotated, values = curve(ways(random=[[0.1, 0.4, 0.5]])[::-1], "random", 0, measure="avS")
    assert annotated.tolist() == [10, 15, 20] and values.tolist() == [0.1, 0.4, 0.5]


@pytest.mark.parametrize("missing", [0, 1])
def test_a_round_that_is_missing(missing):
    records = [one for one in ways(random=[[0.1, 0.4, 0.5]]) if one.number != missing]
    with pytest.raises(ValueError, match="wanted are 0, 1"):
        curve(records, "random", 0, measure="avS")


def test_areas():
    assert area(np.array([10]), np.array([0.3])) == 0.3
    assert area(np.array([10, 15, 30]), np.array([0.4, 0.4, 0.4])) == pytest.approx(0.4)
    line = np.linspace(0, 1, 7)
    assert area(100 + 60 * np.arange(7), line) == pytest.approx(0.5)


def test_a_strategy_that_is_always_a_little_better():
    found = compare(
        ways(random=[[0.1, 0.2], [0.5, 0.6], [0.2, 0.8]], bald=[[0.1, 0.4], [0.5, 0.8], [0.2, 1.0]]),
        measure="avS",
        baseline="random",
    )
    assert [one.strategy for one in found] == ["random", "bald"]
    assert found[0].difference is None
    assert found[0].area == pytest.approx((0.15 + 0.55 + 0.5) / 3)
    assert found[1].last == pytest.approx((0.4 + 0.8 + 1.0) / 3)
    gain = found[1].difference  # 0.1 with every seed: no spread, though the seeds differ much
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))


def test_only_what_all_strategies_have_is_compared():
    found = compare(
        ways(random=[[0.0, 0.2, 0.9], [0.0, 0.4, 0.9], [7.0, 7.0]], bald=[[0.0, 0.4], [0.0, 0.6]]),
        measure="avS",
        baseline="random",
    )
    assert found[0].area == pytest.approx(0.15) and found[0].last == pytest.approx(0.3)
    assert found[1].difference.mean == pytest.approx(0.1)


def test_one_seed_has_no_interval():
    found = compare(ways(random=[[0.0]], bald=[[0.1]]), measure="avS", baseline="random")
    assert found[1].difference is None and found[1].area == 0.1


def test_nothing_to_compare_with():
    with pytest.raises(ValueError, match="no strategy 'coreset'"):
        compare(ways(random=[[0.0]]), measure="avS", baseline="coreset")
    with pytest.raises(ValueError, match="there are none"):
        compare([], measure="avS", baseline="random")
    apart = [record("random", 0, 0, 0.1), record("bald", 1, 0, 0.1)]
    with pytest.raises(ValueError, match="no seed"):
        compare(apart, measure="avS", baseline="random")
