"""Made-up folders of images with truth: pictures of 6 x 8 pixels, with two objects of two pixels each."""

import pickle

import imageio.v3 as imageio
import numpy as np
import pytest


class Pictures:
    """Writes pictures, and checks what is read of them."""

    shape = (6, 8)
    labels = np.array([[0] * 8, [0, 1, 1, 0, 0, 2, 2, 0]] + [[0] * 8] * 4, np.uint8)

    def write(self, path, values):
        path.parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(path, values)

    def image(self, path, value=7):
        self.write(path, np.full(self.shape, value, np.uint8))

    def mask(self, path, number):
        """One of the two objects alone."""
        self.write(path, (self.labels == number) * np.uint8(255))

    def check(self, source, names):
        """Whether these are the images of a source, each with its two objects, also after a way between processes."""
        assert [sample.name for sample in source] == names
        for sample in source:
            picture, truth = pickle.loads(pickle.dumps(sample)).read()
            assert picture.data.shape == (1, *self.shape)
            assert sorted(truth.areas.tolist()) == [2, 2]
            assert sample.files == (picture.path,)


@pytest.fixture
def pictures():
    """What writes and checks the pictures."""
    return Pictures()
