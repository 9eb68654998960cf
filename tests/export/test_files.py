import numpy as np
import pytest
import tifffile

from plurimask.data.io import Image, read_image
from plurimask.data.storage import load_attributes
from plurimask.export import files
from plurimask.export.files import ENDINGS, is_complete, path_of, strangers, write_labels, write_result
from plurimask.probabilistic import ProbabilisticInstances

EMPTY = ProbabilisticInstances.empty((8, 9), 2)
IMAGE = Image(np.zeros((1, 8, 9), np.uint8), "a")


def test_dots_belong_to_the_name(tmp_path):
    write_result(tmp_path / "a.b", EMPTY, IMAGE, spacing=None, attributes={})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"a.b{ending}" for ending in ENDINGS)
    assert is_complete(tmp_path / "a.b")
    assert not is_complete(tmp_path / "a")


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "a"
    write_result(target, EMPTY, IMAGE, spacing=None, attributes={"run": 1})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def broken(image, result):
        raise MemoryError("no")

    monkeypatch.setattr(files, "overview", broken)
    with pytest.raises(MemoryError):
        write_result(target, EMPTY, IMAGE, spacing=None, attributes={"run": 2})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_result_is_replaced_whole(tmp_path):
    target = tmp_path / "a"
    write_result(target, EMPTY, IMAGE, spacing=None, attributes={"run": 1})
    (path_of(target, ".plurimask.zarr") / "extra").write_text("old", encoding="utf-8")
    write_result(target, EMPTY, IMAGE, spacing=None, attributes={"run": 2})
    assert load_attributes(path_of(target, ".plurimask.zarr")) == {"run": 2}
    assert not (path_of(target, ".plurimask.zarr") / "extra").exists()
    assert len(list(tmp_path.iterdir())) == len(ENDINGS)


def test_left_overs_of_a_killed_run_are_no_obstacle(tmp_path):
    (tmp_path / ".a.part" / "old").mkdir(parents=True)
    write_result(tmp_path / "a", EMPTY, IMAGE, spacing=None, attributes={})
    assert not (tmp_path / ".a.part").exists()


def test_strangers_are_files_without_a_result(tmp_path):
    (tmp_path / "a_labels.tif").write_bytes(b"truth")
    assert strangers(tmp_path / "a") == [tmp_path / "a_labels.tif"]
    assert strangers(tmp_path / "b") == []


@pytest.mark.parametrize("spacing", [None, (0.5, 0.25)])
@pytest.mark.parametrize(("largest", "dtype"), [(65535, np.uint16), (65536, np.uint32)])
def test_labels_in_two_widths(tmp_path, largest, dtype, spacing):
    labels = np.array([[0, 1, 2], [0, 0, largest]], np.int32)
    write_labels(tmp_path / "l.tif", labels, spacing=spacing)
    stored = tifffile.imread(tmp_path / "l.tif")
    assert stored.dtype == dtype
    assert np.array_equal(stored, labels)
    assert read_image(tmp_path / "l.tif").pixel_size == spacing


def test_labels_of_a_volume(tmp_path):
    labels = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    write_labels(tmp_path / "l.tif", labels, spacing=(2.0, 0.5, 0.5))
    image = read_image(tmp_path / "l.tif")
    assert np.array_equal(image.data[0], labels)
    assert image.pixel_size == (2.0, 0.5, 0.5)
