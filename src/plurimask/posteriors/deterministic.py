"""One network, no doubt: the baseline of R20."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from plurimask.posteriors.weights import squared_norm
from plurimask.protocols import Context, NetworkFactory, Outputs, Posterior


class Deterministic(Posterior):
    """A single network; every seed gives the same outputs.

    Args:
        network: makes the network.
        weight_decay: weight of the squared norm of all kernels in the loss (R20: 1e-6).
    """

    distinct = 1

    def __init__(self, network: NetworkFactory, *, weight_decay: float = 1e-6) -> None:
        super().__init__()
        self.weight_decay = weight_decay
        self.network = network()

    def losses(self, image: Tensor, targets: Outputs) -> dict[str, Tensor]:
        terms = self.network.head.loss(self.network(image), targets)
        return {**terms, "weights": self.weight_decay * squared_norm(self.network)}

    def draws(self, window: Tensor, seeds: Sequence[int], *, context: Context) -> Iterator[Outputs]:
        outputs = self.network(window)
        for _ in seeds:
            yield outputs
