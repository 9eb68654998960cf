"""Public benchmarks: made-up folders in their layouts, and the real ones where they are at hand."""

import pickle

import numpy as np
import pytest
import tifffile

from plurimask.data.benchmarks import BBBC010, ISBI2012, ISIC2018, Nuclei3D
from plurimask.data.io import UnreadableImage
from plurimask.data.sources import open_source


def broad(folder, wells, pictures):
    for well in wells:
        for channel, value in (("w1", 1), ("w2", 2)):
            pictures.image(folder / "BBBC010_v1_images" / f"1649_1109_Amp_{well}_{channel}_15AD.tif", value)
        for number in (1, 2):
            masks = folder / "BBBC010_v1_foreground_eachworm"
            pictures.mask(masks / f"{well}_{number:02d}_ground_truth.png", number)


def test_bbbc010_as_the_broad_packs_it(tmp_path, pictures):
    broad(tmp_path, ["A01", "A04", "C02", "C03", "C04", "E03"], pictures)
    pictures.check(open_source(tmp_path, split="fit"), ["A01", "C02"])
    pictures.check(open_source(tmp_path, split="tune"), ["A04"])
    pictures.check(open_source(tmp_path, split="report"), ["C03", "E03"])  # C04 belongs to the papers' second fold
    assert open_source(tmp_path)[0].image().data.max() == 2  # bright-field
    both = BBBC010(tmp_path, channels=("w2", "w1"))[0].image()
    assert both.data.shape == (2, *pictures.shape) and both.data[:, 0, 0].tolist() == [2, 1]
    for names in (["w2", "w1"], ["w1", "w2"], ["w1"]):
        source = open_source(tmp_path, split="fit", channel_files=names)
        assert [sample.name for sample in source] == ["A01", "C02"]
        assert source[0].image().data[:, 0, 0].tolist() == [int(name[1]) for name in names]
        assert [path.name.split("_")[4] for path in source[0].files] == names


@pytest.mark.parametrize("names", [[], ["w3"], ["w2", "w2"], ["GFP"]])
def test_channels_that_bbbc010_has_not(tmp_path, names, pictures):
    broad(tmp_path, ["A01"], pictures)
    with pytest.raises(ValueError, match=r"w2 or w1 or both are wanted, not .*--channel-files w2 w1"):
        open_source(tmp_path, channel_files=names)


def test_a_well_that_lacks_a_channel(tmp_path, pictures):
    broad(tmp_path, ["A01", "A02"], pictures)
    (lost,) = tmp_path.glob("*/*_A01_w1_*")
    lost.unlink()
    for names in (["w2", "w1"], ["w1", "w2"]):
        assert [sample.name for sample in open_source(tmp_path, channel_files=names)] == ["A02"]
    next(tmp_path.glob("*/*_A02_w1_*")).unlink()
    assert len(open_source(tmp_path)) == 2
    with pytest.raises(FileNotFoundError, match="no image of the channel w1"):
        open_source(tmp_path, channel_files=["w2", "w1"])


def test_bbbc010_with_a_list_of_wells(tmp_path, pictures):
    broad(tmp_path, ["A01", "A04"], pictures)
    (tmp_path / "split_report.txt").write_text("A01\n")
    pictures.check(open_source(tmp_path, split="report"), ["A01"])


def test_dsb2018(tmp_path, pictures):
    for name in ("a", "b"):
        pictures.image(tmp_path / "images" / f"{name}.png")
        pictures.write(tmp_path / "labels" / f"{name}.png", pictures.labels)
    (tmp_path / "index.csv").write_text("id,split\nb,fit\na,report\n")
    pictures.check(open_source(tmp_path), ["a", "b"])
    pictures.check(open_source(tmp_path, split="fit"), ["b"])


@pytest.mark.data
def test_the_two_channels_of_the_real_bbbc010(real_data):
    source = open_source(real_data / "bbbc010", split="report", channel_files=["w2", "w1"])
    alone = open_source(real_data / "bbbc010", split="report")
    assert [sample.name for sample in source] == [sample.name for sample in alone]
    both, (light, _) = source[0].read()[0], alone[0].read()
    assert both.data.shape == (2, 520, 696)
    np.testing.assert_array_equal(both.data[:1], light.data)


@pytest.mark.data
def test_the_real_bbbc010(real_data):
    parts = {part: open_source(real_data / "bbbc010", split=part) for part in ("fit", "tune", "report")}
    assert {part: len(source) for part, source in parts.items()} == {"fit": 38, "tune": 12, "report": 22}
    by_default = {part: open_source(real_data / "bbbc010").__class__(real_data / "bbbc010", part) for part in parts}
    assert by_default == parts
    picture, truth = parts["fit"][0].read()
    assert picture.data.shape == (1, 520, 696) and picture.data.dtype == np.uint16
    assert len(truth) == 15
    # The masks align with the bright-field channel: worms are darker than the well.
    assert np.median(picture.data[0][truth.owners() > 0]) < 1500 < np.median(picture.data[0][picture.data[0] > 500])


@pytest.mark.data
def test_the_real_dsb2018(real_data):
    source = open_source(real_data / "dsb2018", split="tune")
    assert len(source) == 64
    picture, truth = source[0].read()
    assert picture.data.shape[0] == 1 and len(truth) > 0


def test_a_table_without_the_split(tmp_path, pictures):
    pictures.image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "index.csv").write_text("name,split\na,fit\n")
    with pytest.raises(UnreadableImage, match=r"columns .*'id' and 'split' are wanted"):
        open_source(tmp_path)


def isic(folder, pictures):
    """Two photographs, one of them grey; the lesions have 2 and 4 pixels."""
    grey, coloured = np.full((*pictures.shape, 3), 90, np.uint8), np.full((*pictures.shape, 3), (200, 10, 10), np.uint8)
    for name, picture, mask in (("ISIC_9", grey, pictures.labels == 1), ("ISIC_10", coloured, pictures.labels > 0)):
        pictures.write(folder / "images" / f"{name}.jpg", picture)
        pictures.write(folder / "masks" / f"{name}_segmentation.png", mask * np.uint8(255))
    (folder / "split.csv").write_text("id,split\nISIC_10,report\nISIC_9,fit\n")
    return folder


def test_isic2018(tmp_path, pictures):
    source = open_source(isic(tmp_path, pictures))
    assert type(source) is ISIC2018 and [sample.name for sample in source] == ["ISIC_9", "ISIC_10"]
    for sample, area in zip(source, (2, 4), strict=True):
        picture, truth = pickle.loads(pickle.dumps(sample)).read()
        assert picture.data.shape == (3, *pictures.shape)  # a grey photograph, too
        assert truth.areas.tolist() == [area]  # one region, in however many pieces
    assert [sample.name for sample in open_source(tmp_path, split="report")] == ["ISIC_10"]


def test_isbi2012(tmp_path, pictures):
    # Two cells that meet at a corner, and one apart.
    cells = np.array([[1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0]], bool)
    for number in range(5):
        pictures.write(tmp_path / "image" / f"{number:02d}.png", np.full(cells.shape, number, np.uint8))
        pictures.write(tmp_path / "label" / f"{number:02d}.png", cells * np.uint8(255))
    (tmp_path / "split.txt").write_text("fit 00-01\ntune 03-03\nreport 04-09\n")
    source = open_source(tmp_path)
    assert type(source) is ISBI2012 and len(source) == 5
    parts = {part: [one.name for one in open_source(tmp_path, split=part)] for part in ("fit", "tune", "report")}
    assert parts == {"fit": ["00", "01"], "tune": ["03"], "report": ["04"]}  # slice 02 is a gap
    picture, truth = source[3].read()
    assert picture.data.max() == 3 and truth.areas.tolist() == [2, 2, 2]


def test_nuclei3d(tmp_path):
    volume = np.zeros((4, 5, 6), np.uint16)
    volume[1, 1, 1], volume[1, 3, 3:5] = 4, 9
    embryo = tmp_path / "qcanet_mouse_embryo"
    for path, values in {
        tmp_path / "stardist_demo" / "img3d.tif": volume * 100,
        tmp_path / "stardist_demo" / "mask3d.tif": volume,
        embryo / "images_raw" / "16_cell_stage.tif": volume * 100,
        embryo / "images_nsn" / "16_cell_stage.tif": (volume > 0) * np.uint8(255),
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, values, photometric="minisblack")
    source = open_source(tmp_path)
    assert type(source) is Nuclei3D and [sample.name for sample in source] == ["16_cell_stage", "img3d"]
    for sample in source:
        picture, truth = pickle.loads(pickle.dumps(sample)).read()
        assert picture.data.shape == (1, 4, 5, 6) and truth.areas.tolist() == [1, 2]
    assert [sample.name for sample in open_source(tmp_path, split="fit")] == ["16_cell_stage"]
    with pytest.raises(FileNotFoundError, match="'tune'"):
        open_source(tmp_path, split="tune")


@pytest.mark.data
def test_the_real_isic2018(real_data):
    parts = {part: open_source(real_data / "isic2018", split=part) for part in ("fit", "tune", "report")}
    assert {part: len(source) for part, source in parts.items()} == {"fit": 650, "tune": 150, "report": 200}
    picture, truth = parts["tune"][0].read()
    assert picture.data.shape == (3, 256, 256) and len(truth) == 1
    inside = truth.owners() > 0
    assert picture.data[:, inside].mean() < picture.data[:, ~inside].mean()  # lesions are dark


@pytest.mark.data
def test_the_real_isbi2012(real_data):
    parts = {part: open_source(real_data / "isbi2012", split=part) for part in ("fit", "tune", "report")}
    assert {part: len(source) for part, source in parts.items()} == {"fit": 14, "tune": 3, "report": 5}
    picture, truth = parts["fit"][0].read()
    assert picture.data.shape == (1, 512, 512) and len(truth) == 136  # counted with scipy
    inside = truth.owners() > 0
    assert picture.data[0][inside].mean() > picture.data[0][~inside].mean()  # membranes are dark


@pytest.mark.data
def test_the_real_nuclei3d(real_data):
    source = open_source(real_data / "nuclei3d")
    counts = {}
    for sample in source:
        picture, truth = sample.read()
        counts[sample.name] = len(truth)
        inside = truth.owners() > 0
        assert picture.data[0][inside].mean() > 1.2 * picture.data[0][~inside].mean()
    assert counts == {"8_cell_stage": 8, "16_cell_stage": 16, "img3d": 51}  # as the data's description says
