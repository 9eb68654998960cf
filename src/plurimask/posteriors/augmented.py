"""Test-time augmentation: the network sees the image turned, and what it finds is turned back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from plurimask.networks.unet import pad_to_multiple
from plurimask.posteriors.deterministic import Deterministic
from plurimask.protocols import Context, Network, NetworkFactory, Outputs, Posterior
from plurimask.symmetry import Symmetry, symmetries


class Augmented(Posterior):
    """A posterior each of whose draws sees the image under one of the symmetries of the pixel grid.

    Outputs stay as the turned image gives them, because coordinates and contours do not turn with an image; the
    objects that are decoded from them are turned back, exactly and for every method. Draw s is draw s of the posterior
    within, under symmetry ``s % n``. There are n = 8 in the plane, and 16 in 3-D: these, and with Z flipped. Draw 0 is
    upright. Training is that of the posterior within; see :meth:`of` for one that is trained already.

    Args:
        network: makes the network.
        posterior: makes the posterior within.
    """

    def __init__(
        self, network: NetworkFactory, *, posterior: Callable[[NetworkFactory], Posterior] = Deterministic
    ) -> None:
        super().__init__()
        self.posterior = posterior(network)
        if any(isinstance(part, Augmented) for part in self.posterior.modules()):
            raise ValueError("the posterior within turns its windows already; give one that does not.")
        self.symmetries = symmetries(self.backbone.ndim)
        functions = self.posterior.distinct
        self.distinct = functions and math.lcm(functions, len(self.symmetries))

    @classmethod
    def of(cls, posterior: Posterior) -> Augmented:
        """Around a posterior that is there already, trained for instance."""
        network = next(part for part in posterior.modules() if isinstance(part, Network))
        return cls(lambda: network, posterior=lambda _: posterior)

    def losses(self, image: Tensor, targets: Outputs) -> dict[str, Tensor]:
        self.posterior.samples = self.samples
        return self.posterior.losses(image, targets)

    def context(self, image: Tensor) -> Context:
        return self.posterior.context(image)

    def draws(self, window: Tensor, seeds: Sequence[int], *, context: Context) -> Iterator[Outputs]:
        # Pooling has to see the same grid in every window, also where this begins at the window's other end.
        padded = pad_to_multiple(window, self.backbone.strides[-1])
        for seed in seeds:
            yield from self.posterior.draws(self.symmetry(seed).apply(padded), [seed], context=context)

    def symmetry(self, seed: int) -> Symmetry:
        return self.symmetries[seed % len(self.symmetries)]

    def parts(self) -> Sequence[Posterior]:
        return self.posterior.parts()

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return self.posterior.parameter_groups(learning_rate)

    def report(self) -> dict[str, float]:
        return self.posterior.report()
