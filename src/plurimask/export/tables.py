"""Tables that any spreadsheet opens: one row per object, and one row per image."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plurimask.instances import slices

if TYPE_CHECKING:
    from plurimask.instances import Instances
    from plurimask.probabilistic import ProbabilisticInstances

_DIGITS = 7  # significant ones: enough for a tenth of a pixel in a whole slide


def write_table(path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
    """Columns of equal length as CSV, the names in the first line; what is unknown (NaN, None) is left empty."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of a table must be equally long, but have lengths {lengths}.")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(map(_cell, values) for values in columns.values()), strict=True))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Rows as CSV with these column names, in this order; what a row does not have is left empty."""
    listed = list(rows)
    write_table(path, {name: [row.get(name) for row in listed] for name in names})


def object_table(
    result: ProbabilisticInstances, image: NDArray[Any], *, spacing: Sequence[float] | None = None
) -> dict[str, NDArray[Any]]:
    """``result.table()`` with lengths in micrometres and intensities; chosen objects by label, then rejected ones.

    image: ``(C, *spatial)``; spacing: edge lengths of a pixel along the spatial axes in micrometres, or None.
    """
    table = result.table()
    order = np.lexsort((table["label"], table["label"] == 0))
    columns: dict[str, NDArray[Any]] = {}
    for name, values in table.items():
        if name == "p_exists":  # what is measured stands before what is doubted
            columns |= intensities(image, result.hypotheses())
        columns[name] = values
        if spacing is not None and name == "area":
            columns[f"area_um{result.ndim}"] = values * math.prod(spacing)
        if spacing is not None and name.startswith("centroid-"):
            axis = int(name.removeprefix("centroid-"))
            columns[f"centroid_um-{axis}"] = values * spacing[axis]
    return {name: values[order] for name, values in columns.items()}


def intensities(image: NDArray[Any], objects: Instances) -> dict[str, NDArray[np.float64]]:
    """Mean intensity of every object in every channel, as the file stores it. image: ``(C, *spatial)``.

    >>> from plurimask.instances import Instances
    >>> image = np.array([[[1, 3, 9]], [[0, 2, 9]]])
    >>> intensities(image, Instances.from_labels(np.array([[1, 1, 0]])))
    {'mean_intensity-0': array([2.]), 'mean_intensity-1': array([1.])}
    """
    means = np.full((len(objects), len(image)), np.nan)
    for index, (box, mask) in enumerate(zip(objects.boxes, objects.masks, strict=True)):
        if mask.any():
            means[index] = image[:, *slices(box)][:, mask].mean(axis=1, dtype=np.float64)
    return {f"mean_intensity-{channel}": means[:, channel] for channel in range(len(image))}


def _cell(value: Any) -> str:
    """As text; what is unknown is empty.

    >>> [_cell(value) for value in (0.1 + 0.2, 123456.789, 7, True, None, float("nan"), "a,b")]
    ['0.3', '123456.8', '7', '1', '', '', 'a,b']
    """
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return f"{value:.{_DIGITS}g}"
    return str(value)
