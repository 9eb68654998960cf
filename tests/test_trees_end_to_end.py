"""Trees in volumes: trained and segmented from start to end, and what windows do to objects of any size."""

from functools import partial

import numpy as np
import pytest

from plurimask.data.sources import open_source
from plurimask.data.synthetic import write_image
from plurimask.data.synthetic_trees import trees
from plurimask.fitting import Schedule
from plurimask.instances import concatenate
from plurimask.methods import Affinities, PatchPerPix
from plurimask.model import load_model
from plurimask.networks import UNet
from plurimask.posteriors import ConcreteDropout
from plurimask.predict import decoded, segment
from plurimask.testing import matched_ious
from plurimask.training import train
from plurimask.windows import grid

PATCHES = PatchPerPix(patch=7, code=16, widths=(24,), levels=2, samples=64, min_size=1)
VOLUME = (24, 40, 48)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    for part, seed in (("fit", 1), ("tune", 2)):
        image, truth = trees((8, 16, 16), count=2, seed=seed)
        (folder / part / "images").mkdir(parents=True)
        (folder / part / "masks" / "a").mkdir(parents=True)
        write_image(folder / part / "images" / "a.tif", image)
        for number, mask in enumerate(truth.to_masks()):
            write_image(folder / part / "masks" / "a" / f"{number}.tif", mask[None].astype(np.uint8))
    return folder


@pytest.mark.parametrize("method", [PATCHES, Affinities(min_size=1)], ids=["patchperpix", "affinities"])
def test_volumes_are_trained_on_and_segmented(volumes, tmp_path, method):
    schedule = Schedule(steps=3, batch=1, crop=8, check_every=3, warmup=1, workers=0)
    backbone, posterior = partial(UNet, ndim=3, width=4, depth=2), partial(ConcreteDropout, start=1)
    settings = {"method": method, "backbone": backbone, "posterior": posterior, "schedule": schedule}
    train([volumes], tmp_path / "model", **settings, progress=False, window=24, halo=4)
    model = load_model(tmp_path / "model")
    assert model.method == method and model.channels == ("channel 0", "channel 1", "channel 2")
    image, truth = open_source(volumes, split="tune")[0].read()
    found = segment(image.data, model, draws=2)
    assert found.shape == truth.shape and found.draws == 2


def boxes(shape, side):
    """``(2, D)`` boxes that tile an image."""
    starts = np.stack(np.meshgrid(*(range(0, size, side) for size in shape), indexing="ij"), -1).reshape(-1, len(shape))
    return [np.stack([start, np.minimum(start + side, shape)]) for start in starts]


def in_windows(method, truth, *, size, halo):
    """What a perfect network finds in windows, put together as ``segment_draws`` does it; decoded once as a whole."""
    windows = grid(truth.shape, size=size, halo=halo, stride=4)
    assert len(windows) >= 4
    parts = []
    for window in windows:
        outputs = method.ideal(truth.crop(window.outer))
        parts.append(decoded(outputs, method, window=window, shape=truth.shape))
    return concatenate(parts)


def test_objects_smaller_than_the_halo_are_those_of_the_whole_volume():
    """Trees cut to boxes of 16 voxels, half of which a halo of 8 holds: what a window answers for, it sees whole."""
    truth = trees(VOLUME, count=4, seed=5)[1]
    pieces = concatenate([truth.crop(box).shift(box[0], VOLUME) for box in boxes(VOLUME, 16)])
    pieces = pieces.select(pieces.areas > 30)
    assert len(pieces) > 8 and (pieces.owners() > 1).any()
    whole = PATCHES.decode(PATCHES.ideal(pieces))
    parts = in_windows(PATCHES, pieces, size=32, halo=8)
    assert len(parts) == len(whole)
    assert (matched_ious(whole, parts) == 1).all()


def test_longer_objects_come_back_in_pieces():
    """Every window answers for what it sees of a tree, if the centre of that is in its core: pieces, that may overlap.

    So windows (and halos) have to be as large as the longest objects ask for; the default ones hold a whole volume.
    """
    truth = trees(VOLUME, count=4, seed=5)[1]
    whole = PATCHES.decode(PATCHES.ideal(truth))
    assert (matched_ious(truth, whole) == 1).all()
    parts = in_windows(PATCHES, truth, size=32, halo=8)
    assert len(parts) > len(whole)
    assert all(max((part & tree).sum() for tree in truth.to_masks()) == part.sum() for part in parts.to_masks())
    np.testing.assert_array_equal(parts.owners() > 0, truth.owners() > 0)
    short = (truth.boxes[:, 1] - truth.boxes[:, 0]).max(1) <= 16
    assert all((truth.to_masks()[number] == parts.to_masks()).all((1, 2, 3)).any() for number in np.flatnonzero(short))
