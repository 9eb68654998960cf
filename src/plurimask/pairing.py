"""Which found image belongs to which truth?

A found name and a true name belong together if they are

1. equal (folders included, so that ``plate1/A01`` is not ``plate2/A01``), or else
2. the last part of the true name stands in the last part of the found name, between underscores:
   ``screen_B_A01_w2`` belongs to ``A01``, if that is the only true name in it.

Everything else is an error that names the files: two true names in one found name, two found names for one true name,
objects without a truth, and truths without objects (unless a subset is asked for).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from plurimask.data.samples import briefly


class Unpaired(ValueError):
    """Found and true names that do not fit together."""


def pair(found: Collection[str], truth: Collection[str]) -> dict[str, str]:
    """Found name -> true name, by the rule at the head of this module.

    >>> pair(["screen_B_A01_w2", "B07"], ["A01", "B07", "C03"])
    {'screen_B_A01_w2': 'A01', 'B07': 'B07'}

    Raises:
        Unpaired: a found name with no true name or several, or a true name with several found ones.
    """
    exact = set(truth)
    options = {name: [name] if name in exact else _inside(name, truth) for name in found}
    alone = [name for name, matches in options.items() if not matches]
    if alone:
        raise Unpaired(
            f"no truth for {briefly(alone)}. The truths are called {briefly(truth)}; a name must be equal, or the "
            "truth's name must stand between underscores in the found one."
        )
    torn = [f"{name} ({' or '.join(matches)})" for name, matches in options.items() if len(matches) > 1]
    if torn:
        raise Unpaired(f"more than one truth fits {briefly(torn)}; give the found files the names of their truths.")
    pairs = {name: matches[0] for name, matches in options.items()}
    owners: dict[str, list[str]] = {}
    for name, match in pairs.items():
        owners.setdefault(match, []).append(name)
    twice = [f"{name} ({' and '.join(rivals)})" for name, rivals in owners.items() if len(rivals) > 1]
    if twice:
        raise Unpaired(f"more than one found image for the truths {briefly(twice)}; leave only one of each.")
    return pairs


def check_complete(kept: Collection[str], wanted: Sequence[str], *, subset: bool) -> None:
    """kept: the true names that have a found one; wanted: those that are to be evaluated.

    Raises:
        Unpaired: some are missing and no subset was asked for, or none is left.
    """
    missing = [name for name in wanted if name not in kept]
    if missing and not subset:
        raise Unpaired(
            f"nothing found for the truths {briefly(missing)}; segment these images, too, or leave them out (--subset)."
        )
    if not kept:
        raise Unpaired(f"none of the {len(wanted)} images to evaluate was found; they are called {briefly(wanted)}.")


def _inside(name: str, truth: Iterable[str]) -> list[str]:
    """The true names whose last part stands between underscores in the last part of this name."""
    last = f"_{name.rsplit('/', 1)[-1]}_"
    return [candidate for candidate in truth if f"_{candidate.rsplit('/', 1)[-1]}_" in last]
