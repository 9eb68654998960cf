"""Ways to doubt, by the names of the command line."""

from plurimask.posteriors.concrete_dropout import ConcreteDropout
from plurimask.posteriors.deterministic import Deterministic
from plurimask.protocols import Posterior

POSTERIORS: dict[str, type[Posterior]] = {"deterministic": Deterministic, "concrete_dropout": ConcreteDropout}

__all__ = ["POSTERIORS", "ConcreteDropout", "Deterministic"]
