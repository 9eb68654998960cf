"""Ways to turn pixels into objects, by the names of the command line."""

from plurimask.methods.affinities import Affinities
from plurimask.methods.contours import Contours
from plurimask.methods.embedding import Embedding
from plurimask.methods.patchperpix import PatchPerPix
from plurimask.methods.semantic import Semantic
from plurimask.protocols import Method

METHODS: dict[str, type[Method]] = {
    "affinities": Affinities,
    "contours": Contours,
    "embedding": Embedding,
    "patchperpix": PatchPerPix,
    "semantic": Semantic,
}

__all__ = ["METHODS", "Affinities", "Contours", "Embedding", "PatchPerPix", "Semantic"]
