"""Files in, a folder of choices out."""

import csv

import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile

import plurimask
from plurimask.active.acquisition import SCORES
from plurimask.active.candidates import content_hash, is_constant
from plurimask.cli import main
from plurimask.data.io import read_image
from plurimask.pixelwise import pixel_doubt


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_table_and_a_picture_for_every_choice(pool, model, tmp_path):
    made = plurimask.select([pool], tmp_path / "out", 2, model=model, draws=2, seed=1)
    table = rows(tmp_path / "out" / "selection.csv")
    assert [row["rank"] for row in table] == ["1", "2"] and len({row["image"] for row in table}) == 2
    assert {row["image"] for row in table} < {"1.tif", "2.tif", "a/1.tif"}
    assert set(SCORES) - {"random"} < set(table[0]) and "start-0" not in table[0]
    assert all("drawn at random; unlike all" in row["why"] and float(row["distance"]) > 0 for row in table)
    pictures = [row["picture"] for row in table]
    assert contents(tmp_path / "out") == sorted(["selection.csv", "pool.csv", *pictures])
    assert all(imageio.imread(tmp_path / "out" / name).ndim == 3 for name in pictures)
    assert [row["image"] for row in made.rows] == [row["image"] for row in table]
    notes = {row["image"]: row["note"] for row in rows(tmp_path / "out" / "pool.csv")}
    assert notes["a/copy.tif"] == "left out: the same image as 2.tif"
    assert "NaN" in notes["broken.tif"] and notes["broken.tif"].startswith("problem: ")
    assert "all pixels are equal" in notes["flat.tif"]
    assert set(made.pool.problems) == {"broken.tif", "flat.tif"} and set(made.pool.left_out) == {"a/copy.tif"}
    assert contents(tmp_path) == ["out", "pool"]


def test_a_score_ranks_the_pool(pool, model, tmp_path):
    settings = {"model": model, "strategy": "bald_sum", "diversity": 1, "draws": 3}
    made = plurimask.select([pool], tmp_path / "out", 3, **settings)
    doubts = {
        name: pixel_doubt(read_image(pool / name).data, model, draws=3).mutual_information.sum(dtype=float)
        for name in ("1.tif", "2.tif", "a/1.tif")
    }
    assert [row["image"] for row in made.rows] == sorted(doubts, key=doubts.get, reverse=True)
    assert [row["bald_sum"] for row in made.rows] == pytest.approx(sorted(doubts.values(), reverse=True))
    assert made.rows[0]["why"] == "number 1 of 3 by bald_sum"
    scored = {row["image"]: row for row in rows(tmp_path / "out" / "pool.csv")}
    assert float(scored["a/1.tif"]["bald_sum"]) == pytest.approx(doubts["a/1.tif"], rel=1e-5)


def test_annotated_images_are_not_chosen_again(pool, model, tmp_path, picture):
    (tmp_path / "done").mkdir()
    tifffile.imwrite(tmp_path / "done" / "other_name.tif", picture(3), compression="zlib")
    made = plurimask.select([pool], tmp_path / "out", 9, model=model, draws=1, annotated=[tmp_path / "done"])
    assert {row["image"] for row in made.rows} == {"1.tif", "2.tif"}
    assert made.pool.left_out["a/1.tif"].startswith("annotated already")
    assert (made.asked, len(made.rows)) == (9, 2)  # a pool that is smaller is chosen whole


def test_crops(model, tmp_path, picture):
    image = picture(1, (40, 70))
    image[:, :21] = 7  # nothing to see in some of the crops
    (tmp_path / "pool").mkdir()
    tifffile.imwrite(tmp_path / "pool" / "one.tif", image)
    made = plurimask.select(
        [tmp_path / "pool"], tmp_path / "out", 9, model=model, crops=20, strategy="entropy_mean", draws=2
    )
    assert len(made.rows) == 4 and len(made.pool.left_out) == 2
    table = rows(tmp_path / "out" / "selection.csv")
    for row in table:
        start, stop = ([int(row[f"{end}-{axis}"]) for axis in range(2)] for end in ("start", "stop"))
        crop = read_image(tmp_path / "out" / row["crop"]).data
        np.testing.assert_array_equal(crop[0], image[tuple(map(slice, start, stop))])
        assert (tmp_path / "out" / row["picture"]).is_file() and crop.shape == (1, 20, 20)
    assert len({(row["start-0"], row["start-1"]) for row in table}) == 4


def test_a_part_of_a_data_set(model, tmp_path, picture):
    for seed, name in enumerate(("fit/one", "fit/two", "fit/three", "tune/four")):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / "data" / f"{name}.tif", picture(seed))
        tifffile.imwrite(tmp_path / "data" / f"{name}_masks.tif", np.eye(32, 40, dtype=np.uint8))
    data = tmp_path / "data"
    made = plurimask.select([data], tmp_path / "out", 1, model=model, split="fit", draws=1)
    assert made.rows[0]["image"] in ("fit/one", "fit/three")
    assert made.pool.left_out == {"fit/two": "the model was trained on it"} and len(made.pool.candidates) == 2


def test_nothing_is_overwritten(pool, model, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        plurimask.select([pool], tmp_path / "out", 1, model=model)


def test_an_annotated_image_of_other_channels_is_named(pool, model, tmp_path):
    tifffile.imwrite(tmp_path / "two.tif", np.zeros((2, 9, 9), np.uint8), ome=True, metadata={"axes": "CYX"})
    with pytest.raises(ValueError, match=r"two\.tif: the image has shape \(2, 9, 9\)"):
        plurimask.select([pool], tmp_path / "out", 1, model=model, annotated=[str(tmp_path / "two.tif")])


def test_a_pool_without_a_candidate(pool, model, tmp_path):
    with pytest.raises(ValueError, match=r"broken\.tif: .*NaN"):
        plurimask.select([pool / "broken.tif"], tmp_path / "out", 1, model=model)
    with pytest.raises(ValueError, match="0 images"):
        plurimask.select([pool], tmp_path / "out", 0, model=model)
    assert contents(tmp_path) == ["pool"]


def test_the_command(pool, model, tmp_path, capsys):
    options = ["--model", str(model), "--draws", "1", "--diversity", "inf"]
    code = main(["select", str(pool), "-n", "5", "-o", str(tmp_path / "out"), *options])
    shown = capsys.readouterr()
    assert code == 1  # two images are broken
    assert "broken.tif" in shown.err and "flat.tif" in shown.err
    assert "3 of 3 images are chosen" in shown.out and "the pool has no more images" in shown.out
    assert "left out: a/copy.tif (the same image as 2.tif)" in shown.out
    assert len(rows(tmp_path / "out" / "selection.csv")) == 3


def test_equal_pixels_are_one_image_whatever_their_bytes():
    image = np.arange(12, dtype="<u2").reshape(1, 3, 4)
    assert content_hash(image) == content_hash(image.astype(">u2")) == content_hash(image[:, ::-1][:, ::-1])
    others = [image.reshape(1, 4, 3), image.astype(np.int16), image + 1]
    assert len({content_hash(other) for other in [image, *others]}) == 4


def test_constant_in_every_channel():
    assert is_constant(np.stack([np.full((3, 4), 1), np.full((3, 4), 2)]))
    assert not is_constant(np.stack([np.full((3, 4), 1), np.eye(3, 4)]))
