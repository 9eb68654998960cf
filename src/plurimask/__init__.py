"""plurimask: the objects of a microscope image, overlaps kept, and of each how sure it is.

The public names are loaded when they are first used (PEP 562), so that ``import plurimask`` is quick and loads
neither torch nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plurimask.active.select import select
    from plurimask.agglomerate import CompleteLinkage, SequentialUnion
    from plurimask.data.storage import load, save
    from plurimask.evaluation import evaluate
    from plurimask.instances import Instances
    from plurimask.model import Model, load_model
    from plurimask.predict import segment
    from plurimask.probabilistic import ProbabilisticInstances
    from plurimask.protocols import Backbone, Head, Method, Posterior
    from plurimask.training import train
    from plurimask.tuning import tune

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "CompleteLinkage",
    "Head",
    "Instances",
    "Method",
    "Model",
    "Posterior",
    "ProbabilisticInstances",
    "SequentialUnion",
    "__version__",
    "evaluate",
    "load",
    "load_model",
    "save",
    "segment",
    "select",
    "train",
    "tune",
]

_HOMES = {
    "Backbone": "plurimask.protocols",
    "CompleteLinkage": "plurimask.agglomerate",
    "Head": "plurimask.protocols",
    "Instances": "plurimask.instances",
    "Method": "plurimask.protocols",
    "Model": "plurimask.model",
    "Posterior": "plurimask.protocols",
    "ProbabilisticInstances": "plurimask.probabilistic",
    "SequentialUnion": "plurimask.agglomerate",
    "evaluate": "plurimask.evaluation",
    "load": "plurimask.data.storage",
    "load_model": "plurimask.model",
    "save": "plurimask.data.storage",
    "segment": "plurimask.predict",
    "select": "plurimask.active.select",
    "train": "plurimask.training",
    "tune": "plurimask.tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'plurimask' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
