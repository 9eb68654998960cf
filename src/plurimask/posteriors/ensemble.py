"""Deep ensembles (Lakshminarayanan, Pritzel, Blundell 2017): several trainings, each of which finds its own answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from plurimask.posteriors.deterministic import Deterministic
from plurimask.protocols import Context, NetworkFactory, Outputs, Posterior
from plurimask.symmetry import Symmetry


class Ensemble(Posterior):
    """Several posteriors of one kind; the seed picks one of them, and the draw that it makes.

    Draw s is draw ``s // members`` of member ``s % members``. Ask for a multiple of ``members`` draws: with another
    number some members count more than others.

    Training gives each member a run of its own, with its own weights, order of the crops and best state. The loss,
    for those who train all of them together as Czolbe et al. 2021 do, is the members' mean.

    Args:
        network: makes the network of a member.
        members: how many there are.
        member: makes one of them; with a posterior that doubts, the ensemble is a mixture of posteriors.
    """

    def __init__(
        self,
        network: NetworkFactory,
        *,
        members: int = 4,
        member: Callable[[NetworkFactory], Posterior] = Deterministic,
    ) -> None:
        super().__init__()
        if members < 1:
            raise ValueError(f"an ensemble has at least 1 member, not {members}.")
        self.posteriors = nn.ModuleList(member(network) for _ in range(members))
        self.members, functions = members, self.member.distinct
        self.distinct = functions and functions * members

    @property
    def member(self) -> Posterior:
        """The first one: the settings of all."""
        return self._posteriors()[0]

    def losses(self, image: Tensor, targets: Outputs) -> dict[str, Tensor]:
        terms = []
        for posterior in self._posteriors():
            posterior.samples = self.samples
            terms.append(posterior.losses(image, targets))
        return {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]}

    def context(self, image: Tensor) -> Context:
        contexts = (posterior.context(image) for posterior in self._posteriors())
        return {f"{number}.{name}": value for number, each in enumerate(contexts) for name, value in each.items()}

    def draws(self, window: Tensor, seeds: Sequence[int], *, context: Context) -> Iterator[Outputs]:
        streams, last = {}, {seed % self.members: place for place, seed in enumerate(seeds)}
        for number in last:
            own = [seed // self.members for seed in seeds if seed % self.members == number]
            streams[number] = self._posteriors()[number].draws(window, own, context=_of_member(context, number))
        for place, seed in enumerate(seeds):
            number = seed % self.members
            yield next(streams[number])
            if place == last[number]:
                del streams[number]  # a stream that waits keeps its outputs in memory

    def symmetry(self, seed: int) -> Symmetry:
        return self._posteriors()[seed % self.members].symmetry(seed // self.members)

    def parts(self) -> Sequence[Posterior]:
        return [part for posterior in self._posteriors() for part in posterior.parts()]

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [group for posterior in self._posteriors() for group in posterior.parameter_groups(learning_rate)]

    def report(self) -> dict[str, float]:
        reports = (posterior.report() for posterior in self._posteriors())
        return {f"{number}.{name}": value for number, each in enumerate(reports) for name, value in each.items()}

    def _posteriors(self) -> Sequence[Posterior]:
        """The members, under their own type."""
        return cast("Sequence[Posterior]", self.posteriors)


def _of_member(context: Context, number: int) -> Context:
    start = f"{number}."
    return {name.removeprefix(start): value for name, value in context.items() if name.startswith(start)}
