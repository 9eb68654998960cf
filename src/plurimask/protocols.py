"""The four interfaces of plurimask: the only file that an extender must read.

* How is an image seen?                                          -> :class:`Backbone`
* What does a pixel predict, how do predictions become objects? -> :class:`Method` and its :class:`Head`
* How does the network doubt?                                    -> :class:`Posterior`

Every backbone works with every method and every posterior; nothing else is pluggable. Shapes: an image is
``(C, *spatial)``, a batch ``(B, C, *spatial)``; draws are never folded into the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from plurimask.symmetry import IDENTITY, Symmetry

if TYPE_CHECKING:
    from plurimask.instances import Instances
    from plurimask.listening import Listen2Student

Outputs = Mapping[str, Tensor]
"""Output name -> ``(B, C, *spatial)``; a sparse or ragged entry says so in its docstring."""

Context = Mapping[str, Tensor]
"""Facts about a whole image that every window needs (a latent's mean and spread), computed once per image."""


@dataclass(frozen=True)
class Features:
    """What a backbone has seen: the image and one map per level, finest first."""

    image: Tensor
    encoder: tuple[Tensor, ...]
    decoder: tuple[Tensor, ...]


class Slot(nn.Module):
    """A place in a backbone where a posterior may put a dropout: the identity until it is filled.

    A slot sits at the input of exactly one layer, whose ``weight`` it names, because the regulariser of a
    variational dropout is a function of that weight.

    Attributes:
        channels: number of channels that arrive here.
        level: depth of the layer, 0 is the finest.
        name: where the slot sits, for logs ("encoder.2.0").
        dropout: what fills the slot, or None.
    """

    def __init__(self, channels: int, level: int, name: str) -> None:
        super().__init__()
        self.channels, self.level, self.name = channels, level, name
        self.dropout: nn.Module | None = None

    def forward(self, features: Tensor) -> Tensor:
        if self.dropout is None:
            return features
        dropped: Tensor = self.dropout(features)
        return dropped


class Backbone(ABC, nn.Module):
    """Turns an image into feature maps; knows no method and no posterior."""

    in_channels: int  # of the image
    ndim: int
    channels: tuple[int, ...]  # decoder levels, finest first
    strides: tuple[int, ...]

    @abstractmethod
    def slots(self) -> Sequence[tuple[Slot, Tensor]]:
        """Every place for a dropout, in the order of the forward pass, with the weight of the layer behind it."""

    @abstractmethod
    def shared(self, image: Tensor) -> Any:
        """What no filled slot can change, so that several draws compute it once. image: ``(B, C, *spatial)``."""

    @abstractmethod
    def finish(self, shared: Any) -> Features:
        """The rest of the forward pass; depends on what fills the slots."""

    def forward(self, image: Tensor) -> Features:
        return self.finish(self.shared(image))


class Head(ABC, nn.Module):
    """What is learned on top of a backbone, and its loss.

    Attributes:
        method: whose head it is; a latent posterior asks it what to see of the truth.
    """

    method: Method

    @abstractmethod
    def forward(self, features: Features) -> Outputs:
        """In eval mode: everything that decoding needs, a loose superset, so that thresholds can be tuned later."""

    @abstractmethod
    def loss(self, outputs: Outputs, targets: Outputs) -> dict[str, Tensor]:
        """Named, weighted terms, each of shape ``()``; their sum is the loss."""

    def prepare(self, truths: Sequence[Instances], *, steps: int, seed: int) -> None:
        """An optional stage before training (an autoencoder of patches, say)."""


class Method(ABC):
    """A way to turn pixels into objects: a frozen dataclass whose fields are its whole configuration.

    ``exact_for`` names the toy cases for which ``decode(ideal(truth))`` is the truth exactly. ``ragged`` names the
    entries of the targets that have one row per object, however many a crop has: a batch has the rows of all its crops,
    and ``image_index`` (K,) int64 says which crop a row came from. All other entries are stacked.
    """

    exact_for: ClassVar[frozenset[str]] = frozenset()
    ragged: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def targets(self, truth: Instances, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """What the loss compares with, for one crop; see ``ragged`` for what is not dense."""

    @abstractmethod
    def head(self, backbone: Backbone) -> Head:
        """A new head with fresh weights."""

    @abstractmethod
    def decode(self, outputs: Outputs) -> Instances:
        """Outputs of one draw in one window (B = 1) -> objects, which may overlap; scores in [0, 1].

        A draw may have turned its window. The objects are turned back, and of their features those of
        :data:`plurimask.instances.PLACES` and :data:`plurimask.instances.ENDS`; others should not depend on it.
        """

    @abstractmethod
    def probabilities(self, outputs: Outputs) -> Tensor:
        """``(K, *spatial)`` class probabilities of one window, for pixel-wise doubt; class 0 is background."""

    @abstractmethod
    def condition(self, targets: Outputs) -> Tensor:
        """``(B, K, *spatial)``: what a latent posterior net sees of the truth."""

    @abstractmethod
    def ideal(self, truth: Instances) -> Outputs:
        """Outputs of a perfect network (B = 1), for the contract checks."""

    def taught(self, outputs: Outputs, rule: Listen2Student, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """What :meth:`targets` gives, for one crop without truth, from a teacher's outputs of it (B = 1).

        Optional, for training with unlabelled images: the loss must learn from the entries only what ``rule`` allows.

        Raises:
            NotImplementedError: the method cannot be taught.
        """
        raise NotImplementedError

    def joined(self, targets: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """What several annotators say of one crop as one: the loss with it is that over all of them, in equal shares.

        Where a loss is a weighted mean, its weights are those of all annotators together.

        Optional, for training on all annotators at once; :meth:`condition` is asked about it, too.

        targets: one for every annotator, at least one, made with equal generators. Crops of one batch may have
        different numbers of annotators; what comes out has the same shapes for all.

        Raises:
            NotImplementedError: the method cannot join targets.
        """
        raise NotImplementedError

    def tunable(self) -> Mapping[str, Sequence[Any]]:
        """Field -> values worth trying around its present one, in the order in which ``tune`` searches; none at first.

        Only fields that nothing but :meth:`decode` reads: outputs are computed once and decoded with every value.
        """
        return {}


class Network(nn.Module):
    """A backbone and a head: one function from an image to outputs."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, image: Tensor) -> Outputs:
        outputs: Outputs = self.head(self.backbone(image))
        return outputs


NetworkFactory = Callable[[], Network]
"""Makes a new network with fresh weights."""


class Posterior(ABC, nn.Module):
    """A distribution over networks: built from a factory of them, owns one or several.

    Attributes:
        samples: number of training images, the N of a variational bound; set by training.
        distinct: how many functions the seeds choose from, seed s and seed s + distinct being the same one; None where
            there is no end. Prediction makes no draw twice.
    """

    samples: int = 1
    distinct: int | None = None

    @property
    def backbone(self) -> Backbone:
        """The backbone of the (first) network."""
        return next(part.backbone for part in self.modules() if isinstance(part, Network))

    @abstractmethod
    def losses(self, image: Tensor, targets: Outputs) -> dict[str, Tensor]:
        """The head's terms and the posterior's own ("weights", "kl"); training minimises their sum."""

    def context(self, image: Tensor) -> Context:
        """Image-wide facts, once per image. image: ``(1, C, *spatial)``."""
        return {}

    @abstractmethod
    def draws(self, window: Tensor, seeds: Sequence[int], *, context: Context) -> Iterator[Outputs]:
        """Outputs of one draw after the other. window: ``(1, C, *spatial)``.

        A seed is a function, not a stream: draw *s* is the same function in every window, on every device. Its outputs
        are those of the window as ``symmetry(s)`` turns it.
        """

    def symmetry(self, seed: int) -> Symmetry:
        """How a draw turns every window before the network sees it."""
        return IDENTITY

    def parts(self) -> Sequence[Posterior]:
        """What is trained in a run and with a seed of its own: the members of an ensemble, else the posterior."""
        return [self]

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """What the optimiser gets: ``{"params": ..., "lr": ...}`` per group."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]

    def report(self) -> dict[str, float]:
        """Numbers worth logging during training (dropout rates, say)."""
        return {}
