"""Exclusion: the kernels that have to stay in float for a goal."""

from __future__ import annotations

from collections.abc import Callable, Collection

from onnxquant.activations.candidate import Candidate
from onnxquant.recipe.progress import Progress

# The gain in decibels that leaving one more kernel in float must bring.
_WORTHWHILE_DB = 0.1


def exclude(
    start: Candidate,
    leave_out: Callable[[Candidate, Collection[str]], Candidate],
    is_enough: Callable[[Candidate], bool],
    progress: Progress,
) -> Candidate:
    """Leave as few kernels in float as the goal needs.

    Each kernel is first left in float alone. Those that gain most are then tried first; each stays in float if it
    gains something in addition to those before. In the end, kernels that later ones made superfluous are taken back.
    """
    if is_enough(start):
        return start
    kernels = [u.node.output[0] for u in start.model.placement.kernels]
    gains: list[tuple[float, str]] = []
    for i, name in enumerate(kernels):
        gains.append((leave_out(start, [name]).score.criterion, name))
        progress("ranking kernels", (i + 1) / len(kernels))
    best, excluded, enough = start, list[str](), False
    for i, (_, name) in enumerate(sorted(gains, reverse=True)):
        candidate = leave_out(start, [*excluded, name])
        progress("excluding kernels", (i + 1) / len(kernels))
        if candidate.score.criterion >= best.score.criterion + _WORTHWHILE_DB:
            best, excluded = candidate, [*excluded, name]
            if enough := is_enough(best):
                break
    for name in list(excluded[:-1]) if enough else []:
        fewer = [n for n in excluded if n != name]
        candidate = leave_out(start, fewer)
        if is_enough(candidate):
            best, excluded = candidate, fewer
    return best
