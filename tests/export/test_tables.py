import csv
from dataclasses import replace

import numpy as np
import pytest

from plurimask.agglomerate import CompleteLinkage
from plurimask.export.tables import intensities, object_table, write_rows, write_table
from plurimask.instances import Instances
from plurimask.probabilistic import ProbabilisticInstances


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_what_is_unknown_is_empty(tmp_path):
    columns = {"label": np.array([1, 2]), "a": np.array([0.1, np.nan]), "b": ['say "a,b"', None], "c": [True, False]}
    write_table(tmp_path / "t.csv", columns)
    assert read(tmp_path / "t.csv") == [
        ["label", "a", "b", "c"],
        ["1", "0.1", 'say "a,b"', "1"],
        ["2", "", "", "0"],
    ]


def test_no_row_is_a_header(tmp_path):
    write_table(tmp_path / "t.csv", {"label": np.zeros(0, int), "a": []})
    assert (tmp_path / "t.csv").read_bytes() == b"label,a\n"


def test_columns_of_several_lengths_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'a': 1"):
        write_table(tmp_path / "t.csv", {"label": [1, 2], "a": [1]})


def test_rows_with_gaps(tmp_path):
    write_rows(tmp_path / "t.csv", [{"a": 1}, {"b": 2, "c": 3}], ("a", "b"))
    assert read(tmp_path / "t.csv") == [["a", "b"], ["1", ""], ["", "2"]]


def test_intensities_are_means_over_masks(crossing_worms):
    image = np.random.default_rng(0).integers(0, 65535, (3, *crossing_worms.shape)).astype(np.uint16)
    found = intensities(image, crossing_worms)
    for channel in range(3):
        by_hand = [image[channel][mask].mean() for mask in crossing_worms.to_masks()]
        assert found[f"mean_intensity-{channel}"] == pytest.approx(by_hand)


def test_chosen_objects_come_first_and_rejected_name_their_rival():
    """Two halves in six of eight draws, the whole in the other two: the whole is listed last."""
    whole = np.zeros((10, 20), int)
    whole[2:8, 2:18] = 1
    halves = whole.copy()
    halves[:, 10:] *= 2
    found = [Instances.from_labels(whole), Instances.from_labels(halves)]
    masks = [mask for one in found for mask in one.masks]
    result = ProbabilisticInstances(
        np.concatenate([one.boxes for one in found]),
        tuple(mask.astype(np.uint8) * times for mask, times in zip(masks, (2, 6, 6), strict=True)),
        8,
        np.array([0.25, 0.75, 0.75]),
        (
            tuple((draw, 0) for draw in (6, 7)),
            tuple((draw, 0) for draw in range(6)),
            tuple((draw, 1) for draw in range(6)),
        ),
        np.array([[0, 1], [0, 2]]),
        whole.shape,
    )
    table = object_table(result, np.ones((1, 10, 20)), spacing=(0.5, 2.0))
    assert table["label"].tolist() == [1, 2, 0]
    assert table["area"].tolist() == [48, 48, 96]
    assert table["area_um2"].tolist() == [48.0, 48.0, 96.0]
    assert table["alternative_of"][2] in (1, 2)
    assert table["centroid_um-1"].tolist() == [2 * 5.5, 2 * 13.5, 2 * 9.5]
    assert next(iter(table)) == "label"
    labels = result.to_labels()
    assert [labels[5, 5], labels[5, 15]] == [1, 2]


def test_borders_stand_beside_the_doubt_of_the_draws(tmp_path):
    features = {"border": np.array([[[0.5, 4.0], [2.0, 1.0]]], np.float32)}
    drawn = replace(Instances.from_labels(np.array([[0, 1], [0, 1]])), features=features)
    write_table(tmp_path / "t.csv", object_table(CompleteLinkage()([drawn, drawn]), np.ones((1, 2, 2))))
    names, row = read(tmp_path / "t.csv")
    assert names[-8:-4] == ["border_top", "border_right", "border_bottom", "border_left"]
    assert row[-8:] == ["0.5", "1", "2", "4", "0", "0", "0", "0"]
