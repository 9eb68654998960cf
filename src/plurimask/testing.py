"""Contract checks for a method and for a posterior, for this project and for others that extend it.

A test of your own method is four lines::

    from plurimask.networks import UNet
    from plurimask.testing import check_method

    def test_my_method():
        check_method(MyMethod(), UNet(width=4, depth=2))

The toy truths are drawn in this file, so that one can see what a failing check is about.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from plurimask.data.dataset import collate
from plurimask.instances import Instances
from plurimask.protocols import Backbone, Head, Method, Network, Outputs, Posterior

# a, b: pixels of one object; x: pixels of both.
TOUCHING_BLOBS = """
........................................
........................................
........................................
..........aaaaa.........................
........aaaaaaaaa.......................
.......aaaaaaaaaaa......................
......aaaaaaaaaaaaa......bbb............
.....aaaaaaaaaaaaaaa..bbbbbbbbb.........
.....aaaaaaaaaaaaaaa.bbbbbbbbbbb........
....aaaaaaaaaaaaaaaaabbbbbbbbbbbb.......
....aaaaaaaaaaaaaaaaabbbbbbbbbbbb.......
....aaaaaaaaaaaaaaaaabbbbbbbbbbbbb......
....aaaaaaaaaaaaaaaaabbbbbbbbbbbbb......
....aaaaaaaaaaaaaaaaabbbbbbbbbbbbb......
.....aaaaaaaaaaaaaaabbbbbbbbbbbbbb......
.....aaaaaaaaaaaaaaabbbbbbbbbbbbbb......
......aaaaaaaaaaaaa.bbbbbbbbbbbbb.......
.......aaaaaaaaaaa..bbbbbbbbbbbbb.......
........aaaaaaaaa....bbbbbbbbbbb........
..........aaaaa.......bbbbbbbbb.........
.........................bbb............
........................................
........................................
........................................
"""

CROSSING_WORMS = """
........................................
...........................bbb..........
..........................bbbbb.........
..........................bbbbb.........
..aaa.....................bbbbb.........
.aaaaa....................bbbb..........
.aaaaaaa.................bbbbb..........
.aaaaaaaa................bbbbb..........
..aaaaaaaaa.............bbbbb...........
....aaaaaaaaa...........bbbbb...........
.....aaaaaaaaaaaaa.....bbbbbb...........
.......aaaaaaaaaaaaaaaxxxxbb............
.........aaaaaaaaaaaaxxxxxxaa...........
...........aaaaaaaaaaxxxxxxaaaa.........
..............aaaaaxxxxxxxaaaaaaa.......
..................bbbbxxxaaaaaaaaaa.....
.................bbbbbbb...aaaaaaaaa....
................bbbbbbb......aaaaaaaaa..
...............bbbbbbb.........aaaaaaaa.
.............bbbbbbbb...........aaaaaaa.
............bbbbbbbb..............aaaaa.
............bbbbbb.................aaa..
............bbbbb.......................
.............bbb........................
"""

BALLS_CAP = """
......................
......................
......................
....aaaaa.....bbbb....
...aaaaaaa...bbbbbb...
...aaaaaaa...bbbbbb...
...aaaaaaa...bbbbbb...
....aaaaa....bbbbbb...
....aaaaa.....bbbb....
......................
......................
......................
"""

BALLS_MIDDLE = """
......................
....aaaaa.....bbbb....
...aaaaaaa...bbbbbb...
..aaaaaaaaa.bbbbbbbb..
..aaaaaaaaabbbbbbbbbb.
..aaaaaaaaabbbbbbbbbb.
..aaaaaaaaabbbbbbbbbb.
..aaaaaaaaabbbbbbbbbb.
..aaaaaaaaa.bbbbbbbb..
...aaaaaaa..bbbbbbbb..
.....aaa......bbbb....
......................
"""

CLOSE = 0.95
"""Mean IoU that ``decode(ideal(truth))`` must reach where a method does not claim to be exact."""


def drawn(slices: Sequence[str]) -> Instances:
    """Objects from drawings: one string is an image, several are the slices of a volume.

    >>> drawn(["aax" + chr(10) + "..b"]).to_masks().astype(int).tolist()
    [[[1, 1, 1], [0, 0, 0]], [[0, 0, 1], [0, 0, 1]]]
    """
    letters = np.array([[list(line) for line in picture.split()] for picture in slices])
    letters = letters[0] if len(slices) == 1 else letters
    masks = [(letters == name) | (letters == "x") for name in "ab"]
    return Instances.from_masks(masks, letters.shape)


def toy_truths(ndim: int = 2) -> dict[str, Instances]:
    """Toy truths by name, all of one shape: "touching blobs", "crossing worms" (2-D only), "empty"."""
    if ndim == 2:
        cases = {"touching blobs": drawn([TOUCHING_BLOBS]), "crossing worms": drawn([CROSSING_WORMS])}
    else:
        blank = BALLS_CAP.translate(str.maketrans("ab", ".."))
        balls = [blank, *2 * [BALLS_CAP], *4 * [BALLS_MIDDLE], *2 * [BALLS_CAP], blank]
        cases = {"touching blobs": drawn(balls)}
    return {**cases, "empty": Instances.empty(cases["touching blobs"].shape)}


def toy_image(truth: Instances, *, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """``(channels, *spatial)``: objects are 1, overlaps 2, background 0, with Gaussian noise of 0.1."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (channels, *truth.shape))
    return (truth.owners() + noise).astype(np.float32)


def check_method(method: Method, backbone: Backbone, *, cases: Sequence[str] | None = None, seed: int = 0) -> None:
    """Checks a method against its contract, on the toy truths of the backbone's number of axes.

    1. ``decode(ideal(truth))`` is the truth: exactly for the cases in ``method.exact_for``, with a mean IoU of at
       least 0.95 for the others; scores lie in [0, 1].
    2. The loss of the ideal outputs is smaller than that of ideal outputs of objects somewhere else.
    3. An image without objects has a finite loss with finite gradients.
    4. Renumbering the objects changes neither the loss nor the decoded objects.
    5. Class probabilities and what a latent posterior sees have the documented shapes.
    6. If it joins annotators: one alone has the loss of its own targets, whoever says the same beside it changes
       nothing, and a latent posterior sees them.

    Args:
        method: with settings that suit small objects.
        backbone: a small one; its weights are left as they are.
        cases: names of the toy truths; all of them by default. A method that is not meant for overlapping objects
            leaves "crossing worms" out, and says so in its docstring.
        seed: of images and targets.

    Raises:
        AssertionError: the first breach, with the case and the numbers.
    """
    head = method.head(backbone).eval()
    truths = toy_truths(backbone.ndim)
    for case, truth in truths.items():
        if cases is not None and case not in cases:
            continue
        _check_decoding(method, truth, case=case)
        _check_shapes(method, truth, case=case, seed=seed)
        if type(method).joined is not Method.joined:
            _check_annotators(method, head, truth, case=case, seed=seed)
        if len(truth):
            _check_loss(method, head, truth, case=case, seed=seed)
            _check_numbering(method, head, truth, case=case, seed=seed)
    _check_empty(method, Network(backbone, head), truths["empty"], seed=seed)


def check_posterior(
    posterior: Posterior, method: Method, *, halo: int, channels: int = 1, steps: int = 3, seed: int = 0
) -> None:
    """Checks a posterior against its contract; the posterior itself is left as it was.

    1. A draw is a function of its seed: the same outputs to the bit in the same call, in another call, whatever
       other seeds are asked for; other outputs for another seed unless ``distinct`` is 1.
    2. A window shows what the whole image shows, farther than ``halo`` from its sides.
    3. Losses are finite over ``steps`` steps of training, and every trainable parameter gets a gradient in one.

    Args:
        posterior: as it is before training.
        method: makes the targets; the one whose head the posterior's networks have.
        halo: how far the network sees, in pixels; a multiple of the coarsest stride.
        channels: of the image.
        steps: of training.
        seed: of images and targets.

    Raises:
        AssertionError: the first breach, with its numbers.
    """
    _check_seeds(copy.deepcopy(posterior).eval(), channels=channels, seed=seed)
    _check_windows(copy.deepcopy(posterior).eval(), halo=halo, channels=channels, seed=seed)
    _check_training(copy.deepcopy(posterior).train(), method, channels=channels, steps=steps, seed=seed)


def _check_decoding(method: Method, truth: Instances, *, case: str) -> None:
    found = method.decode(method.ideal(truth))
    ious = matched_ious(truth, found)
    _demand(found.shape == truth.shape, f"{case}: decode gave shape {found.shape}, the outputs have {truth.shape}.")
    in_range = bool(((found.scores >= 0) & (found.scores <= 1)).all())
    _demand(in_range, f"{case}: scores must lie in [0, 1], found {found.scores}.")
    wanted = 1.0 if case in method.exact_for else CLOSE
    reached = float(ious.mean()) if len(ious) else 1.0
    _demand(
        reached >= wanted,
        f"{case}: decode(ideal(truth)) found {len(found)} objects for {len(truth)}, IoU {ious.round(3)}; "
        f"the mean must be at least {wanted}.",
    )


def _check_shapes(method: Method, truth: Instances, *, case: str, seed: int) -> None:
    probabilities = method.probabilities(method.ideal(truth))
    _demand(
        tuple(probabilities.shape[1:]) == truth.shape,
        f"{case}: probabilities have shape {tuple(probabilities.shape)}, wanted (K, {truth.shape}).",
    )
    total = probabilities.sum(0)
    _demand(torch.allclose(total, torch.ones_like(total), atol=1e-3), f"{case}: probabilities do not sum to 1.")
    seen = method.condition(_targets(method, [truth], seed))
    _demand(
        seen.shape[0] == 1 and tuple(seen.shape[2:]) == truth.shape,
        f"{case}: condition has shape {tuple(seen.shape)}, wanted (1, K, {truth.shape}).",
    )


def _check_loss(method: Method, head: Head, truth: Instances, *, case: str, seed: int) -> None:
    targets = _targets(method, [truth], seed)
    elsewhere = truth.shift([4] * truth.ndim, truth.shape)
    ideal = _total(head.loss(method.ideal(truth), targets))
    shifted = _total(head.loss(method.ideal(elsewhere), targets))
    _demand(
        ideal < shifted,
        f"{case}: the ideal outputs have the loss {ideal:.4f}, those of objects shifted by 4 pixels {shifted:.4f}; "
        "the ideal ones must have the smaller loss.",
    )


def _check_numbering(method: Method, head: Head, truth: Instances, *, case: str, seed: int) -> None:
    renumbered = truth.select(np.arange(len(truth))[::-1])
    ideal = method.ideal(truth)
    losses = [_total(head.loss(ideal, _targets(method, [objects], seed))) for objects in (truth, renumbered)]
    _demand(
        math.isclose(*losses, rel_tol=1e-4, abs_tol=1e-5),
        f"{case}: the loss is {losses[0]} and, with the objects in another order, {losses[1]}.",
    )
    one, other = method.decode(ideal), method.decode(method.ideal(renumbered))
    ious = matched_ious(one, other)
    _demand(bool((ious == 1).all()), f"{case}: in another order other objects are found, IoU {ious.round(3)}.")


def _check_annotators(method: Method, head: Head, truth: Instances, *, case: str, seed: int) -> None:
    own = method.targets(truth, np.random.default_rng(seed))
    alone, two = (collate([method.joined(annotators * [own])], method.ragged) for annotators in (1, 2))
    outputs = method.ideal(truth.shift([4] * truth.ndim, truth.shape))  # whose loss is not 0
    losses = [_total(head.loss(outputs, targets)) for targets in (collate([own], method.ragged), alone, two)]
    _demand(
        math.isclose(losses[0], losses[1], rel_tol=1e-4) and math.isclose(losses[1], losses[2], rel_tol=1e-4),
        f"{case}: one annotator has the loss {losses[0]}, joined with nobody {losses[1]}, with one who agrees "
        f"{losses[2]}.",
    )
    seen = [tuple(method.condition(targets).shape) for targets in (alone, two)]
    _demand(
        seen[0] == seen[1] and seen[0][2:] == truth.shape,
        f"{case}: what a latent posterior sees has shape {seen[0]} for one annotator and {seen[1]} for two, wanted (1, "
        f"K, {truth.shape}).",
    )


def _check_empty(method: Method, network: Network, empty: Instances, *, seed: int) -> None:
    targets = _targets(method, [empty], seed)
    # How many channels the image has, only the backbone knows: its first weight says it.
    channels = next(weight for weight in network.backbone.parameters() if weight.ndim > 2).shape[1]
    image = torch.from_numpy(toy_image(empty, channels=channels, seed=seed))[None]
    network = copy.deepcopy(network).train()
    terms = network.head.loss(network(image), targets)
    _check_terms(terms, "an image without objects")
    torch.stack([*terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
    for name, gradient in _gradients(network).items():
        _demand(bool(torch.isfinite(gradient).all()), f"empty: the gradient of {name} is not finite.")


def _check_seeds(posterior: Posterior, *, channels: int, seed: int) -> None:
    truth = toy_truths(posterior.backbone.ndim)["touching blobs"]
    image = torch.from_numpy(toy_image(truth, channels=channels, seed=seed))[None]
    first, second, again = _draws(posterior, image, [3, 4, 3])
    (alone,) = _draws(posterior, image, [3])
    for name, value in first.items():
        _demand(torch.equal(value, again[name]), f"{name}: seed 3 gave two different outputs in one call.")
        _demand(torch.equal(value, alone[name]), f"{name}: seed 3 gave other outputs beside seed 4 than alone.")
    if posterior.distinct != 1:
        differ = any(not torch.equal(value, second[name]) for name, value in first.items())
        _demand(differ, "seeds 3 and 4 gave equal outputs; a posterior without doubt sets distinct = 1.")


def _check_windows(posterior: Posterior, *, halo: int, channels: int, seed: int) -> None:
    backbone = posterior.backbone
    stride = backbone.strides[-1]
    sides = backbone.ndim * [2 * halo + 4 * stride]
    image = torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (1, channels, *sides)).astype(np.float32))
    with torch.inference_mode():
        context = posterior.context(image)
        (whole,) = posterior.draws(image, [seed], context=context)
        (part,) = posterior.draws(_inside(image, stride), [seed], context=context)
    for name, value in whole.items():
        if value.shape[2:] != image.shape[2:]:
            continue  # sparse, or on a grid of its own: what it says of a window, its method's tests check
        inner, seen = _inside(value, stride + halo), _inside(part[name], halo)
        worst = float((inner - seen).abs().max())
        _demand(
            worst <= 1e-4 * max(1.0, float(inner.abs().max())),
            f"{name}: {halo} pixels from its sides a window differs from the whole image by {worst:.2e}.",
        )


def _inside(values: Tensor, margin: int) -> Tensor:
    """Without ``margin`` points at both ends of every spatial axis."""
    for axis in range(2, values.ndim):
        values = values.narrow(axis, margin, values.shape[axis] - 2 * margin)
    return values


def _check_training(posterior: Posterior, method: Method, *, channels: int, steps: int, seed: int) -> None:
    truths = [truth for truth in toy_truths(posterior.backbone.ndim).values() if len(truth)]
    images = [toy_image(truth, channels=channels, seed=seed) for truth in truths]
    batch, targets = torch.from_numpy(np.stack(images)), _targets(method, truths, seed)
    optimiser = torch.optim.Adam(posterior.parameter_groups(1e-3))
    waiting = {name for name, parameter in posterior.named_parameters() if parameter.requires_grad}
    for step in range(steps):
        terms = posterior.losses(batch, targets)
        _check_terms(terms, f"step {step}")
        optimiser.zero_grad()
        torch.stack([*terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        waiting -= {name for name, gradient in _gradients(posterior).items() if bool(gradient.any())}
        optimiser.step()
    _demand(not waiting, f"no gradient reached {sorted(waiting)} in {steps} steps.")


def _check_terms(terms: Mapping[str, Tensor], where: str) -> None:
    for name, term in terms.items():
        _demand(term.shape == (), f"{where}: the term {name} has shape {tuple(term.shape)}, wanted ().")
        _demand(bool(torch.isfinite(term)), f"{where}: the term {name} is {float(term.detach())}.")


def matched_ious(truth: Instances, found: Instances) -> NDArray[np.float64]:
    """``(max(N, M),)`` IoU of the best one-to-one match of two sets; what has no partner counts 0."""
    one, other = (
        objects.to_masks().reshape(len(objects), math.prod(objects.shape)).astype(np.float64)
        for objects in (truth, found)
    )
    shared = one @ other.T
    union = one.sum(1)[:, None] + other.sum(1)[None] - shared
    ious = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    rows, columns = linear_sum_assignment(-ious)
    return np.pad(ious[rows, columns], (0, max(ious.shape) - min(ious.shape)))


def _targets(method: Method, truths: Sequence[Instances], seed: int) -> dict[str, Tensor]:
    targets = [method.targets(truth, np.random.default_rng(seed)) for truth in truths]
    return collate(targets, method.ragged)


def _draws(posterior: Posterior, image: Tensor, seeds: Sequence[int]) -> list[Outputs]:
    with torch.inference_mode():
        return list(posterior.draws(image, seeds, context=posterior.context(image)))


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


def _total(terms: Mapping[str, Tensor]) -> float:
    return float(torch.stack([*terms.values()]).sum().detach())


def _demand(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
