"""The command ``plurimask``: parse, call, print. What the verbs do is written in the functions that they call.

The options of a verb are the arguments of its function, under the same names and with the same defaults. Only the verb
that is asked for is imported, so that ``plurimask --help`` need not wait for torch.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Timer
from typing import TYPE_CHECKING, Any, TextIO

import docstring_parser
from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import plurimask
from plurimask.export.terminal import (
    DONE,
    FAILED,
    LogLines,
    complain,
    show_batch,
    show_evaluation,
    show_facts,
    show_model,
    show_names,
    show_selection,
    show_tuning,
)
from plurimask.words import imported, list_options, spelled_out, with_lists

if TYPE_CHECKING:
    from argparse import HelpFormatter

    from plurimask.batch import Job
    from plurimask.comparison import Row
    from plurimask.decoding import Trial

MISUSED, INTERRUPTED = 2, 130
PATIENCE = 2.0  # seconds before a progress bar appears

# Loggers of Lightning that tell at every start which devices there are, and what else one could install.
CHATTY = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")


class Bar:
    """A progress bar on stderr that appears once something takes longer than ``PATIENCE``."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("", total=None)
        self.trials = 0

    @contextmanager
    def shown(self) -> Iterator[Bar]:
        timer = Timer(PATIENCE, self.progress.start)
        timer.daemon = True
        if not self.quiet:
            timer.start()
        try:
            yield self
        finally:
            timer.cancel()
            if self.progress.live.is_started:
                self.progress.stop()

    def over_jobs(self, jobs: Sequence[Job]) -> Iterable[Job]:
        for done, job in enumerate(jobs):
            self.progress.update(self.task, description=escape(job.name), total=len(jobs), completed=done)
            yield job

    def after_row(self, row: Row, total: int) -> None:
        self.after_image(row.name, total)

    def after_image(self, name: str, total: int) -> None:
        self.progress.update(self.task, description=escape(name), total=total, advance=1)

    def after_trial(self, trial: Trial, total: int) -> None:
        if self.trials == 0:
            self.progress.reset(self.task)
        self.trials += 1
        self.progress.update(self.task, description=escape(trial.name), total=total, completed=self.trials)


Show = Callable[[Any, Namespace, Console], int]


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
        function: what it calls, "module:name".
        summary: one line for ``plurimask --help``.
        show: prints what the function returned, and gives the exit code.
        positional: arguments that are given without their names, in order; "..." stands behind one that takes several.
        short: argument -> its one-letter option.
        hooks: arguments that are no options, and what the command line gives for them.
    """

    function: str
    summary: str
    show: Show
    positional: tuple[str, ...] = ()
    short: Mapping[str, str] = field(default_factory=dict)
    hooks: Mapping[str, Callable[[Bar], Any]] = field(default_factory=dict)


class Parser(ArgumentParser):
    """Shows options with dashes (``--pixel-size``; both spellings are read), and docstrings without their markup."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """The help, readable."""
        text = re.sub(r"--[a-z_.]+", lambda match: match[0].replace("_", "-"), super().format_help(formatter))
        return re.sub(r":[a-z]+:`|`", "", text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, 1 where something failed, 2 where the command was not understood."""
    name, rest = _verb_name(sys.argv[1:] if argv is None else list(argv))
    debug, quiet = "--debug" in rest, not {"-q", "--quiet"}.isdisjoint(rest)
    with _messages(debug=debug):
        try:
            return run(name, rest, quiet=quiet)
        except KeyboardInterrupt:
            return complain("interrupted", INTERRUPTED)
        except ArgumentError as error:
            return complain(f"{error} (see plurimask {name} --help)", MISUSED)
        except Exception as error:
            if debug:
                raise
            return complain(str(error) or type(error).__name__, FAILED)


def run(name: str, rest: Sequence[str], *, quiet: bool = False) -> int:
    """Parse, call, print."""
    verb = VERBS[name]
    function = imported(verb.function)
    parser = build_parser(name, verb)
    options = parser.instantiate(parsed(parser, with_lists(spelled_out(rest), list_options(function))))
    with Bar(quiet=quiet).shown() as bar:
        hooks = {argument: hook(bar) for argument, hook in verb.hooks.items()}
        outcome = function(**{key: options[key] for key in _arguments(function) if key not in hooks}, **hooks)
    return verb.show(outcome, options, Console(quiet=quiet))


def parsed(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """What the words say; a class that is chosen has its own defaults.

    jsonargparse gives it those that the default class has under equal names: ``--method semantic`` would get the
    threshold of :class:`plurimask.methods.Embedding`. So the defaults are replaced by the chosen class, and the words
    read again.
    """
    first = parser.parse_args(words)
    for name, default in vars(parser.get_defaults()).items():
        chosen = first.get(name)
        both = isinstance(default, Namespace) and isinstance(chosen, Namespace) and "class_path" in default
        if both and chosen.class_path != default.class_path:
            parser.set_defaults({name: {"class_path": chosen.class_path}})
    return parser.parse_args(words)


def build_parser(name: str, verb: Verb) -> ArgumentParser:
    """The parser of one verb: its options are the arguments of its function, under their names, with their defaults."""
    function = imported(verb.function)
    arguments = _arguments(function)
    text = docstring_parser.parse(inspect.getdoc(function) or "")
    helps = {about.arg_name: " ".join((about.description or "").split()) for about in text.params}
    parser = Parser(prog=f"plurimask {name}", description=text.short_description, exit_on_error=False)
    for positional in verb.positional:
        plain = positional.removesuffix("...")
        needed = arguments[plain].default is inspect.Parameter.empty
        count = "+" if plain != positional else None if needed else "?"
        parser.add_argument(plain, nargs=count, type=str, help=helps.get(plain), metavar=plain.upper())
    for argument, letter in verb.short.items():
        needed = arguments[argument].default is inspect.Parameter.empty
        kind = int if arguments[argument].annotation in (int, "int") else str
        parser.add_argument(letter, f"--{argument}", type=kind, required=needed, help=helps.get(argument))
    by_hand = {*verb.short, *verb.hooks, *(positional.removesuffix("...") for positional in verb.positional)}
    flags = {key for key, argument in arguments.items() if isinstance(argument.default, bool)} - by_hand
    parser.add_function_arguments(function, as_group=False, skip={*by_hand, *flags})
    for flag in sorted(flags):
        _add_flag(parser, flag, default=arguments[flag].default, text=helps.get(flag))
    parser.add_argument("--config", action="config", help="YAML file with options")
    _add_flag(parser, "debug", default=False, text="show where an error comes from")
    parser.add_argument("-q", "--quiet", action="store_true", help="no tables and no progress bars, only errors")
    return parser


def _add_flag(parser: ArgumentParser, name: str, *, default: bool, text: str | None) -> None:
    if default:
        parser.add_argument(f"--{name}", action=ActionYesNo(no_prefix="no_"), default=True, help=text)
    else:
        parser.add_argument(f"--{name}", action="store_true", help=text)


def _arguments(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _verb_name(given: list[str]) -> tuple[str, list[str]]:
    """The verb ("segment", "data synthetic") and what follows it."""
    first = _choose("plurimask", given, {name.partition(" ")[0]: verb for name, verb in VERBS.items()})
    if first in VERBS:
        return first, given[1:]
    inner = {name.partition(" ")[2]: verb for name, verb in VERBS.items() if name.startswith(f"{first} ")}
    return f"{first} {_choose(f'plurimask {first}', given[1:], inner)}", given[2:]


def _choose(program: str, given: list[str], verbs: Mapping[str, Verb]) -> str:
    listing = "\n".join(f"  {name:<12}{verb.summary}" for name, verb in verbs.items())
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} VERB ...",
        description=f"{plurimask.__doc__.splitlines()[0]}\n\nverbs:\n{listing}",
        epilog=f"{program} VERB --help shows the options of a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"plurimask {plurimask.__version__}")
    parser.add_argument("verb", choices=list(verbs), help=argparse.SUPPRESS)
    return str(parser.parse_args(given[:1]).verb)


@contextmanager
def _messages(*, debug: bool) -> Iterator[None]:
    """Warnings and the library's log as plain lines on stderr; what others say only where it is a warning."""
    log, lines = logging.getLogger("plurimask"), LogLines()
    levels = {name: logging.getLogger(name).level for name in (log.name, *CHATTY)}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.WARNING)
    log.addHandler(lines)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    finally:
        log.removeHandler(lines)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    complain(f"warning: {message}", DONE)


VERBS = {
    "segment": Verb(
        "plurimask.batch:segment_files",
        "find the objects of images, each with its probability",
        show_batch,
        positional=("images...",),
        short={"output": "-o"},
        hooks={"progress": lambda bar: bar.over_jobs},
    ),
    "train": Verb(
        "plurimask.training:train",
        "train a model on images with truth, or fine-tune one",
        show_model,
        positional=("data...",),
        short={"output": "-o"},
        hooks={"progress": lambda bar: not bar.quiet},
    ),
    "tune": Verb(
        "plurimask.tuning:tune",
        "choose a model's decoding parameters and calibrate it, on images with truth",
        show_tuning,
        positional=("model", "data"),
        short={"output": "-o"},
        hooks={"on_image": lambda bar: bar.after_image, "on_trial": lambda bar: bar.after_trial},
    ),
    "evaluate": Verb(
        "plurimask.evaluation:evaluate",
        "compare found objects with the truth",
        show_evaluation,
        positional=("found", "truth"),
        short={"output": "-o"},
        hooks={"on_row": lambda bar: bar.after_row},
    ),
    "select": Verb(
        "plurimask.active.select:select",
        "choose which images, or crops of images, to annotate next",
        show_selection,
        positional=("pool...",),
        short={"output": "-o", "count": "-n"},
        hooks={"progress": lambda bar: bar.over_jobs},
    ),
    "info": Verb(
        "plurimask.export.facts:facts",
        "version, devices and shipped models; what a model or a result holds",
        show_facts,
        positional=("path",),
    ),
    "data synthetic": Verb(
        "plurimask.data.synthetic:write_dataset",
        "write made-up images with their truth",
        show_names,
        positional=("kind", "folder"),
    ),
}

if __name__ == "__main__":
    sys.exit(main())
