"""Results on disk: what goes in comes out, and nothing half-written is ever found."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import zarr

from plurimask.agglomerate import CompleteLinkage
from plurimask.data import storage
from plurimask.instances import Instances
from plurimask.probabilistic import ProbabilisticInstances


def crossing(shape=(20, 24)):
    """Two bars that cross, seen in three draws, and a third object in one of them."""
    one, two, three = (np.zeros(shape, bool) for _ in range(3))
    one[..., 8:12, 2:20], two[..., 2:18, 9:13], three[..., 0:2, 0:3] = True, True, True
    draws = [Instances.from_masks(masks, shape) for masks in ([one, two], [one, two, three], [two])]
    features = [
        {
            "kind": np.arange(len(draw)),
            "border": np.ones((len(draw), 2, len(shape)), np.float32),
            "contour": np.stack([np.linspace(*box, 7, dtype=np.float32) for box in draw.boxes]),
        }
        for draw in draws
    ]
    both = zip(draws, features, strict=True)
    return CompleteLinkage()([replace(draw, features=given) for draw, given in both])


def assert_equal(a, b):
    assert len(a) == len(b) and a.shape == b.shape and a.draws == b.draws and a.members == b.members
    for name in ("boxes", "existence", "conflicts"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a.counts, b.counts, strict=True))
    assert a.features.keys() == b.features.keys()
    for name, values in a.features.items():
        np.testing.assert_array_equal(values, b.features[name])
        assert values.dtype == b.features[name].dtype


@pytest.mark.parametrize("shape", [(20, 24), (5, 20, 24)])
def test_round_trip(tmp_path, shape):
    result = crossing(shape)
    path = storage.save(result, tmp_path / "deep" / "a.plurimask.zarr", attributes={"model": "nuclei", "draws": [1, 2]})
    assert_equal(result, storage.load(path))
    assert storage.load_attributes(path) == {"model": "nuclei", "draws": [1, 2]}
    np.testing.assert_array_equal(storage.load(str(path)).to_masks(), result.to_masks())


def test_whole_or_halves_keeps_its_conflicts(tmp_path):
    whole, halves = np.ones((3, 20), int), np.ones((3, 20), int)
    halves[:, 10:] = 2
    result = CompleteLinkage()([Instances.from_labels(whole)] * 2 + [Instances.from_labels(halves)] * 2)
    found = storage.load(storage.save(result, tmp_path / "a.plurimask.zarr"))
    assert_equal(result, found)
    assert len(found.conflicts) == 2
    assert found.table()["alternative_of"].tolist() == result.table()["alternative_of"].tolist()


def test_nothing_found(tmp_path):
    result = ProbabilisticInstances.empty((7, 9), 8)
    path = storage.save(result, tmp_path / "a.plurimask.zarr")
    assert_equal(result, storage.load(path))
    assert zarr.open_group(path / "labels", mode="r").attrs["ome"]["labels"] == ["objects_0"]
    assert not np.asarray(zarr.open_array(path / "labels" / "objects_0" / "0", mode="r")).any()


def test_labels_hold_overlapping_objects_whole(tmp_path):
    result = crossing()
    path = storage.save(result, tmp_path / "a.plurimask.zarr", attributes={"pixel_size": [0.5, 0.25]})
    labels = zarr.open_group(path / "labels", mode="r")
    names = labels.attrs["ome"]["labels"]
    assert names == ["objects_0", "objects_1"]
    layers = [np.asarray(labels[f"{name}/0"]) for name in names]
    for number, mask in enumerate(result.best().to_masks(), start=1):
        assert sum(np.array_equal(layer == number, mask) for layer in layers) == 1
    ome = labels["objects_0"].attrs["ome"]
    scale = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert scale == [{"type": "scale", "scale": [0.5, 0.25]}]
    assert ome["multiscales"][0]["axes"][0] == {"name": "y", "type": "space", "unit": "micrometer"}
    listed = [entry["label-value"] for entry in ome["image-label"]["properties"]]
    assert listed == [color["label-value"] for color in ome["image-label"]["colors"]]
    assert set(listed) == set(np.unique(layers[0])) - {0}


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path):
    path = storage.save(crossing(), tmp_path / "a.plurimask.zarr")
    storage.save(ProbabilisticInstances.empty((7, 9), 8), path)
    assert len(storage.load(path)) == 0
    assert [item.name for item in tmp_path.iterdir()] == ["a.plurimask.zarr"]


def test_a_failure_while_writing_leaves_the_old_result(tmp_path, monkeypatch):
    result = crossing()
    path = storage.save(result, tmp_path / "a.plurimask.zarr")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(storage, "_write_labels", full)
    with pytest.raises(OSError, match="no space"):
        storage.save(ProbabilisticInstances.empty((7, 9), 8), path)
    assert_equal(result, storage.load(path))
    assert [item.name for item in tmp_path.iterdir()] == ["a.plurimask.zarr"]


def test_what_is_not_ours_is_left_alone(tmp_path):
    path = tmp_path / "a.plurimask.zarr"
    path.mkdir()
    (path / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="not a result of plurimask"):
        storage.save(crossing(), path)
    with pytest.raises(ValueError, match="not a result of plurimask"):
        storage.load(path)
    assert (path / "letter.txt").read_text() == "dear"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        storage.load(tmp_path / "b.plurimask.zarr")
    with pytest.raises(ValueError, match="does not end in"):
        storage.save(crossing(), tmp_path / "a.zarr")


@pytest.mark.parametrize("version", [storage.FORMAT + 1, 0, "new", None])
def test_a_future_or_broken_version_is_refused(tmp_path, version):
    path = storage.save(crossing(), tmp_path / "a.plurimask.zarr")
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["plurimask"]["format"] = version
    (path / "zarr.json").write_text(json.dumps(metadata))
    for read in (storage.load, storage.load_attributes):
        with pytest.raises(ValueError, match=r"update plurimask"):
            read(path)


def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path):
    result = crossing()
    named = replace(result, features={"name": np.array(["x"] * len(result))})
    with pytest.raises(TypeError, match="feature 'name'"):
        storage.save(named, tmp_path / "a.plurimask.zarr")
    for broken in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="must be JSON"):
            storage.save(result, tmp_path / "a.plurimask.zarr", attributes=broken)
    assert list(tmp_path.iterdir()) == []


def test_reading_does_not_load_torch():
    code = (
        "import sys, plurimask.data.storage; sys.exit(any(name in sys.modules for name in ('torch', 'monai', 'dask')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
