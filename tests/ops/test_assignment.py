"""The sparse assignment against the dense one, and by hand."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from plurimask.ops.assignment import maximum_assignment


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("density", [0.05, 0.2, 0.8])
def test_total_weight_equals_the_dense_hungarian_method(seed, density):
    rng = np.random.default_rng(seed)
    weights = rng.random((17, 23)) * (rng.random((17, 23)) < density)
    rows, columns = maximum_assignment(csr_array(weights))
    dense = weights[linear_sum_assignment(weights, maximize=True)].sum()
    assert weights[rows, columns].sum() == pytest.approx(dense)
    assert (weights[rows, columns] > 0).all()
    assert len(set(rows)) == len(rows) == len(set(columns))
    assert (np.diff(rows) > 0).all()


def test_not_greedy_and_never_a_pair_of_weight_zero():
    # Greedy would take 0.9 and leave the second row without partner.
    rows, columns = maximum_assignment(csr_array(np.array([[0.9, 0.8], [0.8, 0.0]])))
    assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]
    rows, columns = maximum_assignment(csr_array(np.array([[0.9, 0.0], [0.0, 0.0]])))
    assert rows.tolist() == [0] and columns.tolist() == [0]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 2)])
def test_nothing_to_assign(shape):
    rows, columns = maximum_assignment(csr_array(np.zeros(shape)))
    assert rows.size == columns.size == 0
