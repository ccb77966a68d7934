"""GPTQ: codes chosen one column after the other, each making up for what the columns before it were rounded wrongly by.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv 2210.17323:
least (W - Q) H (W - Q)^T per row, H the Gram matrix of the inputs; columns of large diagonal first, 1 % of the mean diagonal
added to it, updates of later columns in blocks of 128. Written as Chee et al. 2023, arXiv 2307.13304 ("QuIP", section
3.1 and theorem 6), show it to be: with H = R R^T, R upper triangular, column k is rounded to the code nearest to

    W[:, k] + (W - Q)[:, :k] R[:k, k] / R[k, k]

which needs no inverse of H.

Few inputs say little of those to come. What is added to the diagonal is then more: as much as shrinks H towards a multiple
of the identity, under which nearest codes are best, by the share that estimates covariances best (Chen et al. 2010,
"Shrinkage Algorithms for MMSE Covariance Estimation", arXiv 0907.4698, equation 23: OAS). Without that, codes that fit 64
inputs of 256 white columns have 2.3 times the error of nearest ones on others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import WeightError
from onnxquant.formats.affine import Affine
from onnxquant.formats.base import Encoded, Format

Doubles = NDArray[np.float64]
# Values of one column of every group [groups, rows] and which column that is [groups] -> the nearest ones that codes have.
Nearest = Callable[[Doubles, NDArray[np.intp]], Doubles]
DAMPING = 0.01
# Share of the identity where nothing else is known: the factor is then diagonal, but for rounding.
_MOST = 1 - 1e-9
_BLOCK = 128
# Rows that are solved at a time: bounds the memory for tall weights.
_ROWS = 4096


def supports(form: Format) -> bool:
    """Whether ``solve`` knows the format: symmetric integers with one scale per row, or one for the tensor."""
    return isinstance(form, Affine) and form.symmetric and form.group in (0, None) and not form.permuted


def solve(encoded: Encoded, weight: NDArray[np.floating], gram: Doubles, samples: int | None = None) -> Encoded:
    """Other codes for an encoded weight, with its own scales, that change its products less.

    Args:
        encoded: the weight rounded to nearest, in a format that ``supports`` knows.
        weight: the float matrix [rows, cols].
        gram: sum of x x^T over inputs x of the product, [cols, cols]; or one per group [groups, cols, cols], each for
            ``rows / groups`` rows that follow each other.
        samples: how many inputs it is of; None: enough.

    Returns:
        the weight of which no row has a larger (w - q) H (w - q)^T than it had rounded to nearest.

    Raises:
        WeightError: the format is not supported, or the Gram matrix does not fit the weight.
    """
    form = encoded.format
    if not isinstance(form, Affine) or not supports(form):
        raise WeightError(f"format {form.name} {form.settings()}: has no solver; expected symmetric scales per row")
    rows, cols = weight.shape
    gram = np.asarray(gram, np.float64)
    gram = gram[None] if gram.ndim == 2 else gram
    if gram.shape[1:] != (cols, cols) or not len(gram) or rows % len(gram):
        raise WeightError(f"Gram matrix of shape {list(gram.shape)}: does not fit a weight of shape {[rows, cols]}")
    if not weight.size:
        return encoded
    codes = encoded.planes["codes"].copy()
    scales = np.broadcast_to(encoded.planes["scales"].astype(np.float64), (rows, 1))
    factors = Factors(gram, samples)
    step = _ROWS if len(gram) == 1 else rows
    for start in range(0, rows, step):
        part = slice(start, start + step)
        # Columns before rows: a column of all rows is what is worked on.
        before, float_, scale = (
            a.astype(np.float64).reshape(len(gram), -1, a.shape[1]).swapaxes(1, 2)
            for a in (codes[part], weight[part], scales[part])
        )
        before -= form.offset
        after = _codes(form, factors, float_, scale)
        worse = factors.losses(float_ - after * scale) >= factors.losses(float_ - before * scale)
        after = np.where(worse[:, None], before, after) + form.offset
        codes[part] = after.swapaxes(1, 2).reshape(-1, cols)
    return replace(encoded, planes={**encoded.planes, "codes": codes})


def _codes(form: Affine, factors: Factors, weight: Doubles, scale: Doubles) -> Doubles:
    """Signed codes [groups, cols, rows]."""
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)[:, 0]
    least, most = form.bottom - form.offset, form.top - form.offset

    def nearest(values: Doubles, columns: NDArray[np.intp]) -> Doubles:
        return np.clip(np.rint(values * inverse), least, most) * scale[:, 0]

    return np.rint(factors.descend(weight, nearest) * inverse[:, None])


class Factors:
    """Gram matrices [groups, cols, cols], factored in the order in which columns are rounded.

    Each is divided by its largest diagonal element, which changes no solution. What holds NaN or infinity, or nothing but
    zeros, says nothing: the columns of such a group are rounded by themselves.
    """

    def __init__(self, gram: Doubles, samples: int | None = None) -> None:
        diagonal = np.diagonal(gram, axis1=1, axis2=2)
        largest = diagonal.max(1)
        told = np.isfinite(gram).all((1, 2)) & (largest > 0)
        self._gram = np.divide(gram, largest[:, None, None], out=np.zeros_like(gram), where=told[:, None, None])
        diagonal = np.maximum(np.diagonal(self._gram, axis1=1, axis2=2), 0)
        self._order = np.argsort(-diagonal, axis=1, kind="stable")
        ordered = np.take_along_axis(self._gram, self._order[:, :, None], 1)
        ordered = np.take_along_axis(ordered, self._order[:, None], 2)
        share = _share(self._gram, samples)
        ridge = np.maximum(DAMPING, share / (1 - share)) * diagonal.mean(1)
        self._feedback = _upper(ordered, np.where(told, ridge, 1.0))
        self._feedback /= np.diagonal(self._feedback, axis1=1, axis2=2)[:, None].copy()

    def losses(self, error: Doubles) -> Doubles:
        """Per row e of errors [groups, cols, rows], e H e^T: [groups, rows]."""
        found: Doubles = ((self._gram @ error) * error).sum(1)
        return found

    def descend(self, weight: Doubles, nearest: Nearest) -> Doubles:
        """Values that codes have, [groups, cols, rows], for a weight of that shape."""
        goals = np.take_along_axis(weight, self._order[:, :, None], 1)
        error = np.empty_like(goals)
        for start in range(0, goals.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            wanted = goals[:, block] + self._feedback[:, :start, block].swapaxes(1, 2) @ error[:, :start]
            within = np.ascontiguousarray(self._feedback[:, block, block].swapaxes(1, 2))
            for i in range(wanted.shape[1]):
                k = start + i
                made_up = within[:, i, None, :i] @ error[:, start:k]
                error[:, k] = goals[:, k] - nearest(wanted[:, i] + made_up[:, 0], self._order[:, k])
        out = np.empty_like(goals)
        np.put_along_axis(out, self._order[:, :, None], goals - error, 1)
        return out


def _share(grams: Doubles, samples: int | None) -> Doubles:
    """Of the identity in the shrunk matrix (1 - share) H + share tr(H) / p, per group, from p and how unequal H is."""
    if samples is None:
        return np.zeros(len(grams))
    p = grams.shape[1]
    trace, squares = np.einsum("gkk->g", grams), np.einsum("gkl,gkl->g", grams, grams)
    evidence = (1 - 2 / p) * squares + trace**2
    unequal = (samples + 1 - 2 / p) * (squares - trace**2 / p)
    share: Doubles = np.full_like(trace, _MOST)
    np.divide(evidence, unequal, out=share, where=_MOST * unequal > evidence)
    return share


def _upper(matrices: Doubles, damping: Doubles) -> Doubles:
    """R with R R^T = H + damping: Cholesky's factor from the last column on; damped more where there is none."""
    damped = matrices.copy()
    np.einsum("gkk->gk", damped)[...] += damping[:, None]
    try:
        return np.linalg.cholesky(damped[:, ::-1, ::-1])[:, ::-1, ::-1].astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        if len(matrices) > 1:  # not all of them need it
            return np.concatenate([_upper(m[None], d[None]) for m, d in zip(matrices, damping, strict=True)])
        return _upper(matrices, 10 * damping)
