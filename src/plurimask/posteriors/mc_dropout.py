"""Monte Carlo dropout (Gal & Ghahramani 2016): channels are dropped at one fixed rate, in prediction as in training.

Departures from the code of Czolbe et al. 2021 (docs/algorithms.md, "Four probabilistic segmenters"): the image itself
is never dropped, and the network stays in eval mode while it predicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from plurimask.posteriors.dropout import Dropout, draws, fill
from plurimask.posteriors.weights import squared_norm
from plurimask.protocols import Context, NetworkFactory, Outputs, Posterior


class MCDropout(Posterior):
    """A network of which every draw keeps a random part of the channels.

    Args:
        network: makes the network.
        rate: probability of dropping a channel (Czolbe et al.: 0.5, on wider networks).
        start: first encoder level with dropout; a number beyond the deepest level leaves it to the decoder, whose
            layers all have it, on what comes from below. Several draws share everything before it.
        weight_decay: weight of the squared norm of all kernels in the loss.
    """

    def __init__(
        self, network: NetworkFactory, *, rate: float = 0.2, start: int = 0, weight_decay: float = 1e-6
    ) -> None:
        super().__init__()
        self.rate, self.start, self.weight_decay = rate, start, weight_decay
        self.network = network()
        fill(self.network.backbone, partial(BernoulliDropout, rate=rate), start=start)

    def losses(self, image: Tensor, targets: Outputs) -> dict[str, Tensor]:
        terms = self.network.head.loss(self.network(image), targets)
        return {**terms, "weights": self.weight_decay * squared_norm(self.network)}

    def draws(self, window: Tensor, seeds: Sequence[int], *, context: Context) -> Iterator[Outputs]:
        return draws(self.network, window, seeds)


class BernoulliDropout(Dropout):
    """Drops a channel with probability ``rate``, and divides the others by ``1 - rate``: the mean stays."""

    def __init__(self, channels: int, *, rate: float) -> None:
        super().__init__(channels, rate=rate)
        self.rate = rate

    def factor(self, noise: Tensor) -> Tensor:
        return (noise >= self.rate) / (1 - self.rate)
