"""One pass gives what two functions give in two."""

import numpy as np
import pytest

from plurimask.active.examination import cut_out, examine, looks_of_parts
from plurimask.familiarity import looks
from plurimask.model import load_model
from plurimask.pixelwise import pixel_doubt
from plurimask.predict import answer
from plurimask.probabilistic import ProbabilisticInstances


@pytest.mark.parametrize("zoom", [1.0, 1.5])
def test_objects_and_doubt_are_those_of_the_two_functions(model, picture, zoom):
    loaded, image = load_model(model), picture(0)
    sized = {} if zoom == 1 else {"diameter": 2 / zoom}
    if sized:
        object.__setattr__(loaded, "scale", type(loaded.scale)(None, 2.0))
    made = examine(image, loaded, zoom=zoom, draws=3, seed=4)
    doubt = pixel_doubt(image, loaded, draws=3, seed=4, **sized)
    found = answer(image, loaded, zoom=zoom, draws=3, seed=4).found
    np.testing.assert_array_equal(made.doubt.total, doubt.total)
    np.testing.assert_array_equal(made.doubt.expected, doubt.expected)
    np.testing.assert_array_equal(made.found.boxes, found.boxes)
    np.testing.assert_array_equal(made.found.existence, found.existence)
    assert made.found.shape == image.shape and len(found) > 1


def test_looks_of_parts(model, picture):
    loaded, image = load_model(model), picture(0, (32, 40))
    boxes = np.array([[[0, 0], [32, 40]], [[3, 8], [19, 24]]])
    seen = loaded.normalisation(image[None])
    found = looks_of_parts(image, loaded, boxes)
    np.testing.assert_allclose(found, [looks(seen), looks(seen[:, 3:19, 8:24])])
    double = looks_of_parts(image, loaded, boxes, zoom=2.0)
    assert double.shape == found.shape and not np.allclose(double, found)


def test_a_part_against_dense_counts():
    generator = np.random.default_rng(0)
    boxes = np.array([[[0, 0], [4, 4]], [[2, 3], [8, 9]], [[6, 6], [9, 10]]])
    counts = tuple(generator.integers(1, 3, stop - start).astype(np.uint8) for start, stop in boxes)
    members = (((0, 0),), ((0, 1), (1, 0)), ((1, 1),))
    every = ProbabilisticInstances(
        boxes, counts, 2, np.array([0.5, 1, 0.5]), members, np.array([[0, 1], [1, 2]]), (9, 10)
    )
    box = np.array([[3, 4], [9, 9]])
    part = cut_out(every, box)
    assert part.shape == (6, 5) and part.existence.tolist() == [1, 0.5] and part.members == members[1:]
    assert part.conflicts.tolist() == [[0, 1]]
    for n, before in enumerate((1, 2)):
        dense, cut = np.zeros((9, 10)), np.zeros((6, 5))
        dense[tuple(map(slice, *boxes[before]))] = counts[before]
        cut[tuple(map(slice, *part.boxes[n]))] = part.counts[n]
        np.testing.assert_array_equal(cut, dense[3:9, 4:9])


def test_a_part_without_objects():
    nothing = cut_out(ProbabilisticInstances.empty((9, 10), 2), np.array([[0, 0], [3, 3]]))
    assert len(nothing) == 0 and nothing.shape == (3, 3)
