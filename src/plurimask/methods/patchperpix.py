"""PatchPerPix: every pixel predicts the shape of its object within a patch; patches that agree make an object.

Mais, Hirsch, Kainmueller 2020, *PatchPerPix for Instance Segmentation*. Facts, traps and open choices:
docs/algorithms.md, "PatchPerPix". How patches become objects is in :mod:`plurimask.ops.patch_assembly`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from plurimask.instances import Instances
from plurimask.networks.patch_decoder import LevelReader, PatchShape, WindowReader
from plurimask.networks.unet import CONVOLUTIONS
from plurimask.ops.components import objects, other_sizes, without_small
from plurimask.ops.mutex_watershed import dense_patches
from plurimask.ops.patch_assembly import Assembly
from plurimask.ops.patch_consensus import Mask, Patches
from plurimask.protocols import Backbone, Features, Head, Method, Outputs

BACKGROUND, FOREGROUND, OVERLAP = range(3)

LOOSE = 0.1
"""In prediction, pixels whose foreground probability is above this get a patch: the smallest ``foreground``."""

CHUNK = 2048  # patches that are decoded at a time
AUTOENCODER_BATCH, AUTOENCODER_RATE = 256, 1e-3  # the paper's batch; its rate is 1e-4, for 10,000 steps


@dataclass(frozen=True)
class PatchPerPix(Method):
    """A patch per pixel, and the number of objects there: none, one, several.

    In training, patches are looked at in ``samples`` pixels of a crop. In prediction, outputs are sparse: a patch for
    every pixel that is probably foreground (see :meth:`PatchPerPixHead.forward`). Patches around an overlap bring its
    pixels to their objects: patches more than twice as wide as overlaps bring all of them.

    Attributes:
        variant: "decoder" is the paper's best, ppp+dec: a code per pixel, decoded to a patch, both trained together.
            "direct", ppp, predicts the pixels of a patch without a code. "autoencoder", ppp+ae, trains encoder and
            decoder on true patches first, then predicts codes. "encoder_decoder", ed-ppp, encodes the window of the
            *image* around a pixel; the backbone, and with it a dropout, only says what is foreground.
        patch: sides of a patch in pixels, odd; one number for all axes, or one per axis.
        code: numbers per code (paper: 7 x 6 x 6).
        form: of decoder and encoder. "linear": linear layers with ReLU. "convolutional": the paper's, ten times slower
            on a CPU (see :class:`plurimask.networks.patch_decoder.PatchShape`).
        widths: of the layers between code and patch; the paper's convolutional decoder has (64, 32).
        levels: decoder levels that codes are read from, at most those of the backbone. The paper reads the finest one,
            which in its network has as many maps as the coarsest.
        samples: pixels of a crop in which patches are compared, drawn with replacement.
        background_share: of these, pixels of no object, whose patch is 0 everywhere; the others belong to one object.
            The paper has them in "direct" only.
        class_weight: weight of the cross-entropy of the number of objects beside the patches' cross-entropy.
        class_weights: of background, one and several objects within it.
        foreground: a pixel is background if its background probability is above ``1 - foreground``.
        threshold, cover_threshold, select, thin_out, partition: how patches become objects, see
            :class:`plurimask.ops.patch_assembly.Assembly`. The partition "dense" is the paper's ablation MWS-Dense: no
            patches are selected, all their pixels are affinities (:func:`plurimask.ops.mutex_watershed.dense_patches`);
            objects then do not overlap, have only pixels with a patch (see ``max_patches``), and are scored by their
            foreground probability. It takes 40 bytes or more for every pixel of every patch.
        crop: objects end where the foreground does. The paper's do not: they are unions of patches, and larger
            (RESULTS.md, Q6).
        min_size: smaller objects are dropped, in pixels.
        max_patches: if a window has more foreground pixels, every second (third, ...) of them gets a patch. An
            untrained network sees foreground everywhere.

    Raises:
        ValueError: an even patch, or a share or probability out of range.
    """

    exact_for: ClassVar[frozenset[str]] = frozenset({"empty", "touching blobs", "crossing worms"})

    variant: Literal["decoder", "direct", "autoencoder", "encoder_decoder"] = "decoder"
    patch: int | tuple[int, ...] = 41
    code: int = 252
    form: Literal["linear", "convolutional"] = "linear"
    widths: tuple[int, ...] = (512,)
    levels: int = 3
    samples: int = 1024
    background_share: float = 0.0
    class_weight: float = 1.0
    class_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    foreground: float = 0.5
    threshold: float = 0.5
    cover_threshold: float = 0.5
    select: bool = True
    thin_out: bool = True
    partition: Literal["mutex", "components", "dense"] = "mutex"
    crop: bool = True
    min_size: int = 20
    max_patches: int = 100_000

    def __post_init__(self) -> None:
        sides = np.atleast_1d(self.patch)
        if (sides < 1).any() or (sides % 2 == 0).any():
            raise ValueError(f"a patch has a pixel in its middle: give odd sides, not {self.patch}.")
        counts = ("code", "levels", "samples", "max_patches")
        if wrong := [f"{name} = {getattr(self, name)}" for name in counts if getattr(self, name) < 1]:
            raise ValueError(f"{', '.join(wrong)}: at least 1 is wanted.")
        if not LOOSE <= self.foreground < 1:
            raise ValueError(f"foreground is {self.foreground}; patches are kept above {LOOSE}, so give {LOOSE} to 1.")
        if not 0 <= self.background_share <= 1:
            raise ValueError(f"background_share is {self.background_share}; it is a share, between 0 and 1.")
        self.assembly()  # checks its own settings

    def sides(self, ndim: int) -> tuple[int, ...]:
        """Of a patch.

        Raises:
            ValueError: the patch has another number of axes.
        """
        if isinstance(self.patch, int):
            return (self.patch,) * ndim
        if len(self.patch) != ndim:
            raise ValueError(f"the patch {self.patch} has {len(self.patch)} sides, the image {ndim} axes.")
        return self.patch

    def targets(self, truth: Instances, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """What a crop wants.

        ``classes`` (*spatial) int64, number of objects, at most 2; ``positions`` (K, D) int64, the pixels in which
        patches are compared; ``patches`` (K, P) bool, which pixels around them share an object with them, False outside
        the crop; ``weights`` (K,) float32, 0 where the crop has no pixel to draw.
        """
        classes = np.minimum(truth.owners(), OVERLAP).astype(np.int64)
        behind = round(self.samples * self.background_share)
        empty, empty_weights = _drawn(classes == BACKGROUND, behind, generator)
        owned, owned_weights = _drawn(classes == FOREGROUND, self.samples - behind, generator)
        positions = np.concatenate([empty, owned])
        return {
            "classes": classes,
            "positions": positions,
            "patches": patches_at(truth, positions, self.sides(truth.ndim)),
            "weights": np.concatenate([empty_weights, owned_weights]),
        }

    def head(self, backbone: Backbone) -> PatchPerPixHead:
        return PatchPerPixHead(self, backbone)

    def decode(self, outputs: Outputs) -> Instances:
        """Objects scored by the mean of their pixels' highest probabilities; feature ``patch_score``, their own doubt.

        Patches in overlaps have no say, and only foreground outside overlaps has to be covered.
        """
        patches, cover, overlap = self.evidence(outputs)
        if self.partition == "dense":
            labels = dense_patches(patches, cover)
            scores = 1 - self.probabilities(outputs)[BACKGROUND].cpu().numpy()
            return objects(labels, scores=scores, min_area=self.min_size)
        found = self.assembly()(patches, cover=cover, overlap=overlap)
        return without_small(found.within(cover | overlap) if self.crop else found.instances, self.min_size)

    def evidence(self, outputs: Outputs) -> tuple[Patches, Mask, Mask]:
        """What objects are put together from: patches, pixels to be covered and overlaps, both ``(*spatial)`` bool.

        Raises:
            FloatingPointError: outputs that are not finite.
        """
        probabilities = self.probabilities(outputs).cpu().numpy()
        values = outputs["patches"].cpu()
        if not (np.isfinite(probabilities).all() and bool(torch.isfinite(values).all())):
            raise FloatingPointError("the network gave probabilities that are not finite; its weights are broken.")
        foreground = probabilities[BACKGROUND] <= 1 - self.foreground
        overlap = foreground & (probabilities.argmax(0) == OVERLAP)
        cover = foreground & ~overlap
        centres = outputs["centres"][:, 1:].cpu().numpy()
        chosen = np.flatnonzero(cover[tuple(centres.T)])
        patches = Patches(centres[chosen], values.numpy()[chosen], self.sides(foreground.ndim), foreground.shape)
        return patches, cover, overlap

    def assembly(self) -> Assembly:
        """How patches become objects."""
        return Assembly(
            threshold=self.threshold,
            cover_threshold=self.cover_threshold,
            select=self.select,
            thin_out=self.thin_out,
            partition="mutex" if self.partition == "dense" else self.partition,
        )

    def probabilities(self, outputs: Outputs) -> Tensor:
        return torch.softmax(outputs["classes"][0].float(), 0)

    def condition(self, targets: Outputs) -> Tensor:
        return torch.movedim(functional.one_hot(targets["classes"], 3), -1, 1).float()

    def ideal(self, truth: Instances) -> Outputs:
        """Classes beyond doubt, and the true patch of every pixel of an object."""
        owners = truth.owners()
        classes = torch.from_numpy(np.minimum(owners, OVERLAP).astype(np.int64))[None]
        positions = np.argwhere(owners)
        patches = patches_at(truth, positions, self.sides(truth.ndim))
        return {
            "classes": torch.movedim(functional.one_hot(classes, 3), -1, 1).float() * 20,
            "centres": torch.from_numpy(np.pad(positions, ((0, 0), (1, 0)))),
            "patches": torch.from_numpy(patches).half(),
        }

    def tunable(self) -> Mapping[str, Sequence[Any]]:
        """Thresholds, the partition and the smallest object; which patches are selected stays the paper's rule."""
        shares = (round(self.foreground + step, 3) for step in (-0.2, -0.1, 0.1, 0.2))
        return {
            "threshold": tuple(t for t in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95) if t != self.threshold),
            "foreground": tuple(share for share in shares if LOOSE <= share < 1),
            "cover_threshold": tuple(t for t in (0.3, 0.5, 0.7, 0.9) if t != self.cover_threshold),
            "partition": tuple(other for other in ("mutex", "components") if other != self.partition),
            "min_size": other_sizes(self.min_size),
        }


class PatchPerPixHead(Head):
    """A 1 x 1 convolution to the number of objects, a reader of codes at single pixels, and a decoder of codes.

    Codes are the tanh of what is read. The paper's are the sigmoid, which is the same up to a linear map; but the
    decoder is fresh, and inputs around 0 train it in half of the steps.
    """

    method: PatchPerPix

    def __init__(self, method: PatchPerPix, backbone: Backbone) -> None:
        super().__init__()
        self.method, self.ndim = method, backbone.ndim
        shape = PatchShape(method.sides(backbone.ndim), method.code, method.widths, method.form == "convolutional")
        direct = method.variant == "direct"
        self.shape = shape
        self.classes = CONVOLUTIONS[backbone.ndim](backbone.channels[0], 3, 1)
        self.reader: LevelReader | WindowReader
        if method.variant == "encoder_decoder":
            self.reader = WindowReader(shape, backbone.in_channels)
        else:
            self.reader = LevelReader(backbone, method.levels, shape.pixels if direct else shape.code)
        self.decoder: nn.Module = nn.Identity() if direct else nn.Sequential(nn.Tanh(), shape.decoder())
        self.encoder = shape.encoder(1) if method.variant == "autoencoder" else None
        self._autoencoder().requires_grad_(False)

    def forward(self, features: Features) -> Outputs:
        """In training ``classes`` (B, 3, *spatial) logits, and the maps that codes are read from.

        In eval mode ``classes`` and two sparse entries: ``centres`` (N, 1 + D) int64, image and place of every pixel
        whose foreground probability is above ``LOOSE``, and ``patches`` (N, P) float16, the probabilities of the pixels
        around it, row-major.
        """
        classes = self.classes(features.decoder[0])
        seen = self.reader.seen(features)
        if self.training:
            return {"classes": classes, **seen}
        centres = self._centres(classes)
        return {"classes": classes, "centres": centres, "patches": self._patches(seen, centres)}

    def loss(self, outputs: Outputs, targets: Outputs) -> dict[str, Tensor]:
        """Cross-entropy of patches at the positions ("patches") and of the number of objects ("classes").

        Pixels of a patch outside the crop are unknown, and left out (the paper's crops know what is around them). The
        variant "autoencoder" has, instead of "patches", the mean squared distance of codes ("codes") to those of the
        true patches, where these lie within the crop. Outputs may also be those of eval mode: a position without
        a patch counts as 0 everywhere.
        """
        weights = outputs["classes"].new_tensor(self.method.class_weights, dtype=torch.float32)
        entropy = functional.cross_entropy(outputs["classes"].float(), targets["classes"], weight=weights)
        return {**self._patch_term(outputs, targets), "classes": self.method.class_weight * entropy}

    def prepare(self, truths: Sequence[Instances], *, steps: int, seed: int) -> None:
        """The variant "autoencoder": trains encoder and decoder on patches of the truth; nothing for the others.

        Raises:
            ValueError: no truth has a pixel of exactly one object.
        """
        if self.encoder is None:
            return
        generator, device = np.random.default_rng(seed), self.classes.weight.device
        method = replace(self.method, samples=AUTOENCODER_BATCH, background_share=0.0)
        useful = [truth for truth in truths if bool((truth.owners() == FOREGROUND).any())]
        if not useful:
            raise ValueError("the autoencoder of patches finds no object in the truth; give images with objects.")
        with _thawed(self._autoencoder()) as parameters, torch.enable_grad():
            optimiser = torch.optim.Adam(parameters, lr=AUTOENCODER_RATE)
            for _ in range(steps):
                targets = method.targets(useful[generator.integers(len(useful))], generator)
                patches = torch.from_numpy(targets["patches"]).float().to(device)
                wrong = functional.binary_cross_entropy_with_logits(self.decoder(self._encoded(patches)), patches)
                optimiser.zero_grad()
                wrong.backward()  # type: ignore[no-untyped-call]
                optimiser.step()

    def _autoencoder(self) -> nn.ModuleList:
        """What is trained before everything else and then left alone; empty for most variants."""
        return nn.ModuleList([] if self.encoder is None else [self.encoder, self.decoder])

    def _encoded(self, patches: Tensor) -> Tensor:
        """``(N, P)`` true patches -> ``(N, code)``, before the tanh."""
        assert self.encoder is not None
        codes: Tensor = self.encoder(patches.reshape(-1, 1, *self.shape.sides))
        return codes

    def _centres(self, classes: Tensor) -> Tensor:
        """``(N, 1 + D)``: image and place of what may be foreground."""
        background = torch.softmax(classes.float(), 1)[:, BACKGROUND]
        centres = torch.nonzero(background < 1 - LOOSE)
        step = -(-len(centres) // (self.method.max_patches * len(classes)))
        return centres[:: max(1, step)]

    def _patches(self, seen: Outputs, centres: Tensor) -> Tensor:
        """``(N, P)`` float16 probabilities at the centres ``(N, 1 + D)``."""
        patches = torch.empty(len(centres), self.shape.pixels, dtype=torch.float16, device=centres.device)
        for image in torch.unique(centres[:, 0]).tolist():
            alone = {name: value[image : image + 1] for name, value in seen.items()}
            for rows in torch.split(torch.nonzero(centres[:, 0] == image)[:, 0], CHUNK):
                logits = self.decoder(self.reader(alone, centres[rows][None, :, 1:]))[0]
                patches[rows] = torch.sigmoid(logits.float()).half()
        return patches

    def _patch_term(self, outputs: Outputs, targets: Outputs) -> dict[str, Tensor]:
        inside = self._inside(targets["positions"], targets["classes"].shape[1:])
        patches, weights = targets["patches"].float(), targets["weights"][..., None]
        if "patches" in outputs:
            logits = _given(outputs, targets["positions"])
        elif self.encoder is not None:
            codes = torch.tanh(self.reader(outputs, targets["positions"]).float())
            wanted = torch.tanh(self._encoded(patches.flatten(0, 1)).float()).reshape(codes.shape)
            return {"codes": _mean((codes - wanted).square(), weights * inside.all(-1, keepdim=True))}
        else:
            logits = self.decoder(self.reader(outputs, targets["positions"])).float()
        wrong = functional.binary_cross_entropy_with_logits(logits, patches, reduction="none")
        return {"patches": _mean(wrong, weights * inside)}

    def _inside(self, positions: Tensor, spatial: Sequence[int]) -> Tensor:
        """``(B, K, P)``: which pixels of the patches at ``(B, K, D)`` positions lie in the crop."""
        inside = torch.ones(*positions.shape[:2], 1, dtype=torch.bool, device=positions.device)
        for axis, (side, size) in enumerate(zip(self.shape.sides, spatial, strict=True)):
            place = positions[..., axis, None] + torch.arange(side, device=positions.device) - side // 2
            near = (place >= 0) & (place < size)
            inside = (inside[..., None] & near[:, :, None]).flatten(2)
        return inside


def patches_at(truth: Instances, positions: NDArray[np.int64], sides: Sequence[int]) -> NDArray[np.bool_]:
    """``(K, P)``: which pixels around the positions ``(K, D)`` share an object with them; False outside the image.

    PatchPerPix, section 2: a pixel of several objects counts for each of them. Row-major, the position in the middle.

    >>> truth = Instances.from_labels(np.array([[1, 1, 1, 2]]))
    >>> patches_at(truth, np.array([[0, 2], [0, 3]]), (1, 3)).tolist()
    [[True, True, False], [False, True, False]]
    """
    patches = np.zeros((len(positions), int(np.prod(sides))), np.bool_)
    margins = [(side // 2, side // 2) for side in sides]
    for box, mask in zip(truth.boxes, truth.masks, strict=True):
        near = np.flatnonzero(((positions >= box[0]) & (positions < box[1])).all(1))
        places = positions[near] - box[0]
        own = mask[tuple(places.T)]
        windows = sliding_window_view(np.pad(mask, margins), tuple(sides))
        patches[near[own]] |= windows[tuple(places[own].T)].reshape(-1, patches.shape[1])
    return patches


def _drawn(
    where: NDArray[np.bool_], count: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """``(count, D)`` pixels of a mask, drawn with replacement, with weights of 1; if there are none, 0 and 0."""
    pixels = np.flatnonzero(where)
    if not len(pixels):
        return np.zeros((count, where.ndim), np.int64), np.zeros(count, np.float32)
    places = np.unravel_index(generator.choice(pixels, count), where.shape)
    return np.stack(places, 1).astype(np.int64), np.ones(count, np.float32)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean, 0 where all weights are. values: ``(B, K, n)``; weights: broadcast to them."""
    weights = weights.expand_as(values)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def _given(outputs: Outputs, positions: Tensor) -> Tensor:
    """``(B, K, P)`` logits at the positions ``(B, K, D)``, looked up in the sparse outputs of eval mode."""
    classes, centres, patches = outputs["classes"], outputs["centres"], outputs["patches"].float()
    rows = torch.full((len(classes), *classes.shape[2:]), len(patches), device=centres.device)
    rows[centres.unbind(1)] = torch.arange(len(patches), device=centres.device)
    image = torch.arange(len(classes), device=centres.device)[:, None]
    found = rows[(image, *positions.unbind(2))]
    return torch.logit(functional.pad(patches, (0, 0, 0, 1))[found], eps=1e-4)


@contextmanager
def _thawed(modules: nn.ModuleList) -> Iterator[list[nn.Parameter]]:
    """The parameters of frozen modules, trainable for a while."""
    modules.requires_grad_(True)
    try:
        yield list(modules.parameters())
    finally:
        modules.requires_grad_(False).zero_grad()
