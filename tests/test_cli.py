"""The command line: it parses, calls and prints, and does nothing else."""

import dataclasses
import inspect
import json
import logging
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from jsonargparse import Namespace

import plurimask
from plurimask import cli, words
from plurimask.batch import BatchReport, Job
from plurimask.cli import VERBS, Verb, build_parser, main
from plurimask.data.io import read_image
from plurimask.data.normalise import Normalisation
from plurimask.data.synthetic import blobs
from plurimask.data.transforms import Augmentation
from plurimask.familiarity import Familiarity, training_looks
from plurimask.methods import METHODS, Embedding
from plurimask.model import Model, describe, network_factory
from plurimask.networks import BACKBONES, UNet
from plurimask.posteriors import POSTERIORS, Deterministic
from plurimask.protocols import Backbone, Method

COMMON = {"help", "config", "print_config", "quiet", "debug"}


@dataclass(frozen=True)
class Pace:
    """How fast.

    Attributes:
        steps: number of steps.
    """

    steps: int = 10


CALLS: list[dict] = []  # what the stand-ins were called with
FAILING: dict[str, str] = {}


def segment_files(
    images: list[Path | str],
    output: Path | str,
    *,
    model: Path | str = "nuclei",
    draws: int = 8,
    pixel_size: float | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: object = None,
) -> BatchReport:
    """Segments.

    Args:
        images: to segment.
        output: where to.
        draws: how often.
        overwrite: replace.
    """
    CALLS.append({key: value for key, value in locals().items() if key != "progress"})
    row = {"image": "a.tif", "objects": 3, "objects_low": 2, "objects_high": 5, "mean_doubt": 0.25, "seconds": 1}
    return BatchReport(Path(output), ("a.tif",), (), dict(FAILING), (row,))


def train(
    data: list[Path | str],
    output: Path,
    *,
    method: Method | None = None,
    backbone: Callable[[int], Backbone] = UNet,
    pace: Pace = Pace(),
    weights: Sequence[float] | None = None,
    channels: Sequence[str] | None = None,
    progress: bool = True,
) -> None:
    """Trains."""
    CALLS.append(dict(locals()))


@pytest.fixture
def calls(monkeypatch):
    CALLS.clear()
    FAILING.clear()
    functions = {"plurimask.batch:segment_files": segment_files, "plurimask.training:train": train}
    original = words.imported
    monkeypatch.setattr(cli, "imported", lambda place: functions.get(place) or original(place))
    return CALLS


def test_segment_is_called_with_its_options(calls, capsys):
    assert main(["segment", "a.tif", "b", "-o", "out", "--draws", "3", "--pixel-size", "0.5", "--device", "cpu"]) == 0
    (call,) = calls
    assert call["images"] == ["a.tif", "b"]
    assert (call["output"], call["draws"], call["pixel_size"], call["device"]) == ("out", 3, 0.5, "cpu")
    assert (str(call["model"]), call["overwrite"]) == ("nuclei", False)
    shown = capsys.readouterr()
    assert "a.tif" in shown.out
    assert "2 to 5" in shown.out
    assert "1 segmented, 0 there already, 0 failed" in shown.out
    assert shown.err == ""


def test_underscores_and_flags_are_read_too(calls):
    assert main(["segment", "a.tif", "--output=out", "--pixel_size=2", "--overwrite", "-q"]) == 0
    assert calls[0]["pixel_size"] == 2.0
    assert calls[0]["overwrite"] is True


def test_quiet_says_nothing_but_errors(calls, capsys):
    FAILING["b.tif"] = "cut off"
    assert main(["segment", "a.tif", "-o", "out", "-q"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "plurimask: b.tif: cut off\n"


def test_a_config_file_gives_options(calls, tmp_path):
    (tmp_path / "c.yaml").write_text("draws: 5\nmodel: worms\n", encoding="utf-8")
    assert main(["segment", "a.tif", "-o", "out", "--config", str(tmp_path / "c.yaml"), "--model", "other"]) == 0
    assert calls[0]["draws"] == 5
    assert str(calls[0]["model"]) == "other"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.tif"], "output"),
        (["a.tif", "-o", "out", "--draws", "many"], "many"),
        (["a.tif", "-o", "out", "--drawz", "3"], "--drawz"),
    ],
)
def test_what_is_not_understood_is_one_line(calls, capsys, arguments, message):
    assert main(["segment", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("plurimask: ")
    assert error.count("\n") == 1
    assert message in error
    assert "segment --help" in error
    assert calls == []


def test_errors_are_one_line_without_a_traceback(monkeypatch, capsys):
    def broken(path: str | None = None) -> dict[str, int]:
        raise ValueError("the image\nhas shape (3,)")

    monkeypatch.setattr(cli, "imported", lambda place: broken)
    assert main(["info", "x"]) == 1
    assert capsys.readouterr().err == "plurimask: the image has shape (3,)\n"
    with pytest.raises(ValueError, match="has shape"):
        main(["info", "x", "--debug"])


def test_an_interruption_has_its_own_code(monkeypatch, capsys):
    def interrupted(path: str | None = None) -> dict[str, int]:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "imported", lambda place: interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "plurimask: interrupted\n"


def test_warnings_and_the_log_are_lines(monkeypatch, capsys):
    def warned(path: str | None = None) -> dict[str, int]:
        warnings.simplefilter("always")
        warnings.warn("far from the training images", stacklevel=1)
        logging.getLogger("plurimask.inner").warning("look at %s", "this")
        return {"a": 1}

    monkeypatch.setattr(cli, "imported", lambda place: warned)
    assert main(["info"]) == 0
    error = capsys.readouterr().err.splitlines()
    assert error == ["plurimask: warning: far from the training images", "plurimask: look at this"]
    assert logging.getLogger("plurimask").handlers == []


def test_the_log_does_not_run_into_the_progress_bar(monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    with cli._messages(debug=False), cli.Bar(quiet=False).shown() as bar:
        bar.progress.start()  # as after PATIENCE seconds
        logging.getLogger("plurimask.inner").warning("a.tif looks odd")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "━" in shown
    assert "plurimask: a.tif looks odd" in [line.strip() for line in re.split(r"[\r\n]+", shown)]


@pytest.mark.parametrize("key", sorted(METHODS))
@pytest.mark.parametrize("form", ["--method {}", "--method={}"])
def test_short_keys_name_methods(calls, key, form):
    assert main(["train", "data", "-o", "model", *form.format(key).split()]) == 0
    assert type(calls[0]["method"]) is METHODS[key]


@pytest.mark.parametrize("key", [*BACKBONES, *(kind.__name__ for kind in BACKBONES.values())])
def test_short_keys_name_backbones_with_their_settings(calls, key):
    assert main(["train", "data", "-o", "model", "--backbone", key, "--backbone.width", "4"]) == 0
    made = calls[0]["backbone"](2)
    assert (made.width, made.in_channels) == (4, 2)


def test_a_wrong_key_is_told_the_right_ones(calls, capsys):
    assert main(["train", "data", "-o", "model", "--posterior", "nope"]) == 2
    error = capsys.readouterr().err
    assert all(key in error for key in POSTERIORS)
    assert calls == []


def test_fields_of_dataclasses_are_options(calls):
    options = ["--method", "embedding", "--method.dimensions", "8", "--pace.steps", "3", "-q"]
    assert main(["train", "data", "-o", "model", *options]) == 0
    assert calls[0]["method"].dimensions == 8
    assert calls[0]["pace"] == Pace(3)
    assert calls[0]["progress"] is False


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--weights", "1", "0.5"], [1.0, 0.5]),
        (["--weights", "1,0.5"], [1.0, 0.5]),
        (["--weights", "1, 0.5"], [1.0, 0.5]),
        (["--weights", "1,", "0.5"], [1.0, 0.5]),
        (["--weights", "[1, 0.5]"], [1.0, 0.5]),
        (["--weights", "[1,", "0.5]"], [1.0, 0.5]),  # the quotation marks were forgotten
        (["--weights=1,0.5"], [1.0, 0.5]),
        (["--weights", "-1", "2e-1"], [-1.0, 0.2]),
        (["--weights", "3"], [3.0]),
        (["--weights", "null"], None),
        (["--channels", "w2", "w1", "-q"], ["w2", "w1"]),
        (["--channels", "w2,w1"], ["w2", "w1"]),
        (["--channels", "[w2, w1]"], ["w2", "w1"]),
        (["--channels", "['a, b', 'c']"], ["a, b", "c"]),
        (["--channels=DAPI stain,5' label"], ["DAPI stain", "5' label"]),
        (["--channels", "1", "no"], ["1", "no"]),
        (["--channels", "null"], None),
    ],
)
def test_lists_in_all_the_ways_that_people_write_them(calls, given, expected):
    name = given[0].strip("-").partition("=")[0]
    assert main(["train", "data", "-o", "model", *given]) == 0
    assert calls[0][name] == expected
    assert calls[0]["data"] == ["data"]


@pytest.mark.parametrize(
    "given",
    [
        ["--weights", "1", "0.5"],
        ["--weights", "1,0.5"],
        ["--channels", "w2,w1"],
        ["--channels", "[w2]"],
        ["--channels=w2"],
    ],
)
def test_what_follows_a_list_is_no_part_of_it(calls, given):
    assert main(["train", *given, "data", "-o", "model"]) == 0
    assert calls[0]["data"] == ["data"]


@pytest.mark.parametrize("text", ["half", "0.5;0.7", "[0.5 0.7]", "1,half", "nan"])
def test_a_list_of_numbers_that_is_none_is_told_the_form(calls, capsys, text):
    assert main(["train", "data", "-o", "model", "--weights", text]) == 2
    error = capsys.readouterr().err
    message = f"plurimask: --weights {text}: numbers are wanted, as in --weights 0.5 0.75 (see plurimask train --help)"
    assert error == f"{message}\n"
    assert calls == []


def test_a_list_without_values(calls, capsys):
    assert main(["train", "data", "-o", "model", "--weights", "-q"]) == 2
    assert "expected one argument" in capsys.readouterr().err


def test_the_options_that_are_lists():
    functions = {name: words.imported(verb.function) for name, verb in VERBS.items()}
    lists = {name: words.list_options(function) for name, function in functions.items()}
    assert lists["evaluate"] == {"--thresholds": float}
    names = ("--only", "--unlabelled", "--channels", "--channel_files")
    assert lists["train"] == {"--weights": float, **dict.fromkeys(names, str)}
    assert lists["segment"] == lists["tune"] == {"--channel_files": str}


@pytest.mark.parametrize("name", sorted(VERBS))
def test_options_are_the_arguments_of_the_function(name):
    verb = VERBS[name]
    function = words.imported(verb.function)
    tops = {action.dest.partition(".")[0] for action in build_parser(name, verb)._actions}
    assert tops - COMMON == set(inspect.signature(function).parameters) - set(verb.hooks)


@pytest.mark.parametrize("name", sorted(VERBS))
def test_defaults_are_those_of_the_function(name):
    verb = VERBS[name]
    parser = build_parser(name, verb)
    for argument, about in inspect.signature(words.imported(verb.function)).parameters.items():
        plain = about.default is None or isinstance(about.default, str | int | float)
        if argument not in verb.hooks and plain:
            assert str(parser.get_default(argument)) == str(about.default)


def test_a_flag_that_is_on_can_be_turned_off(monkeypatch):
    seen = []

    def function(path: str, *, smooth: bool = True, sharp: bool = False) -> None:
        seen.append((path, smooth, sharp))

    monkeypatch.setattr(cli, "imported", lambda place: function)
    verb = Verb("x:y", "", lambda outcome, options, console: 0, positional=("path",))
    monkeypatch.setitem(cli.VERBS, "info", verb)
    for options in ([], ["--no-smooth"], ["--smooth", "--sharp"]):
        assert main(["info", "p", *options]) == 0
    assert seen == [("p", True, False), ("p", False, False), ("p", True, True)]


def test_other_peoples_chatter_is_left_out(monkeypatch, capsys):
    chatty = logging.getLogger(cli.CHATTY[0])
    monkeypatch.setattr(chatty, "level", logging.INFO)

    def talk(path: str | None = None) -> dict[str, int]:
        chatty.info("GPU available: no")
        chatty.warning("something is wrong")
        return {}

    lines = logging.StreamHandler()
    chatty.addHandler(lines)
    monkeypatch.setattr(cli, "imported", lambda place: talk)
    lines.setStream(sys.stderr)
    try:
        main(["info"])
        assert capsys.readouterr().err == "something is wrong\n"
        main(["info", "--debug"])
        assert "GPU" in capsys.readouterr().err
    finally:
        chatty.removeHandler(lines)
    assert chatty.level == logging.INFO


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_option_is_explained(name):
    silent = [
        action.dest
        for action in build_parser(name, VERBS[name])._actions
        if not action.help and not action.dest.startswith("print_")
    ]
    assert silent == []


def test_help_shows_dashes_and_texts(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["segment", "--help"])
    assert ending.value.code == 0
    shown = capsys.readouterr().out
    assert "--pixel-size" in shown
    assert "pixel_size" not in shown
    assert "deterministic model is asked once" in " ".join(shown.split())


def test_version(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["--version"])
    assert ending.value.code == 0
    assert capsys.readouterr().out == f"plurimask {plurimask.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["sigment"], ["data"], ["data", "real"]])
def test_unknown_verbs(arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        main(arguments)
    assert ending.value.code == 2


def nuclei(seed):
    return blobs((64, 64), count=6, seed=seed)[0]


def test_an_unlike_image_is_one_line_under_its_name(tmp_path, capsys):
    """From the network to the console, without a stand-in; two images that are equal are two lines."""
    images = [Normalisation()(nuclei(seed)) for seed in range(8)]
    known = Familiarity.fit(training_looks(images, Normalisation(), Augmentation(), seed=0))
    method = Embedding(dimensions=4)
    network = network_factory(describe(UNet(width=4, depth=2)), method)
    Model(Deterministic(network), method, familiarity=known).save(tmp_path / "model")
    image = nuclei(0)[0]
    for name, written in {"a": image.max() - image, "b": image, "c": image.max() - image}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", written.astype(np.float32))
    command = ["segment", str(tmp_path / "*.tif"), "-o", str(tmp_path / "out"), "--model", str(tmp_path / "model")]
    assert main(command) == 0
    lines = filter(None, capsys.readouterr().err.splitlines())  # a progress bar that was shown leaves an empty line
    assert [line.partition(" looks unlike the training images ")[0] for line in lines] == [
        "plurimask: a.tif",
        "plurimask: c.tif",
    ]
    assert all("contrast inverted" in line for line in lines)
    assert main(command) == 0  # all are there already
    assert capsys.readouterr().err == ""


def test_synthetic_data_and_evaluation(tmp_path, capsys):
    folder = str(tmp_path / "worms")
    assert main(["data", "synthetic", "worms", folder, "--count", "2"]) == 0
    assert "2 images" in capsys.readouterr().out
    assert main(["data", "synthetic", "worms", folder, "--count", "2"]) == 1
    assert "not empty" in capsys.readouterr().err
    # Against itself everything is found.
    report = tmp_path / "report"
    assert main(["evaluate", folder, folder, "-o", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "avS 1.000" in shown
    assert "worms_002" in shown
    metrics = report / "metrics.json"
    assert metrics.exists()
    assert main(["evaluate", folder, folder, "-o", str(report)]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["evaluate", folder, folder, "-o", str(report), "--overwrite", "--thresholds", "0.5", "0.75"]) == 0
    assert json.loads(metrics.read_text())["settings"]["thresholds"] == [0.5, 0.75]


def test_info(tmp_path, capsys):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert plurimask.__version__ in shown
    assert "cpu" in shown
    assert main(["info", str(tmp_path / "nothing")]) == 1
    assert "there is no model" in capsys.readouterr().err


def test_a_bar_appears_only_after_a_while(monkeypatch, capsys):
    monkeypatch.setattr(cli, "PATIENCE", 0.02)
    jobs = [Job(name, Path(name), (Path(name),), partial(read_image, name)) for name in ("a", "b")]
    for quiet, patience, shown in ((False, 0.02, True), (True, 0.02, False), (False, 60, False)):
        monkeypatch.setattr(cli, "PATIENCE", patience)
        bar = cli.Bar(quiet=quiet)
        with bar.shown():
            assert list(bar.over_jobs(jobs)) == jobs
            deadline = time.monotonic() + (10 if shown else 0.2)
            while not bar.progress.live.is_started and time.monotonic() < deadline:
                time.sleep(0.01)
            assert bar.progress.live.is_started is shown
        assert not bar.progress.live.is_started
    bar.after_row(SimpleNamespace(name="row"), 3)


@pytest.mark.parametrize("module", ["plurimask", "plurimask.cli"])
def test_the_help_needs_no_torch(module):
    script = (
        f"import runpy, sys; sys.argv = ['plurimask', '--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as ending: assert not ending.code, ending.code\n"
        "heavy = {'torch', 'matplotlib', 'dask', 'napari', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    source = str(Path(plurimask.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "segment" in done.stdout


@pytest.mark.parametrize("name", METHODS)
def test_a_chosen_method_has_its_own_defaults(name):
    """Not those of the default method where fields have equal names."""
    chosen = words.spelled_out(["folder", "-o", "model", "--method", name, "--method.min_size", "7"])
    method = cli.parsed(build_parser("train", VERBS["train"]), chosen).method
    own = {field.name: field.default for field in dataclasses.fields(METHODS[name])}
    given = vars(method.init_args)
    assert given.pop("min_size") == 7
    assert {key: value for key, value in given.items() if not isinstance(value, Namespace)}.items() <= own.items()
