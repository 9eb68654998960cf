"""One-to-one assignment that maximises a sparse weight, solved component by component."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components


def maximum_assignment(weights: csr_array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the assignment of largest total weight (Kuhn 1955, Hungarian method), rows ascending.

    weights: ``(N, M)``, positive where stored. Only stored pairs are assigned: a pair of weight 0 never is. The
    bipartite graph falls into small components, so thousands of objects cost little more than their neighbourhoods.

    >>> maximum_assignment(csr_array(np.array([[0.9, 0.8, 0.0], [0.8, 0.0, 0.0], [0.0, 0.0, 0.0]])))
    (array([0, 1]), array([1, 0]))
    """
    rows_total, columns_total = weights.shape
    entries = coo_array(weights)
    rows, columns = entries.coords
    nodes = rows_total + columns_total
    graph = coo_array((entries.data > 0, (rows, columns + rows_total)), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    home = component[rows]
    star = (_owners(home, rows) == 1) | (_owners(home, columns) == 1)
    crowded = np.flatnonzero(~star[home])
    crowded = crowded[np.argsort(home[crowded], kind="stable")]
    parts = np.split(crowded, np.flatnonzero(np.diff(home[crowded])) + 1)
    chosen = [_assign(rows[part], columns[part], entries.data[part]) for part in parts if len(part)]
    best = _heaviest(home, entries.data, np.flatnonzero(star[home]))
    pairs = np.concatenate([np.stack([rows[best], columns[best]]).astype(np.int64), *chosen], axis=1)
    pairs = pairs[:, np.argsort(pairs[0], kind="stable")]
    return pairs[0], pairs[1]


def _owners(home: NDArray[np.int64], nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many different nodes the edges of every component have."""
    _, first = np.unique(nodes, return_index=True)
    return np.bincount(home[first], minlength=int(home.max(initial=-1)) + 1)


def _heaviest(home: NDArray[np.int64], weights: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """The heaviest of these edges of every component, the first of equals: all that a star can have."""
    order = edges[np.lexsort((-weights[edges], home[edges]))]
    return order[np.unique(home[order], return_index=True)[1]]


def _assign(rows: NDArray[np.int64], columns: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """``(2, K)`` rows and columns assigned within one component."""
    row_ids, row_places = np.unique(rows, return_inverse=True)
    column_ids, column_places = np.unique(columns, return_inverse=True)
    dense = np.zeros((len(row_ids), len(column_ids)))
    dense[row_places, column_places] = weights
    assigned_rows, assigned_columns = linear_sum_assignment(dense, maximize=True)
    real = dense[assigned_rows, assigned_columns] > 0
    return np.stack([row_ids[assigned_rows[real]], column_ids[assigned_columns[real]]]).astype(np.int64)
