"""Every target x format x kind of site: the lowered model computes what the decoded weight says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import onnxquant
from onnxquant import formats
from onnxquant.artifact.stored import plane_index, read_encoded, records
from onnxquant.formats.base import ScaledCodes
from onnxquant.graph.io import load, nodes
from onnxquant.graph.sites import find
from onnxquant.passes.pipeline import prepare
from onnxquant.targets import targets

MODELS = {
    "matmul": lambda: graphs.matmul(),
    "matmul_opset21": lambda: graphs.matmul(64, 50, opset=21),
    "matmul_half": lambda: graphs.matmul(64, 48, dtype="float16"),
    "gemm": lambda: graphs.gemm(),
    "gemm_plain": lambda: graphs.gemm(100, 48, trans_b=0, alpha=1.0, beta=1.0),
    "gather": lambda: graphs.gather(),
    "tied": lambda: graphs.tied(),
    "conv": lambda: graphs.conv(),
    "conv_depthwise": lambda: graphs.conv(32, 32, 32),
    "conv_transpose": lambda: graphs.conv(8, 24, 1, "ConvTranspose"),
    "conv_transpose_grouped": lambda: graphs.conv(8, 24, 4, "ConvTranspose"),
    "lstm": lambda: graphs.lstm(),
    "if": lambda: graphs.branches(),
    # Whole blocks of 64, which formats with a table demand.
    "matmul_blocks": lambda: graphs.matmul(320, 50),
    "matmul_blocks_half": lambda: graphs.matmul(128, 64, dtype="float16"),
    "gemm_bias": lambda: graphs.gemm(128, 48, alpha=1.0, beta=1.0),
    "gather_blocks": lambda: graphs.gather(50, 192),
    "conv_blocks": lambda: graphs.conv(64, 24),
}
VARIANTS: list[dict[str, Any]] = [{"format": f.name} for f in formats()]
VARIANTS += [
    {"format": f, **extra}
    for f in ("int8", "int4", "int2")
    for extra in (
        {"symmetric": False},
        {"per_channel": True},
        {"per_channel": False},
        {"block_size": 16, "symmetric": False},
        {"block_size": 256},
    )
]
VARIANTS += [{"format": f"int{b}", "symmetric": False, "block_size": 32} for b in (3, 5, 6)]
VARIANTS += [{"format": f"int{b}", "symmetric": False, "zero_point": "float"} for b in (8, 4, 3)]


def _id(options: dict[str, Any]) -> str:
    return "-".join(f"{k[:4]}{v}" if k != "format" else str(v) for k, v in options.items())


def _feeds(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    generator = graphs.rng(11)
    feeds: dict[str, NDArray[Any]] = {}
    for spec in proto.graph.input:
        shape = [d.dim_value or 2 for d in spec.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(spec.type.tensor_type.elem_type)
        if dtype == np.bool_:
            feeds[spec.name] = np.array(True)
        elif dtype.kind == "i":
            feeds[spec.name] = generator.integers(-40, 40, shape).astype(dtype)
        else:
            feeds[spec.name] = generator.standard_normal(shape).astype(dtype)
    return feeds


def _run(path: Path | bytes, feeds: dict[str, NDArray[Any]], *, optimize: bool = True) -> NDArray[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path if isinstance(path, bytes) else str(path), options)
    out: NDArray[Any] = session.run(None, feeds)[0]
    return out


def _float_compute(path: Path) -> bytes:
    proto = onnx.load(path)
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    return proto.SerializeToString()


def _twin(source: Path, quantized: Path) -> onnx.ModelProto:
    """The prepared original with decoded weights, made here without the code under test's twin."""
    original, lowered = load(source), load(quantized)
    prepare(original)
    index = plane_index(lowered.proto)
    decoded = {r.name: (r, read_encoded(lowered, r, index)) for r in records(lowered.proto)}
    for site in find(original)[0]:
        if site.name in decoded:
            record, encoded = decoded[site.name]
            codes = encoded.planes.get("codes")
            if codes is None or not isinstance(encoded.format, ScaledCodes) or encoded.format.permuted:
                # Their decoders are checked against other projects' in tests/golden.
                matrix = encoded.format.decode(encoded).astype(np.float64)
            else:
                form: Any = encoded.format
                group = form.group or (encoded.cols if form.group == 0 else None)
                zero = _spread(encoded.planes.get("zero_points", np.array([[form.offset]])), group, encoded.cols)
                scale = _spread(encoded.planes["scales"], group, encoded.cols)
                matrix = (codes.astype(np.float64) - zero) * scale.astype(np.float64)
            values = site.view.restore(matrix).astype(record.dtype)
            site.tensor.CopyFrom(onnx.numpy_helper.from_array(values, site.tensor.name))
    for tensor in [t for g in _graphs(original.proto.graph) for t in g.initializer]:
        original.inline(tensor)
    return original.proto


def _spread(side: NDArray[Any], group: int | None, cols: int) -> NDArray[Any]:
    return side if group is None or side.shape == (1, 1) else np.repeat(side, group, axis=1)[:, :cols]


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    from onnxquant.graph.io import graphs as all_graphs

    return list(all_graphs(graph))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("target", [t.name for t in targets()])
@pytest.mark.parametrize("options", VARIANTS, ids=_id)
def test_lowered_model_computes_the_decoded_weight(
    kind: str, target: str, options: dict[str, Any], tmp_path: Path
) -> None:
    proto = MODELS[kind]()
    source = graphs.save(proto, tmp_path / "source.onnx")
    output = tmp_path / "out.onnx"
    try:
        report = onnxquant.quantize(source, output, target=target, proof=False, **options)
    except onnxquant.ModelError as error:
        # Every site was refused: then each refusal says why, and nothing was written.
        assert "nothing to quantize" in str(error)
        assert target in str(error) or "no whole number of blocks" in str(error)
        assert not output.exists()
        return
    assert report.predicted_bytes == pytest.approx(report.output_bytes, rel=0.01)
    feeds = _feeds(proto)
    expected = _run(_twin(source, output).SerializeToString(), feeds).astype(np.float64)
    tolerance = (2e-2 if "half" in kind else 2e-5) * np.abs(expected).max()
    exact = _float_compute(output)
    # Target dynamic rounds activations whatever it is asked for; its products are compared as deployed, below.
    for optimize in (True, False) if target != "dynamic" else ():
        np.testing.assert_allclose(_run(exact, feeds, optimize=optimize), expected, rtol=0, atol=tolerance)
    # As deployed, products round activations to 8 bits: near, and (where there is a product) not suspiciously equal.
    deployed = _run(output, feeds)
    assert deployed.shape == expected.shape
    assert np.abs(deployed - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("target", [t.name for t in targets()])
def test_planes_read_back_are_the_planes_encoded(target: str, tmp_path: Path) -> None:
    for options in VARIANTS:
        source = graphs.save(graphs.matmul(100, 50, opset=21), tmp_path / "source.onnx")
        output = tmp_path / f"{_id(options)}.onnx"
        try:
            onnxquant.quantize(source, output, target=target, proof=False, **options)
        except onnxquant.ModelError:
            continue
        document = load(output)
        (record,) = records(document.proto)
        read = read_encoded(document, record)
        w = onnx.numpy_helper.to_array(onnx.load(source).graph.initializer[0]).T
        encoded = read.format.encode(w)
        for plane, values in encoded.planes.items():
            np.testing.assert_array_equal(read.planes[plane], values, err_msg=f"{options} {plane}")
