"""Names that belong together, and names that do not."""

from __future__ import annotations

import pytest

from plurimask.pairing import Unpaired, check_complete, pair


@pytest.mark.parametrize(
    ("found", "true", "message"),
    [
        (["a", "stranger"], ["a", "b"], "no truth for stranger"),
        (["plate_A01_B02_w1"], ["A01", "B02"], "A01 or B02"),
        (["A01_w1", "A01_w2"], ["A01"], "A01_w1 and A01_w2"),
        (["A011"], ["A01"], "no truth for A011"),
        ([f"x{number}" for number in range(20)], ["a"], r"x5, \.\.\. \(20 in all\)"),
    ],
)
def test_names_that_do_not_fit(found: list[str], true: list[str], message: str) -> None:
    with pytest.raises(Unpaired, match=message):
        pair(found, true)


def test_equal_names_come_before_tokens_and_folders_count() -> None:
    assert pair(["A01_B02"], ["A01", "B02", "A01_B02"]) == {"A01_B02": "A01_B02"}
    assert pair(["p/a", "q/a"], ["p/a", "q/a"]) == {"p/a": "p/a", "q/a": "q/a"}
    assert pair(["run/x_a"], ["labels/a"]) == {"run/x_a": "labels/a"}
    with pytest.raises(Unpaired, match="p/a or q/a"):
        pair(["a"], ["p/a", "q/a"])


def test_a_part_is_complete_only_if_it_may_be_one() -> None:
    check_complete(["a", "b"], ["a", "b"], subset=False)
    check_complete(["a"], ["a", "b"], subset=True)
    with pytest.raises(Unpaired, match="nothing found for the truths b"):
        check_complete(["a"], ["a", "b"], subset=False)
    with pytest.raises(Unpaired, match="none of the 2 images"):
        check_complete([], ["a", "b"], subset=True)
