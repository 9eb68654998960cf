"""Listen2Student: what a student learns from a teacher that may be wrong (docs/algorithms.md 4.10).

Liu, Ma, Kira 2022, *Unbiased Teacher v2*, as Upschulte et al. 2022 (U22) use it for contours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Listen2Student:
    """The rule, and how much and when it counts.

    A doubt is a standard deviation of a border as a share of the largest one that a method knows. U22's teacher is the
    finished model of the generation before; here it is the average of the student's own weights.

    Attributes:
        weight: of what unlabelled crops teach, beside the crops with truth.
        start: share of the updates after which the teacher begins to teach; it has to know something by then.
        student_margin: sigma^s, a border is learned only from this doubt of the student's on (U22: above it).
        teacher_margin: sigma^m, and only where the teacher's doubt is less than the student's by so much.
        foreground: the least score of the teacher's objects.
        background: the largest score of the teacher's where nothing is; what is between the two is not known.

    Raises:
        ValueError: a negative weight, something else that is no share, or a background above the foreground.
    """

    weight: float = 1.0
    start: float = 0.3
    student_margin: float = 0.5
    teacher_margin: float = 0.1
    foreground: float = 0.9
    background: float = 0.1

    def __post_init__(self) -> None:
        shares = (self.start, self.student_margin, self.teacher_margin, self.foreground, self.background)
        if self.weight < 0 or not all(0 <= share <= 1 for share in shares) or self.background > self.foreground:
            raise ValueError(
                f"{self}: the weight is not negative, all else lies between 0 and 1, and background is not above "
                "foreground; correct what is not."
            )

    def floor(self, doubt: ArrayLike) -> NDArray[np.float32]:
        """The least doubt of the student's from which a border is learned, for doubts of the teacher's.

        ``max(sigma^s, doubt + sigma^m)``; where the teacher has no doubt at all, as the truth, it is 0: always.

        >>> Listen2Student().floor([0.0, 0.2, 0.7]).round(2).tolist()
        [0.0, 0.5, 0.800000011920929]
        """
        given = np.asarray(doubt, np.float32)
        least = np.maximum(self.student_margin, given + self.teacher_margin)
        return np.where(given > 0, least, 0).astype(np.float32)
