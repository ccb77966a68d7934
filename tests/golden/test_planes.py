"""Every format against the planes it was released with. The files are never regenerated (see golden_planes)."""

from __future__ import annotations

import json
from typing import Any

import golden_planes
import numpy as np
import pytest

from onnxquant import decode, encode
from onnxquant.formats import format_named, formats
from onnxquant.formats.base import Encoded


@pytest.mark.parametrize("name", [f.name for f in formats()])
def test_planes_are_those_of_the_release(name: str) -> None:
    weight = golden_planes.weight()
    cases: list[dict[str, Any]] = json.loads((golden_planes.FOLDER / f"{name}.json").read_text())
    assert cases
    for case in cases:
        encoded = encode(weight, name, **case["parameters"])
        assert golden_planes.as_data(encoded) == case["planes"], case["parameters"]
        # And planes of a file decode to what they did, whatever the encoder does.
        form = format_named(name, **{**case["parameters"], **encoded.format.settings()})
        planes = {
            key: np.frombuffer(bytes.fromhex(p["hex"]), np.dtype(p["dtype"])).reshape(p["shape"])
            for key, p in case["planes"].items()
        }
        read = form.decode(Encoded(form, *weight.shape, planes))
        np.testing.assert_array_equal(read, decode(encoded))


def test_every_file_belongs_to_a_format() -> None:
    assert {p.stem for p in golden_planes.FOLDER.glob("*.json")} == {f.name for f in formats()}
