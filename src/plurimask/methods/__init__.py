"""Ways to turn pixels into objects, by the names of the command line."""

from plurimask.methods.embedding import Embedding
from plurimask.protocols import Method

METHODS: dict[str, type[Method]] = {"embedding": Embedding}

__all__ = ["METHODS", "Embedding"]
