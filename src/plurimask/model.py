"""A trained model: all that prediction needs, kept as a folder with ``model.json`` and ``weights.safetensors``."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from plurimask.agglomerate import Agglomeration, CompleteLinkage
from plurimask.data.normalise import Normalisation
from plurimask.familiarity import Familiarity
from plurimask.metrics.border import SigmaScale
from plurimask.platt import Platt
from plurimask.protocols import Backbone, Method, Network, NetworkFactory, Posterior

FORMAT = 1
FILES = ("weights.safetensors", "model.json")  # what else lies in the folder says nothing of the model
SHIPPED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Scale:
    """The size of things in the training images.

    Attributes:
        pixel_size: micrometres per pixel, or None where it is not known.
        diameter: median diameter of the objects, in pixels (that of a disk of the same area).
    """

    pixel_size: float | None = None
    diameter: float | None = None


@dataclass(frozen=True)
class Model:
    """What a folder holds.

    Attributes:
        posterior: the network or networks, with their doubt.
        method: how outputs become objects.
        normalisation: of intensities.
        agglomeration: of draws.
        calibration: of the existence that the draws agglomerate to; the identity until the model is tuned.
        quality: of the expected IoU, existence * agreement; the identity until the model is tuned.
        border: of the standard deviations of the sides of boxes, where the method gives them; the identity likewise.
        scale: of the training images.
        familiarity: what the training images look like; empty where nothing is known of them.
        channels: what the channels of an image mean, in order.
        window: largest side of a prediction window, in pixels.
        halo: how far a window sees beyond what it answers for, in pixels.
        trained_on: names of the images that were fitted.
        card: free facts for people (data, licence, measured numbers).
    """

    posterior: Posterior
    method: Method
    normalisation: Normalisation = field(default_factory=Normalisation)
    agglomeration: Agglomeration = field(default_factory=CompleteLinkage)
    calibration: Platt = field(default_factory=Platt)
    quality: Platt = field(default_factory=Platt)
    border: SigmaScale = field(default_factory=SigmaScale)
    scale: Scale = field(default_factory=Scale)
    familiarity: Familiarity = field(default_factory=Familiarity)
    channels: tuple[str, ...] = ("intensity",)
    window: int = 768
    halo: int = 128
    trained_on: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def backbone(self) -> Backbone:
        """The backbone of the (first) network."""
        return self.posterior.backbone

    def save(self, folder: Path | str, *, half: bool = False) -> None:
        """Writes the folder; an existing model is replaced file by file, each by renaming.

        Args:
            folder: made if it does not exist.
            half: store the weights as float16.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: _stored(value, half=half) for name, value in self.posterior.state_dict().items()}
        (folder / "weights.safetensors.part").write_bytes(save(weights))
        text = _short(json.dumps(self.describe(), indent=2, default=list))
        (folder / "model.json.part").write_text(text + "\n", encoding="utf-8")
        for name in FILES:
            (folder / f"{name}.part").replace(folder / name)

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, ready for JSON."""
        parts = {name: describe(getattr(self, name)) for name in PARTS}
        plain = {name: getattr(self, name) for name in PLAIN}
        return {"format": FORMAT, **parts, **plain}


PARTS: Mapping[str, type] = {
    "backbone": Backbone,
    "method": Method,
    "posterior": Posterior,
    "normalisation": Normalisation,
    "agglomeration": Agglomeration,
    "calibration": Platt,
    "quality": Platt,
    "border": SigmaScale,
    "scale": Scale,
    "familiarity": Familiarity,
}
LATER = ("calibration", "quality", "border", "familiarity")  # parts that older models do not have
PLAIN = ("channels", "window", "halo", "trained_on", "card")


def load_model(model: Path | str) -> Model:
    """A model by the name of a shipped one ("nuclei") or by its folder.

    Raises:
        FileNotFoundError: if there is no such model; the message lists the shipped ones.
        ValueError: if the folder was written by a newer plurimask, or names a class that is not what it should be.
        ModuleNotFoundError: if it names a class of a package that is not installed.
    """
    folder = find_model(model)
    text = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    if text["format"] > FORMAT:
        newer = f"{folder} has format {text['format']}, this plurimask reads up to {FORMAT}"
        raise ValueError(f"{newer}: please update it.")
    method: Method = build(text["method"], Method)
    posterior: Posterior = build(text["posterior"], Posterior, network_factory(text["backbone"], method))
    weights = {name: value.float() for name, value in load_file(folder / "weights.safetensors").items()}
    posterior.load_state_dict(weights)
    posterior.eval()
    for name in LATER:
        text.setdefault(name, describe(PARTS[name]()))
    others = [name for name in PARTS if name not in ("backbone", "method", "posterior")]
    parts = {name: build(text[name], PARTS[name]) for name in others}
    plain = {name: _tuples(text[name]) for name in PLAIN if name != "card"}
    return Model(posterior=posterior, method=method, **parts, **plain, card=text["card"])


def find_model(model: Path | str) -> Path:
    """The folder of a model."""
    for folder in (Path(model), SHIPPED / str(model)):
        if (folder / "model.json").is_file():
            return folder
    raise FileNotFoundError(
        f"there is no model {str(model)!r}: neither a folder with a model.json nor one of the shipped models "
        f"({', '.join(shipped_models())})."
    )


def shipped_models() -> list[str]:
    """Names of the models in the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.json"))


def network_factory(backbone: Mapping[str, Any], method: Method) -> NetworkFactory:
    """From the description of a backbone; every call makes fresh weights."""

    def network() -> Network:
        seen: Backbone = build(backbone, Backbone)
        return Network(seen, method.head(seen))

    return network


def describe(thing: Any) -> dict[str, Any]:
    """Class path and the arguments that made a thing; every argument is kept under its own name.

    A posterior that another one is made of (the member of an ensemble) is described in its place.

    >>> describe(Normalisation(low=2.0))["init_args"]
    {'low': 2.0, 'high': 99.8}
    """
    names = [name for name in inspect.signature(type(thing)).parameters if name != "network"]
    path = f"{type(thing).__module__}.{type(thing).__qualname__}"
    settings = {name: getattr(thing, name) for name in names}
    nested = {name: describe(value) for name, value in settings.items() if isinstance(value, Posterior)}
    return {"class_path": path, "init_args": {**settings, **nested}}


def build(description: Mapping[str, Any], kind: type, *arguments: Any) -> Any:
    """The reverse of :func:`describe`; only classes derived from ``kind``: a folder from a stranger may name anything.

    >>> build({"class_path": "plurimask.model.Scale", "init_args": {"diameter": 30.0}}, Scale)
    Scale(pixel_size=None, diameter=30.0)

    Raises:
        ValueError: if the class is of another kind.
    """
    module, _, name = description["class_path"].rpartition(".")
    made = getattr(importlib.import_module(module), name)
    if not (isinstance(made, type) and issubclass(made, kind)):
        raise ValueError(f"{description['class_path']} is no {kind.__name__}; the model's description is broken.")
    settings = {key: _setting(value, kind) for key, value in description["init_args"].items()}
    return made(*arguments, **settings)


def _setting(value: Any, kind: type) -> Any:
    """A description within one of the same kind becomes what makes the thing: it, too, wants its network first."""
    nested = isinstance(value, Mapping) and "class_path" in value
    return partial(build, value, kind) if nested else _tuples(value)


def _short(text: str) -> str:
    r"""JSON in which a list of numbers, or of lists of numbers, stands on one line.

    >>> print(_short(json.dumps({"a": [[1, 2], [3, 4]], "b": "[ \n ]"}, indent=2)))
    {
      "a": [[1, 2], [3, 4]],
      "b": "[ \n ]"
    }
    """
    numbers = r"\[\n[^][{}\"]*\]"  # no string begins like that: its line breaks are escaped
    lists = rf"\[(?:\s*{numbers},?)+\s*\]"
    return re.sub(f"{lists}|{numbers}", _on_one_line, text)


def _on_one_line(found: re.Match[str]) -> str:
    return " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _stored(value: torch.Tensor, *, half: bool) -> torch.Tensor:
    kept = value.half() if half and value.is_floating_point() else value
    return kept.detach().cpu().contiguous()
