"""Ways to turn pixels into objects, by the names of the command line."""

from plurimask.methods.contours import Contours
from plurimask.methods.embedding import Embedding
from plurimask.methods.patchperpix import PatchPerPix
from plurimask.methods.semantic import Semantic
from plurimask.protocols import Method

METHODS: dict[str, type[Method]] = {
    "contours": Contours,
    "embedding": Embedding,
    "patchperpix": PatchPerPix,
    "semantic": Semantic,
}

__all__ = ["METHODS", "Contours", "Embedding", "PatchPerPix", "Semantic"]
