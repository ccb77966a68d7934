"""Values of wrong types, given to public functions: one error of ours names the argument, the value and what is expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEFAULT_MODEL
from every import every

import onnxquant
from onnxquant import interchange
from onnxquant.arguments import checked
from onnxquant.errors import RecipeError
from onnxquant.recipe.declaration import options_of
from onnxquant.recipe.kinds import holds
from onnxquant.recipe.options import Options

WRONG = (
    3, True, 0.5, float("nan"), "a\0b", b"x", {"a": 1}, object(), (3,), [None], ["x", 3], np.zeros(3), np.int64(4), print,
)  # fmt: skip


@every("name", options_of(Options))
def test_options_refuse_values_of_other_types_by_name(name: str) -> None:
    option = options_of(Options)[name]
    may_be_function = name in ("metric", "tune_loss")
    wrong = [v for v in WRONG if not holds(option.plain(v), option.kinds) and not (callable(v) and may_be_function)]
    assert wrong
    for value in wrong:
        with pytest.raises(RecipeError, match=rf"^{name} is [^\n]*, expected ") as refusal:
            Options.make({name: value})
        assert len(str(refusal.value)) < 200


@every(
    ("name", "arguments", "words"),
    [
        ("batch", {"models": DEFAULT_MODEL, "output_dir": "x"}, "models is .*, expected iterable of str or Path"),
        ("batch", {"models": [DEFAULT_MODEL], "output_dir": "x", "jobs": "2"}, "jobs is '2', expected int"),
        ("benchmark", {"data": 3}, "data is 3, expected str, Path, mapping, iterable or function"),
        ("calibrate", {"model": 3}, "model is 3, expected str or Path"),
        ("decode", {"encoded": 3}, "encoded is 3, expected Encoded"),
        ("dequantize", {"path": DEFAULT_MODEL, "output": None}, "output is None, expected str or Path"),
        ("encode", {"array": np.zeros((2, 32)), "format": 3}, "format is 3, expected str or Format"),
        ("hub", {"folder": 3}, "folder is 3, expected str or Path"),
        ("info", {"path": True}, "path is True, expected str or Path"),
        ("load", {"path": DEFAULT_MODEL, "custom_op_library": 3}, "custom_op_library is 3, expected str, Path or .*"),
        ("move", {"source": DEFAULT_MODEL, "target": "x", "force": "yes"}, "force is 'yes', expected bool"),
        ("profile", {"data": 3}, "data is 3, expected str, Path, mapping, iterable or function"),
        ("quantize", {"source": DEFAULT_MODEL, "recipe": 5}, "recipe is 5, expected str, Path or mapping"),
        ("quantize", {"source": DEFAULT_MODEL, "include": 3}, "include is 3, expected list or str"),
        ("validate", {"original": DEFAULT_MODEL, "quantized": b"x"}, "quantized is b'x', expected str or Path"),
        ("verify", {"path": 3}, "path is 3, expected str or Path"),
    ],
)
def test_public_functions_refuse_arguments_of_other_types(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=f"^{words}$"):
        getattr(onnxquant, name)(**arguments)


_WEIGHT = np.ones((4, 128), np.float32)
_TERNARY = onnxquant.encode(_WEIGHT, "i2_s")


@every(
    ("function", "arguments", "words"),
    [
        (interchange.contents, {"path": 3}, "path is 3, expected str or Path"),
        (interchange.convert, {"source": 3, "output": "x"}, "source is 3, expected str, Path or Checkpoint"),
        (interchange.convert, {"source": "x", "output": "y", "shard_bytes": "2GB"}, "shard_bytes is '2GB', expected int"),
        (interchange.open_checkpoint, {"path": b"x"}, "path is b'x', expected str or Path"),
        (interchange.quantize, {"source": "x", "output": "y", "include": 3}, "include is 3, expected str or sequence of str"),
        (interchange.quantize, {"source": "x", "output": "y", "format": None}, "format is None, expected str or Format"),
        (interchange.save, {"output": "x", "tensors": [_WEIGHT]}, r"tensors is .*, expected mapping"),
        (interchange.save, {"output": "x", "tensors": {3: _WEIGHT}}, "name 3: expected text"),
        (interchange.save, {"output": "x", "tensors": {}, "metadata": {"a": {1}}}, "metadata is no JSON: .*"),
        (interchange.transplant, {"model": 3, "checkpoint": "x", "output": "y"}, "model is 3, expected str or Path"),
        (interchange.verify, {"path": None}, "path is None, expected str or Path"),
        (onnxquant.QuantizedLinear, {"weight": _WEIGHT}, r"weight is .*, expected Encoded"),
        (onnxquant.QuantizedLinear.from_linear, {"linear": "w"}, "weight is 'w', expected an array of numbers"),
        (onnxquant.QuantizedLinear.from_linear, {"linear": _WEIGHT, "format": 4}, "format is 4, expected str or Format"),
        (onnxquant.QuantizedLinear.from_linear, {"linear": _WEIGHT, "bias": "b"}, "bias is 'b', expected an array of .*"),
        (onnxquant.QuantizedLinear.from_linear(_WEIGHT), {"x": [None]}, r"x is \[None\], expected an array of numbers"),
        (onnxquant.quantize_row_to_int8, {"x": {"a": 1}}, "x is .*, expected an array of numbers"),
        (onnxquant.matmul_i2s, {"x": _WEIGHT, "weight": _WEIGHT}, r"weight is .*, expected Encoded"),
        (onnxquant.matmul_i2s_i8, {"rows": _WEIGHT, "weight": _TERNARY}, "rows is .*, expected Int8Rows"),
        (onnxquant.Int8Rows, {"codes": _WEIGHT, "scales": _WEIGHT[0]}, "codes is float32 of rank 2, expected int8 of rank 2"),
    ],
)  # fmt: skip
def test_functions_on_files_of_tensors_and_layers_refuse_arguments_of_other_types(
    function: Callable[..., object], arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=f"^{words}$"):
        function(**arguments)


@every(
    ("hint", "value", "words"),
    [
        (bool, "yes", "flag is 'yes', expected bool"),
        (bool, 1, "flag is 1, expected bool"),
        (int, True, "flag is True, expected int"),
        (float, "4", "flag is '4', expected float"),
        (str | Path | None, 3, "flag is 3, expected str or Path"),
        (str | Path, "a\0b", "flag is 'a\\x00b', expected text without NUL"),
        (str | Iterable[str], ["a", 3], "flag is ['a', 3], expected str or iterable of str"),
        (Iterable[str], "a", "flag is 'a', expected iterable of str"),
        (str | Mapping[str, Any] | None, [1], "flag is [1], expected str or mapping"),
        (Callable[[], int], 3, "flag is 3, expected function"),
    ],
)
def test_messages_say_what_was_given_and_what_is_expected(hint: Any, value: Any, words: str) -> None:
    def function(flag: Any = None) -> None: ...

    function.__annotations__["flag"] = hint
    with pytest.raises(RecipeError, match=f"^{re.escape(words)}$"):
        checked(function)(value)


def test_values_of_declared_types_reach_the_function_as_they_are() -> None:
    def function(path: str | Path, *rest: int, names: Iterable[str] = (), **more: object) -> tuple[object, ...]:
        return path, rest, tuple(names), more

    numbers = np.int64(4), 5
    assert checked(function)(Path("x"), *numbers, names=(n for n in "ab"), other=3) == (
        Path("x"), numbers, ("a", "b"), {"other": 3},
    )  # fmt: skip


def test_numbers_of_numpy_and_paths_are_taken_for_plain_values(tmp_path: Path) -> None:
    options = Options.make(
        {"samples": np.int64(2), "bits": np.int32(4), "report": [tmp_path / "r.html"], "judge": {"y"}}
    )
    assert options.samples == 2 and type(options.samples) is int and type(options.bits) is int
    assert options.report == (str(tmp_path / "r.html"),) and options.judge == ("y",)
