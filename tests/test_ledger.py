"""What a folder of results remembers; how a batch uses it is tested in test_batch.py."""

import csv
import json
from dataclasses import replace

import pytest

from plurimask.ledger import (
    COLUMNS,
    CONFIG,
    SUMMARY,
    Settings,
    check_output,
    differences,
    fingerprint,
    write_config,
    write_summary,
)

NOW = Settings("nuclei", "abc", 8, 0, None, None, None, None, "auto")


def files(folder, **contents):
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


def test_a_fingerprint_is_that_of_the_contents(tmp_path):
    first, second = files(tmp_path, a="one", b="two")
    assert fingerprint([first, second]) == fingerprint([second, first])
    before = fingerprint([first])
    first.rename(tmp_path / "c")
    assert fingerprint([tmp_path / "c"]) == before != fingerprint([second])


def test_the_settings_come_back(tmp_path):
    write_config(tmp_path / "deep" / "out", NOW)
    config = tmp_path / "deep" / "out" / CONFIG
    assert differences(json.loads(config.read_text())["settings"], NOW) == []
    before = config.stat().st_mtime_ns
    write_config(config.parent, NOW)
    assert config.stat().st_mtime_ns == before
    write_config(config.parent, replace(NOW, draws=4))
    assert differences(json.loads(config.read_text())["settings"], NOW) == ["draws: 4 there, 8 now"]


def test_a_model_is_its_weights():
    there = {**vars(NOW), "model": "elsewhere"}
    assert differences(there, NOW) == []
    assert differences({**there, "weights": "x"}, NOW) == ["model: elsewhere there, nuclei now"]
    assert differences({**vars(NOW), "weights": "x"}, NOW) == ["weights: x there, abc now"]


def test_rows_are_added_and_replaced(tmp_path):
    write_summary(tmp_path, {name: {"image": name, "objects": 1} for name in ("a10", "a9")})
    write_summary(tmp_path, {"a9": {"image": "a9", "objects": 2, "unlike": 0.25}, "b": {"image": "b", "problem": "?"}})
    with (tmp_path / SUMMARY).open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == COLUMNS
    assert [(row["image"], row["objects"], row["unlike"], row["problem"]) for row in table] == [
        ("a9", "2", "0.25", ""),
        ("a10", "1", "", ""),
        ("b", "", "", "?"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == [SUMMARY]


def test_a_summary_of_before_there_was_a_column_goes_on(tmp_path):
    (tmp_path / SUMMARY).write_text("image,objects,mean_doubt,seconds,problem\na,3,0.5,1,\n", encoding="utf-8")
    write_summary(tmp_path, {"b": {"image": "b", "unlike": 1.5}})
    assert (tmp_path / SUMMARY).read_text(encoding="utf-8").splitlines()[1:] == ["a,3,,,0.5,,1,", "b,,,,,1.5,,"]


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / CONFIG).write_text("{}", encoding="utf-8")
    with pytest.raises(FileExistsError, match="plurimask did not write it"):
        check_output(tmp_path, NOW, targets={"a": tmp_path / "a"}, overwrite=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [(SUMMARY, "image,notes\nmine.tif,precious\n"), (SUMMARY, "a,b\n1,2\n"), (CONFIG, "{broken"), (CONFIG, "[1]")],
)
def test_files_of_somebody_else_are_left_alone(tmp_path, name, text):
    files(tmp_path, **{name: text})
    with pytest.raises(FileExistsError, match=f"{name} exists, but plurimask did not write it"):
        check_output(tmp_path, NOW, targets={}, overwrite=False)
    assert (tmp_path / name).read_text() == text
