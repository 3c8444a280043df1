"""Thousands of samples become the control points that say the same within a stated bound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput

Array = NDArray[np.float64]

IDLE_SHARE = 2e-6
"""Between two samples with less than this share of the beam's meterset the beam is off. In the real trajectory log with
beam holds, samples in a hold gain 1e-7 of the meterset (drift of the readout) and samples with beam 2e-3."""


def thin(meterset: Array, axes: Array) -> NDArray[np.intp]:
    """Choose samples between which all others lie on straight lines, within a bound of 1.

    Douglas and Peucker's method (Cartographica 10:112 (1973)), with the meterset as abscissa and the largest deviation
    of any axis as the distance. Samples within a stretch without beam are passed over: only its first and last stay.

    Parameters
    ----------
    meterset : ndarray, shape (n,)
        Never falling.
    axes : ndarray, shape (n, a)
        Positions, each axis in units of its bound.

    Returns
    -------
    ndarray of int, shape (k,)
        Indices of the samples that stay, rising; the first and last are among them.

    Raises
    ------
    InvalidInput
        If the meterset falls.
    """
    if np.any(np.diff(meterset) < 0):
        raise InvalidInput("The meterset falls", "positions could not be told by it")
    total = meterset[-1] - meterset[0]
    has_beam = np.diff(meterset) > IDLE_SHARE * total
    # A sample stays when beam comes before or after it.
    used = np.flatnonzero(np.r_[True, has_beam] | np.r_[has_beam, True])
    m, x = meterset[used], axes[used]
    keep = np.zeros(len(used), dtype=bool)
    keep[[0, -1]] = True
    stack = [(0, len(used) - 1)]
    while stack:
        i, j = stack.pop()
        if j - i < 2 or m[j] <= m[i]:
            continue
        share = ((m[i + 1 : j] - m[i]) / (m[j] - m[i]))[:, None]
        off = np.abs(x[i + 1 : j] - (x[i] * (1 - share) + x[j] * share)).max(axis=1)
        k = int(np.argmax(off))
        if off[k] > 1.0:
            middle = i + 1 + k
            keep[middle] = True
            stack += [(i, middle), (middle, j)]
    return used[keep]
