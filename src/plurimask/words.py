"""Words of the command line, as they are typed, become those that jsonargparse reads."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError

# Options that take a short key, and the dict of what it names.
SHORT_KEYS = {
    "--method": "plurimask.methods:METHODS",
    "--backbone": "plurimask.networks:BACKBONES",
    "--posterior": "plurimask.posteriors:POSTERIORS",
    "--posterior.member": "plurimask.posteriors:POSTERIORS",
    "--posterior.posterior": "plurimask.posteriors:POSTERIORS",
}


def imported(place: str) -> Any:
    """What "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def spelled_out(given: Sequence[str]) -> list[str]:
    """Dashes within the names of options become underscores, short keys become class paths.

    >>> spelled_out(["--pixel-size", "0.5", "-q", "--no-progress"])
    ['--pixel_size', '0.5', '-q', '--no_progress']
    """
    words: list[str] = []
    for word in given:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            option = "--" + option[2:].replace("-", "_")
            words.append(option + equals + (_class_path(option, value) if equals else ""))
        else:
            words.append(_class_path(words[-1], word) if words else word)
    return words


def _class_path(option: str, value: str) -> str:
    known = imported(SHORT_KEYS[option]) if option in SHORT_KEYS else {}
    for key, kind in known.items():
        if value in (key, kind.__name__):
            return f"{kind.__module__}.{kind.__qualname__}"
    if known and value.isidentifier():
        raise ArgumentError(None, f"{option} {value}: one of {', '.join(known)} is wanted, or a dotted class path")
    return value


def list_options(function: Callable[..., Any]) -> dict[str, type]:
    """The options that take several values, and the type of one of them."""
    found = {}
    for name, hint in get_type_hints(function).items():
        for kind in (hint, *get_args(hint)):
            if get_origin(kind) is Sequence and get_args(kind)[0] in (str, int, float):
                found[f"--{name}"] = get_args(kind)[0]
    return found


def with_lists(given: Sequence[str], lists: Mapping[str, type]) -> list[str]:
    """However the values of a list were given (``0.5 0.75``, ``0.5,0.75`` or ``[0.5, 0.75]``), they become one word.

    >>> with_lists(["found", "--thresholds", "0.5", "0.75", "truth"], {"--thresholds": float})
    ['found', '--thresholds=[0.5, 0.75]', 'truth']
    >>> with_lists(["--channels", "DAPI,GFP", "data"], {"--channels": str})
    ['--channels=["DAPI", "GFP"]', 'data']
    """
    rest, words = deque(given), list[str]()
    while rest:
        word = rest.popleft()
        option, equals, value = word.partition("=")
        if option in lists:
            values = [value] if equals else _taken(rest, lists[option])
            word = _as_list(option, values, lists[option]) if values else word
        words.append(word)
    return words


def _taken(rest: deque[str], kind: type) -> list[str]:
    """The words in front that are values, up to one that is a list by itself, as ``0.5,0.75``; removes them."""
    taken = list[str]()
    while rest and not (taken and re.search(r",.|]", taken[-1])):
        numbers = kind is not str and _are_numbers(rest[0])
        if not numbers and (rest[0].startswith("-") or (taken and kind is not str)):
            break
        taken.append(rest.popleft())
    return taken


def _are_numbers(word: str) -> bool:
    try:
        for part in word.strip("[],").split(","):
            float(part)
    except ValueError:
        return False
    return True


def _as_list(option: str, values: Sequence[str], kind: type) -> str:
    text = ",".join(values)
    if text == "null" or text.startswith(("['", '["')):  # YAML already
        return f"{option}={text}"
    parts = [part.strip() for part in text.strip("[] ").split(",")]
    try:
        return f"{option}={json.dumps([kind(part) for part in parts if part], allow_nan=False)}"
    except ValueError:
        shown = option.replace("_", "-")
        raise ArgumentError(None, f"{shown} {text}: numbers are wanted, as in {shown} 0.5 0.75") from None
