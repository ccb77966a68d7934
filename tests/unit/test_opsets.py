"""Models of every opset: read, converted where formats and targets need a newer one, and told how where they are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import matmul, model, node, weight

import onnxquant
from onnxquant.errors import ModelError
from onnxquant.graph.io import MAX_OPSET, load
from onnxquant.passes.prepare.opset import ConvertOpset
from onnxquant.targets import targets
from onnxquant.targets.kinds import LAST_DEQUANTIZE_OPSET


def opset_of(path: Path) -> int:
    return next(o.version for o in onnx.load(path).opset_import if not o.domain)


def named(target: str) -> bool:
    return target in {t.name for t in targets()}


@pytest.mark.parametrize("target", ["auto", "ort", "custom"])
def test_the_newest_opset_of_the_installed_onnx_is_read(tmp_path: Path, target: str) -> None:
    report = onnxquant.quantize(
        matmul(64, 64, opset=MAX_OPSET), tmp_path / "out.onnx", bits=4, target=target, samples=1
    )
    assert report.passed and opset_of(tmp_path / "out.onnx") == MAX_OPSET == onnx.defs.onnx_opset_version()


@pytest.mark.skipif(MAX_OPSET <= LAST_DEQUANTIZE_OPSET, reason="onnxruntime has all opsets of the installed onnx")
@pytest.mark.parametrize("options", [{"target": "onnx"}, {"activations": "static"}])
def test_what_onnxruntime_does_not_have_in_an_opset_is_refused_before_a_file_is_written(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    data = {"x": np.ones((4, 3, 64), np.float32)}
    with pytest.raises(ModelError, match=rf"onnxruntime has no \w+Linear of opset {MAX_OPSET} yet; "):
        onnxquant.quantize(matmul(64, 64, opset=MAX_OPSET), tmp_path / "out.onnx", data=data, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [7, 12])
@pytest.mark.parametrize("form", ["int8", "int4", "nf4", "bf16", "int3"])
def test_old_opsets_are_converted_where_a_format_needs_it(tmp_path: Path, opset: int, form: str) -> None:
    report = onnxquant.quantize(matmul(64, 64, opset=opset), tmp_path / "out.onnx", format=form, samples=1)
    assert report.passed and len(report.encoded) == 1


BLOCKS = {"block_size": 32, "symmetric": False}


@pytest.mark.parametrize("opset", [7, 9])
@pytest.mark.parametrize(
    ("target", "form", "parameters"),
    [("auto", "q8_0", {}), ("custom", "q8_0", {}), ("auto", "int8", BLOCKS), ("ort", "int8", BLOCKS)],
    ids=["auto-q8_0", "custom-q8_0", "auto-int8", "ort-int8"],
)
def test_blocks_that_do_not_fill_a_row_are_decoded_in_old_opsets(
    tmp_path: Path, target: str, form: str, parameters: dict[str, Any], opset: int
) -> None:
    nodes = [node("Gather", ["t", "i"], ["g"]), node("MatMul", ["g", "w"], ["h"]), node("Conv", ["h", "k"], ["y"])]
    weights = {"t": weight(20, 27), "w": weight(27, 17), "k": weight(33, 3, 3, 3)}
    proto = model(nodes, {"i": ("int64", ["n", 3, 5])}, {"y": "float32"}, weights, opset)
    out = tmp_path / "out.onnx"
    report = onnxquant.quantize(proto, out, format=form, target=target, samples=1, threads=1, **parameters)
    assert not report.problems and report.encoded


@pytest.mark.parametrize("form", ["nf4", "int3", "q4_k", "f8_e4m3", "bf16"])
def test_the_target_that_a_refusal_names_takes_the_weight(tmp_path: Path, form: str) -> None:
    proto, refused = matmul(256, 256, opset=11), 0
    for target in ("ort", "onnx"):
        try:
            onnxquant.quantize(proto, tmp_path / f"{target}.onnx", format=form, target=target, proof=False)
        except ModelError as error:
            refused += 1
            other = re.search(r"target (\w+) (?:holds them|does)", str(error))
            assert other and named(other[1]), str(error)
            report = onnxquant.quantize(proto, tmp_path / f"{target}2.onnx", format=form, target=other[1], samples=1)
            assert report.passed and len(report.encoded) == 1
    assert refused


def unconvertible(case: str) -> onnx.ModelProto:
    """A model that onnx's version converter refuses, or cuts."""
    imports = [onnx.helper.make_opsetid("", 17)]
    act = onnx.helper.make_function("pkg", "Act", ["x"], ["y"], [node("Relu", ["x"], ["y"])], imports)
    nodes = {
        "an operator of onnxruntime's in the default domain": [
            node("SimplifiedLayerNormalization", ["x", "g"], ["n"], axis=-1, epsilon=1e-5), node("MatMul", ["n", "w"], ["y"]),
        ],
        "a function": [node("MatMul", ["x", "w"], ["h"]), node("Act", ["h"], ["y"], domain="pkg")],
    }[case]  # fmt: skip
    functions = [act] if case == "a function" else []
    constants = {"w": weight(64, 64), "g": np.ones(64, np.float32)}
    used = {name for n in nodes for name in n.input}
    return model(
        nodes,
        {"x": ("float32", ["n", 64])},
        {"y": "float32"},
        {name: values for name, values in constants.items() if name in used},
        functions=functions,
    )


@pytest.mark.parametrize("case", ["an operator of onnxruntime's in the default domain", "a function"])
def test_a_model_that_the_converter_refuses_gets_the_opset_with_its_nodes_as_they_are(
    tmp_path: Path, case: str
) -> None:
    report = onnxquant.quantize(unconvertible(case), tmp_path / "out.onnx", bits=4, target="onnx", samples=1)
    assert report.passed and len(report.encoded) == 1 and opset_of(tmp_path / "out.onnx") == 21
    assert any("with the nodes as they are: onnx's converter failed" in note for note in report.notes)


def test_where_the_newest_opset_does_not_fit_the_first_with_channels_is_tried(tmp_path: Path) -> None:
    """ReduceMean has its axes in an input from opset 18 on, and the converter knows no SimplifiedLayerNormalization."""
    nodes = [
        node("SimplifiedLayerNormalization", ["x", "g"], ["n"], axis=-1, epsilon=1e-5),
        node("MatMul", ["n", "w"], ["h"]),
        node("Softmax", ["h"], ["s"], axis=-1),
        node("MatMul", ["s", "v"], ["m"]),
        node("ReduceMean", ["m"], ["y"], axes=[-1]),
    ]
    constants = {"w": weight(64, 64), "v": weight(64, 64, seed=1), "g": np.ones(64, np.float32)}
    proto = model(nodes, {"x": ("float32", ["n", 64])}, {"y": "float32"}, constants, opset=12)
    recipe = {
        "target": "onnx",
        "format": "int8",
        "per_channel": True,
        "rules": [{"include": "^v$", "target": "onnx", "format": "int4"}],
    }
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", recipe=recipe, samples=1, proof=False)
    assert opset_of(tmp_path / "out.onnx") == 13 and [site.decision.name for site in report.encoded] == ["w"]
    assert any(note.startswith("no opset 21: the conversion is not proven") for note in report.notes)


def test_a_softmax_that_would_mean_something_else_keeps_the_opset_and_the_refusal_says_why(tmp_path: Path) -> None:
    proto = model(
        [
            node("SimplifiedLayerNormalization", ["x", "g"], ["n"], axis=-1, epsilon=1e-5),
            node("MatMul", ["n", "w"], ["h"]),
            node("Softmax", ["h"], ["y"]),
        ],
        {"x": ("float32", ["n", 64])},
        {"y": "float32"},
        {"w": weight(64, 64), "g": np.ones(64, np.float32)},
        opset=12,
    )
    with pytest.raises(ModelError, match=r"nothing to quantize: .*opset stays 12: the conversion to 13 failed"):
        onnxquant.quantize(proto, tmp_path / "out.onnx", format="bf16")


def test_a_converted_model_states_no_shapes_that_it_did_not_state_before() -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("Neg", ["r"], ["y"])],
        {"x": ("float32", [1, 4])},
        {"y": "float32"},
        {"w": weight(4, 4)},
        13,
    )
    proto.graph.value_info.add().CopyFrom(onnx.helper.make_tensor_value_info("h", 1, [1, 4]))
    document = load(proto)
    assert ConvertOpset(21)(document).changed
    assert [value.name for value in document.proto.graph.value_info] == ["h"]
