"""The preparation of samples, as a file records it, and remarks on samples that differ from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
import onnx

from onnxquant.calibration.feeds.base import Assumption, Feed, Input, SampleOrigin
from onnxquant.errors import ModelError
from onnxquant.graph.names import PREPARATION
from onnxquant.json_data import OPTIONAL, JsonValue, from_json, to_object

Range = tuple[float, float]
# Values beyond the recorded ones by this factor would be clipped; those that are smaller by that one use few codes.
_LARGER, _SMALLER = 4.0, 16.0
# The part of a range that counts as values below zero, and the largest value that is no pixel.
_BELOW, _LARGEST_VALUE = 0.2, 16.0


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The way from samples to the inputs that a file was made with.

    Attributes:
        kind: kind of the samples; None: arrays.
        preprocess: steps, as a description of them.
        assumption: part of the steps that nobody has confirmed; None: there is none.
        ranges: lowest and highest value of each input of floats or bytes.
    """

    kind: str | None = field(default=None, metadata=OPTIONAL)
    preprocess: Mapping[str, JsonValue] | None = field(default=None, metadata=OPTIONAL)
    assumption: Assumption | None = field(default=None, metadata=OPTIONAL)
    ranges: Mapping[str, Range] = field(default_factory=dict)

    @classmethod
    def read(cls, proto: onnx.ModelProto) -> Preparation | None:
        """The entry of a model; None where it has none.

        Raises:
            ModelError: the entry is damaged.
        """
        text = next((e.value for e in proto.metadata_props if e.key == PREPARATION), "")
        try:
            return from_json(cls, json.loads(text)) if text else None
        except (ValueError, RecursionError) as error:
            raise ModelError(f"the model's {PREPARATION!r} metadata is damaged: {error}") from None

    def text(self) -> str:
        """The entry of a model."""
        return json.dumps(to_object(self), separators=(",", ":"))

    def differences(self, origin: SampleOrigin) -> list[str]:
        """A remark on samples of the same kind that are prepared otherwise."""
        if self.kind is None or self.kind != origin.kind or self.preprocess is None or origin.preprocess is None:
            return []
        pairs = {k: (origin.preprocess.get(k), self.preprocess.get(k)) for k in {**self.preprocess, **origin.preprocess}}
        words = [(key, _value(key, a), _value(key, b)) for key, (a, b) in pairs.items()]
        changed = [f"{key}={value} instead of {recorded}" for key, value, recorded in words if value != recorded]
        if not changed:
            return []
        return [
            f"samples are prepared otherwise than those that the file was made with: {', '.join(changed)}; "
            f"leave out --preprocess to prepare them alike"
        ]

    def strange_ranges(self, feeds: Iterable[Feed]) -> list[str]:
        """A remark on each input whose values lie far from the recorded ones."""
        return [
            f"input {name!r} holds {_shown(bounds)}, where the file was made with {_shown(self.ranges[name])}: are the "
            f"samples prepared alike?"
            for name, bounds in ranges_of(feeds).items()
            if name in self.ranges and _is_far(bounds, self.ranges[name])
        ]


def ranges_of(feeds: Iterable[Feed]) -> dict[str, Range]:
    """Lowest and highest value of each input of floats or bytes."""
    ranges: dict[str, Range] = {}
    for feed in feeds:
        for name, array in feed.items():
            if isinstance(array, np.ndarray) and array.size and (array.dtype.kind == "f" or array.dtype == np.uint8):
                low, high = ranges.get(name, (np.inf, -np.inf))
                ranges[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return ranges


def unscaled_pixels(feeds: Iterable[Feed], inputs: Iterable[Input]) -> list[str]:
    """A remark on each input of images of floats that holds whole numbers as pixels have them."""
    samples, remarks = list(feeds), []
    for spec in inputs:
        is_image = len(spec.shape) == 4 and {1, 3} & {spec.shape[1], spec.shape[-1]}
        arrays = [feed[spec.name] for feed in samples if spec.name in feed]
        if not is_image or "float" not in spec.element or not arrays:
            continue
        low, high = ranges_of({spec.name: array} for array in arrays)[spec.name]
        if low >= 0 and _LARGEST_VALUE < high <= 255 and all((array == np.rint(array)).all() for array in arrays):
            remarks.append(
                f"input {spec.name!r} holds whole numbers from {low:g} to {high:g}, as pixels do; most models take 0 to 1 or "
                f"normalized values: see what this one was trained with"
            )
    return remarks


def _is_far(bounds: Range, recorded: Range) -> bool:
    """Whether values are much larger or smaller than the recorded ones, or only one of both goes below zero."""
    largest, known = (max(map(abs, pair)) for pair in (bounds, recorded))
    if not largest or not known:
        return False
    is_below, was_below = (low < -_BELOW * high for low, high in (bounds, recorded))
    return largest > _LARGER * known or known > _SMALLER * largest or is_below != was_below


def _shown(bounds: Range) -> str:
    digits = 2 - int(np.floor(np.log10(max(map(abs, bounds)) or 1.0)))
    return " to ".join(f"{round(value, digits) + 0.0:.12g}" for value in bounds)


def _value(key: str, value: JsonValue) -> str:
    """A step as messages show it; a tokenizer may have moved."""
    if isinstance(value, (list, tuple)):
        return ",".join(_value(key, entry) for entry in value)
    if key == "tokenizer":
        return PurePath(str(value)).name
    return f"{value:.6g}" if isinstance(value, float) else str(value)
