"""Samples of a source, all in memory."""

from __future__ import annotations

from collections.abc import Sequence

from onnxquant.calibration.feeds import Data, Description, Feed, Input, open_feeds


def read(data: Data, inputs: Sequence[Input], limit: int | None, preprocess: Description | None = None) -> list[Feed]:
    """The samples of ``open_feeds``; it raises what that raises."""
    return list(open_feeds(data, inputs, limit=limit, preprocess=preprocess))
