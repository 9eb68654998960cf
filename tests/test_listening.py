"""Listen2Student: which borders are learned, on tables made by hand."""

import numpy as np
import pytest

from plurimask.listening import Listen2Student


@pytest.mark.parametrize(
    ("teacher", "student", "learned"),
    [
        (0.3, 0.55, True),
        (0.3, 0.45, False),  # the student is sure by itself
        (0.45, 0.56, True),
        (0.45, 0.54, False),  # more than sigma^s, but the teacher is hardly surer
        (0.8, 0.95, True),
        (0.8, 0.85, False),
        (0.9, 0.6, False),  # the teacher doubts more
        (0.95, 1.0, False),  # nobody can doubt so much more
        (0.0, 0.001, True),  # the truth
        (0.0, 0.0, True),
    ],
)
def test_the_student_listens_where_it_doubts_and_the_teacher_does_so_less(teacher, student, learned):
    rule = Listen2Student()
    # As U22 write it: delta_t + sigma^m <= delta_s and delta_s > sigma^s, or no doubt of the teacher's at all.
    assert learned == (teacher == 0 or (teacher + 0.1 <= student and student > 0.5))
    assert (student >= rule.floor([teacher])).item() == learned


def test_margins_are_those_of_the_rule():
    rule = Listen2Student(student_margin=0.2, teacher_margin=0.0)
    assert rule.floor([[0.1, 0.3], [0.0, 1.0]]) == pytest.approx(np.array([[0.2, 0.3], [0.0, 1.0]]))
    assert rule.floor(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize(
    "wrong", [{"weight": -1}, {"start": 2}, {"student_margin": -0.1}, {"foreground": 0.2, "background": 0.4}]
)
def test_a_rule_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValueError, match="correct what is not"):
        Listen2Student(**wrong)
