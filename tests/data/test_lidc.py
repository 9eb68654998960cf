"""LIDC in its two layouts: four annotators, patients that stay together."""

import pickle

import imageio.v3 as imageio
import numpy as np
import pytest

from plurimask.data.io import UnreadableImage
from plurimask.data.lidc import FIELDS, LIDCArchive, LIDCFolders
from plurimask.data.sources import open_source

# Patient, nodule, slice, part, and the columns of a 4 x 5 slice that each annotator marks.
SLICES = [
    ("LIDC-IDRI-0002", "nodule-1", "slice-10", "fit", ([], [0], [0, 1], [])),
    ("LIDC-IDRI-0002", "nodule-1", "slice-9", "fit", ([], [], [], [4])),
    ("LIDC-IDRI-0011", "nodule-0", "slice-3", "tune", ([1], [1], [1], [1])),
    ("LIDC-IDRI-0001", "nodule-0", "slice-1", "report", ([0, 4], [], [], [])),
]
NAMES = ["LIDC-IDRI-0001/nodule-0/slice-1", "LIDC-IDRI-0002/nodule-1/slice-9", "LIDC-IDRI-0002/nodule-1/slice-10"]


def pixels(number):
    return np.full((4, 5), 10 + number, np.uint8)


def mask(columns):
    marked = np.zeros((4, 5), bool)
    marked[:, columns] = True
    return marked


def folders(folder):
    for number, (patient, nodule, plane, _, marks) in enumerate(SLICES):
        contents = {"images": pixels(number)}
        contents |= {f"mask-{annotator}": mask(columns) * np.uint8(255) for annotator, columns in enumerate(marks)}
        for kind, values in contents.items():
            path = folder / patient / nodule / kind / f"{plane}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            imageio.imwrite(path, values)
    rows = sorted({f"{patient},{part}" for patient, _, _, part, _ in SLICES})
    (folder / "split.csv").write_text("\n".join(["patient,split", *rows]))


def archive(folder):
    folder.mkdir(exist_ok=True)
    patients, nodules, planes, parts, marks = zip(*SLICES, strict=True)
    bits = [sum((mask(columns) << annotator) for annotator, columns in enumerate(one)) for one in marks]
    np.savez_compressed(
        folder / "slices.npz",
        images=np.stack([pixels(number) for number in range(len(SLICES))]),
        mask_bits=np.array(bits, np.uint8),
        patient=patients,
        nodule=nodules,
        slice=[f"{plane}.png" for plane in planes],
        split=parts,
    )


LAYOUTS = pytest.mark.parametrize(("lay", "kind"), [(folders, LIDCFolders), (archive, LIDCArchive)])


@LAYOUTS
def test_every_annotator_has_a_truth(tmp_path, lay, kind):
    lay(tmp_path)
    source = open_source(tmp_path)
    assert type(source) is kind
    assert [sample.name for sample in source] == [*NAMES, "LIDC-IDRI-0011/nodule-0/slice-3"]
    told = {"/".join(facts[:3]): (number, facts[4]) for number, facts in enumerate(SLICES)}
    for sample in source:
        number, marks = told[sample.name]
        picture, annotators = pickle.loads(pickle.dumps(sample)).read_all()
        np.testing.assert_array_equal(picture.data, pixels(number)[None])
        assert len(annotators) == 4
        for truth, columns in zip(annotators, marks, strict=True):
            assert len(truth) == (len(columns) > 0)  # one object or none, in however many pieces
            np.testing.assert_array_equal(truth.owners() > 0, mask(columns))
        np.testing.assert_array_equal(sample.read()[1].owners(), annotators[0].owners())


@LAYOUTS
def test_parts_are_made_of_patients(tmp_path, lay, kind):
    lay(tmp_path)
    parts = {part: open_source(tmp_path, split=part) for part in ("fit", "tune", "report")}
    assert [sample.name for sample in parts["fit"]] == NAMES[1:]
    assert {part: {sample.group for sample in source} for part, source in parts.items()} == {
        "fit": {"LIDC-IDRI-0002"},
        "tune": {"LIDC-IDRI-0011"},
        "report": {"LIDC-IDRI-0001"},
    }


def test_folders_that_do_not_say_their_parts(tmp_path):
    folders(tmp_path)
    (tmp_path / "split.csv").unlink()
    assert len(open_source(tmp_path)) == 4
    with pytest.raises(ValueError, match=r"which patients are in its 'fit' part; write split\.csv"):
        open_source(tmp_path, split="fit")


def test_a_lost_mask_is_told(tmp_path):
    folders(tmp_path)
    (tmp_path / NAMES[0]).parent.joinpath("mask-2/slice-1.png").unlink()
    with pytest.raises(FileNotFoundError, match="mask-2"):
        open_source(tmp_path)[0].read_all()


def test_a_damaged_archive_is_told(tmp_path):
    archive(tmp_path)
    path = tmp_path / "slices.npz"
    content = bytearray(path.read_bytes())
    start = content.index(b"images.npy") + 60
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"slices\.npz: damaged"):
        open_source(tmp_path)


def test_other_archives_are_none_of_ours(tmp_path):
    np.savez(tmp_path / "weights.npz", **{field: np.zeros(1) for field in FIELDS[1:]})
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="is no data set"):
        open_source(tmp_path)


@pytest.mark.data
def test_the_real_lidc(real_data):
    parts = {part: open_source(real_data / "lidc", split=part) for part in ("fit", "tune", "report")}
    assert {part: len(source) for part, source in parts.items()} == {"fit": 1495, "tune": 289, "report": 442}
    groups = [{sample.group for sample in source} for source in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 726  # no patient is in two parts
    assert len({sample.name for sample in open_source(real_data / "lidc")}) == 2226
    read = [sample.read_all() for sample in parts["report"][:100]]
    assert all(picture.data.shape == (1, 128, 128) and len(annotators) == 4 for picture, annotators in read)
    empty = np.mean([len(truth) == 0 for _, annotators in read for truth in annotators])
    assert 0.25 < empty < 0.45  # of all masks 36 %, as the data's description says
