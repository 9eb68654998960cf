"""An image with its truth, and where such pairs come from.

Three parts of every data set: **fit** trains weights, **tune** stops, chooses and calibrates, **report** is reported
and never used to choose.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, overload

from plurimask.data.io import Image, UnreadableImage
from plurimask.data.truth import Reader
from plurimask.instances import Instances

Split = Literal["fit", "tune", "report"]


@dataclass(frozen=True)
class Sample:
    """One image with its truth; nothing is read before it is asked for. Can be sent to another process.

    Attributes:
        name: unique within its source.
        image: reads the image.
        truth: reads its objects.
        files: what the image is read from, one file or one for each channel.
        others: read what further annotators say; ``truth`` is the first one's.
        group: what images have in common that are not independent of each other, a patient or a volume; None where
            every image stands for itself. (``evaluate`` draws images, not groups.)
    """

    name: str
    image: Callable[[], Image]
    truth: Reader
    files: tuple[Path, ...]
    others: tuple[Reader, ...] = ()
    group: str | None = None

    def read(self) -> tuple[Image, Instances]:
        """Both, of one shape; of several annotators the first.

        Raises:
            UnreadableImage: a damaged file, or shapes that differ.
        """
        image = self.image()
        return image, self._fitting(image, self.truth)

    def read_all(self) -> tuple[Image, tuple[Instances, ...]]:
        """The image and what every annotator says, one at least; errors as in :meth:`read`."""
        image = self.image()
        return image, tuple(self._fitting(image, reader) for reader in (self.truth, *self.others))

    def _fitting(self, image: Image, reader: Reader) -> Instances:
        truth = reader()
        if image.shape != truth.shape:
            why = f"the image has shape {image.shape}, its truth {truth.shape}; they must be equal."
            raise UnreadableImage(image.path or self.name, why)
        return truth


@dataclass(frozen=True)
class Source(ABC, Sequence[Sample]):
    """A folder of images with truth, as a sequence of the samples of one part (all samples without a split).

    Attributes:
        folder: where the files are.
        split: the part, or None for everything.
        axes: of the image files, where they do not say it themselves (see :func:`plurimask.data.io.read_image`).
        channel_hint: how to choose channels, where the layout keeps each of them in a file of its own; else empty.
    """

    folder: Path
    split: Split | None = None
    axes: str | None = None

    layout: ClassVar[str]
    licence: ClassVar[str] = "the user's own"
    citation: ClassVar[str] = ""
    channel_hint: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def recognises(cls, folder: Path) -> bool:
        """Whether a folder has this layout."""

    @abstractmethod
    def find(self) -> list[Sample]:
        """The samples of ``self.split``, in natural order of their names."""

    def with_channel_files(self, names: Sequence[str]) -> Source:
        """The same images with these channels, in this order, where the layout has a file for each channel.

        Raises:
            ValueError: it has not, or no such channels.
        """
        raise ValueError(
            f"{self.folder} has one file for all channels of an image ({self.layout}), so {', '.join(names)} cannot be "
            "chosen; leave --channel-files out."
        )

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(self.find())

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Sample, ...]: ...
    def __getitem__(self, index: int | slice) -> Sample | tuple[Sample, ...]:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def briefly(names: Iterable[str]) -> str:
    """At most six of the names, and how many there are if these are not all.

    >>> briefly("abcdef"), briefly("abcdefgh")
    ('a, b, c, d, e, f', 'a, b, c, d, e, f, ... (8 in all)')
    """
    every = list(names)
    more = f", ... ({len(every)} in all)" if len(every) > 6 else ""
    return ", ".join(every[:6]) + more
