"""ONNX models of many independent products of one input: ours, and ONNX Runtime's own quantized kernels."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnxquant
from onnxquant import runtime
from onnxquant.graph.names import DOMAIN, MICROSOFT
from onnxquant.native import library as native

Planes = dict[str, NDArray[Any]]


class RefusedError(Exception):
    """A kernel does not take a weight."""


def settle() -> None:
    """Wait until worker threads stop spinning: whoever is timed next must not pay for them."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(0.002)
        if time.process_time() - before < 0.0004:
            return


@dataclass
class Session:
    """A session of ``copies`` products with distinct weights; ``isa`` caps our kernels while it runs."""

    session: ort.InferenceSession
    copies: int
    nbytes: int
    isa: str | None = None
    bindings: dict[int, ort.IOBinding] = field(default_factory=dict)

    def run(self, m: int, warm: int, runs: int) -> list[float]:
        """Seconds per product of each timed run, on M rows."""
        binding = self.bindings.get(m) or self._bind(m)
        seconds = []
        if self.isa:
            native.set_isa(self.isa)
        for i in range(-warm, runs):
            begin = time.perf_counter()
            self.session.run_with_iobinding(binding)
            if i >= 0:
                seconds.append((time.perf_counter() - begin) / self.copies)
        if self.isa:
            native.set_isa(None)
        settle()
        return seconds

    def _bind(self, m: int) -> ort.IOBinding:
        binding = self.session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(activations(m, _width(self.session))))
        for output in self.session.get_outputs():
            room = np.empty((m, output.shape[-1]), np.float32)
            binding.bind_ortvalue_output(output.name, ort.OrtValue.ortvalue_from_numpy(room))
        self.bindings[m] = binding
        return binding


def activations(m: int, k: int) -> NDArray[np.float32]:
    """The same for everyone."""
    return np.random.default_rng(1).standard_normal((m, k), np.float32)


def weights(k: int, n: int) -> NDArray[np.float32]:
    """A weight as MatMul stores it."""
    return np.random.default_rng(0).standard_normal((k, n), np.float32) * np.float32(0.02)


def product(k: int, n: int, op: str, planes: Planes, **attributes: int) -> onnx.ModelProto:
    """A model of one node."""
    domain = MICROSOFT if op != "MatMul" else ""
    node = helper.make_node(op, ["x", *planes], ["y"], domain=domain)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(attributes.items()))
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["m", width]) for name, width in (("x", k), ("y", n))
    )
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(p, name) for name, p in planes.items()])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def nbits(bits: int, block: int) -> Callable[[int, int], onnx.ModelProto]:
    """MatMulNBits with int8 activations, the level at which it is fastest."""

    def make(k: int, n: int) -> onnx.ModelProto:
        generator, blocks = np.random.default_rng(0), -(-k // block)
        codes = generator.integers(0, 256, (n, blocks, block * bits // 8), dtype=np.uint8)
        planes: Planes = {"codes": codes, "scales": generator.random((n, blocks), np.float32)}
        return product(k, n, "MatMulNBits", planes, K=k, N=n, bits=bits, block_size=block, accuracy_level=4)

    return make


def dynamic(*, per_column: bool) -> Callable[[int, int], onnx.ModelProto]:
    """DynamicQuantizeMatMul with signed weights, what onnxruntime's quantize_dynamic becomes."""

    def make(k: int, n: int) -> onnx.ModelProto:
        codes = np.random.default_rng(0).integers(-127, 128, (k, n), dtype=np.int8)
        scales = np.full(n, 0.01, np.float32) if per_column else np.array(0.01, np.float32)
        return product(k, n, "DynamicQuantizeMatMul", {"codes": codes, "scales": scales})

    return make


def bnb4(kind: int) -> Callable[[int, int], onnx.ModelProto]:
    """MatMulBnb4, blocks of 64; kind 0 is FP4, 1 is NF4."""

    def make(k: int, n: int) -> onnx.ModelProto:
        generator = np.random.default_rng(0)
        codes = generator.integers(0, 256, n * k // 2, dtype=np.uint8)
        planes: Planes = {"codes": codes, "scales": generator.random(n * k // 64, np.float32)}
        return product(k, n, "MatMulBnb4", planes, K=k, N=n, block_size=64, quant_type=kind)

    return make


FLOAT = "float MatMul"
BASELINES: dict[str, Callable[[int, int], onnx.ModelProto]] = {
    FLOAT: lambda k, n: product(k, n, "MatMul", {"w": weights(k, n)}),
    "MatMulNBits 2 bits": nbits(2, 32),
    "MatMulNBits 2 bits, block 128": nbits(2, 128),
    "MatMulNBits 4 bits": nbits(4, 32),
    "MatMulNBits 8 bits": nbits(8, 32),
    "DynamicQuantizeMatMul tensor": dynamic(per_column=False),
    "DynamicQuantizeMatMul column": dynamic(per_column=True),
    "MatMulBnb4 NF4": bnb4(1),
    "MatMulBnb4 FP4": bnb4(0),
}


def ours(name: str, k: int, n: int, compute: str | None) -> onnx.ModelProto:
    """A product in one of our formats, made the way users make it.

    Args:
        name: name of the format.
        k: contracted channels.
        n: output channels.
        compute: value of the op's attribute; None: the op's own default.

    Raises:
        RefusedError: target ``custom`` does not take the weight.
    """
    source = product(k, n, "MatMul", {"w": weights(k, n)})
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "quantized.onnx"
        try:
            onnxquant.quantize(source, output, format=name, target="custom", proof=False)
        except onnxquant.OnnxQuantError as error:
            raise RefusedError(str(error)) from None
        proto = onnx.load(output)
    own = [node for node in proto.graph.node if node.domain == DOMAIN]
    if not own:
        raise RefusedError("no op of ours in the file")
    for node in own if compute else []:
        others = [a for a in node.attribute if a.name != "compute"]
        del node.attribute[:]
        node.attribute.extend([*others, helper.make_attribute("compute", compute)])
    return proto


def weight_bytes(proto: onnx.ModelProto) -> int:
    """Number of bytes that a kernel has to read for one product."""
    return sum(numpy_helper.to_array(t).nbytes for t in proto.graph.initializer)


def open_copies(proto: onnx.ModelProto, copies: int, threads: int) -> Session:
    """A session on a graph of several copies of a one-product model, each with weights at addresses of its own."""
    whole = onnx.ModelProto(ir_version=proto.ir_version, functions=proto.functions, opset_import=proto.opset_import)
    graph = whole.graph
    graph.name = proto.graph.name
    graph.input.extend(proto.graph.input)
    for i in range(copies):
        for tensor in proto.graph.initializer:
            _add_rolled(graph.initializer.add(), tensor, i)
        for node in proto.graph.node:
            graph.node.add().CopyFrom(node)
            added = graph.node[-1]
            added.name = f"{node.name or node.op_type}.{i}"
            added.input[:] = [name if name in ("x", "") else f"{name}.{i}" for name in node.input]
            added.output[:] = [f"{name}.{i}" for name in node.output]
        for output in proto.graph.output:
            graph.output.add().CopyFrom(output)
            graph.output[-1].name = f"{output.name}.{i}"
    session = runtime.open_session(whole.SerializeToString(), runtime.session_options(threads=threads))
    return Session(session, copies, weight_bytes(proto))


def relative_error(session: Session, k: int, n: int) -> float:
    """Relative error of our product, against float: a benchmark of wrong results is worth nothing."""
    x = activations(2, k)
    expected = x.astype(np.float64) @ weights(k, n)
    product = session.session.run(None, {"x": x})[0]
    return float(np.linalg.norm(product - expected) / np.linalg.norm(expected))


def _add_rolled(out: onnx.TensorProto, tensor: onnx.TensorProto, by: int) -> None:
    """The same planes in another order of rows or tiles: ONNX Runtime keeps prepacked weights of equal content once."""
    out.name, out.data_type, raw = f"{tensor.name}.{by}", tensor.data_type, numpy_helper.to_array(tensor).tobytes()
    out.dims[:] = tensor.dims
    shift = by % tensor.dims[0] * (len(raw) // tensor.dims[0]) if tensor.dims and tensor.dims[0] else 0
    out.raw_data = raw[shift:] + raw[:shift]


def _width(session: ort.InferenceSession) -> int:
    return int(session.get_inputs()[0].shape[-1])
