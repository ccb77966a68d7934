"""Plots of a report: what is not seen in their data."""

from __future__ import annotations

from itertools import combinations

import pytest

from onnxquant.report.plots import label_offsets


@pytest.mark.parametrize("points", [[(3.4, 1.62), (3.4, 1.64), (3.4, 1.62), (6.2, 1.0)], [(1.0, 1.0), (1.0, 1.0)]])
def test_labels_of_points_that_lie_together_do_not_cover_each_other(points: list[tuple[float, float]]) -> None:
    """Of files of equal size and speed."""
    span = max(speed for _, speed in points) - min(speed for _, speed in points)
    heights = [
        speed * 110 / (span or 1) + offset for (_, speed), offset in zip(points, label_offsets(points), strict=True)
    ]
    near = [(a, b) for a, b in combinations(range(len(points)), 2) if abs(points[a][0] - points[b][0]) < 1]
    assert near and all(abs(heights[a] - heights[b]) > 9.9 for a, b in near)


def test_labels_of_points_apart_stand_right_above_them() -> None:
    assert label_offsets([(1.0, 1.0), (2.0, 2.0), (1.0, 3.0)]) == [4.0, 4.0, 4.0]
