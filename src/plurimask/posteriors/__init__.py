"""Ways to doubt, by the names of the command line."""

from plurimask.posteriors.augmented import Augmented
from plurimask.posteriors.concrete_dropout import ConcreteDropout
from plurimask.posteriors.deterministic import Deterministic
from plurimask.posteriors.ensemble import Ensemble
from plurimask.posteriors.mc_dropout import MCDropout
from plurimask.posteriors.probabilistic_unet import ProbabilisticUNet
from plurimask.protocols import Posterior

POSTERIORS: dict[str, type[Posterior]] = {
    "deterministic": Deterministic,
    "concrete_dropout": ConcreteDropout,
    "mc_dropout": MCDropout,
    "ensemble": Ensemble,
    "probabilistic_unet": ProbabilisticUNet,
    "augmented": Augmented,
}

__all__ = [
    "POSTERIORS",
    "Augmented",
    "ConcreteDropout",
    "Deterministic",
    "Ensemble",
    "MCDropout",
    "ProbabilisticUNet",
]
