"""The conversion of one model to float16: the type of every value, and Casts where types change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN, SITE
from onnxquant.graph.node import STANDARD
from onnxquant.graph.traverse import graphs, names_read, rename_reads, replace_field, subgraphs
from onnxquant.passes.float16.element_types import NO_FLOAT, element_types, read_as_integers
from onnxquant.passes.float16.islands import batch_transposes, folded_nodes, half_dequantizers, integer_neighbours
from onnxquant.passes.float16.mean_squares import mean_square_nodes
from onnxquant.passes.float16.operators import reason_for_float32
from onnxquant.passes.float16.scope import FLOAT, HALF, GraphScope, hoist_constants
from onnxquant.passes.float16.size_chains import cast_to, size_nodes
from onnxquant.passes.float16.values import Store, beyond, constant_tensor, unfit
from onnxquant.passes.float16.variants import Variants
from onnxquant.passes.prepare.initializers import free_inputs
from onnxquant.runtime.signatures import Signature, signatures

_ANY_TYPE = ("Shape", "Size")
_UNKNOWN = "its types are not known"
_OURS = "our operators compute in float32"
_UNFIT = "its weight holds numbers beyond 65504, or too small for float16"
# Ops that multiply their first two inputs, or divide them.
_PRODUCTS = frozenset(
    {"Mul", "Div", "MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "FusedMatMul", "FusedGemm", "FusedConv"}
)
_INTEGERS = "it is part of a kernel on integers"
_FOLDED = "it is computed when a session is created"
_SIZES = "its values are sizes"
_FUSED = "onnxruntime fuses Transpose and MatMul to one that float16 breaks"
_MEAN_OF_SQUARES = "squares leave float16's range"
_CONTROL = ("If", "Loop", "Scan")


@dataclass(frozen=True)
class Lowered:
    """Knowledge of a model whose weights are encoded already.

    Attributes:
        planes: names of constants that stay as they are.
        unfit: names of weights that hold numbers which float16 has not.
        types: element types by name, of the model before its weights were encoded; None: this is that model.
    """

    planes: frozenset[str] = frozenset()
    unfit: frozenset[str] = frozenset()
    types: Mapping[str, int] | None = None


class GraphConversion(Variants):
    """The conversion of one model.

    Args:
        document: the model.
        store: receiver of the values of large constants.
        lowered: knowledge of encoded weights.

    Attributes:
        in_float32: reason by operator for nodes that compute in float32.
        notes: sentences for a report.
        changed: whether anything is float16 now.
        scopes: scopes of the graphs that were converted.
    """

    def __init__(self, document: Document, store: Store, lowered: Lowered) -> None:
        super().__init__(document, store)
        self.lowered = lowered
        self.in_float32: dict[str, str] = {}
        self.notes: list[str] = []
        self.signature = signatures(document.proto)
        self.inferred = element_types(document) if lowered.types is None else dict(lowered.types)
        self.changed = False
        self.scopes: list[GraphScope] = []

    def convert(
        self, graph: onnx.GraphProto, parent: GraphScope | None, io: int, is_float: Sequence[bool | None]
    ) -> list[bool]:
        """Convert a graph.

        Args:
            graph: the graph.
            parent: scope of the graph around it.
            io: type that float32 inputs and outputs get.
            is_float: whether each input is float32, where the node around the graph knows; None where it does not.

        Returns:
            whether each output was float32.
        """
        hoist_constants(graph)
        if freed := free_inputs(graph, {t.name for t in graph.initializer if t.data_type == FLOAT}):
            self.notes.append(f"{freed} constants no longer graph inputs")
        scope = GraphScope(graph, parent, self.lowered.planes)
        self.scopes.append(scope)
        self.halves |= {t.name for t in graph.initializer if t.data_type == HALF}
        self.halves |= {v.name for v in graph.input if v.type.tensor_type.elem_type == HALF}
        for index, value in enumerate(graph.input):
            known = is_float[index] if index < len(is_float) else None
            if known or value.type.tensor_type.elem_type == FLOAT:
                scope.types[value.name] = io
                self.retype(value, io)
        outputs = {o.name for o in graph.output}
        for name in outputs & scope.constants.keys():
            if io == FLOAT:  # it keeps its name and type
                scope.types[name] = FLOAT
        scope.half_dequantizers = half_dequantizers(graph, self.document.opset)
        reasons = self._reasons(graph, scope)
        for place, node in enumerate(graph.node):
            for name in node.output:
                scope.place[name] = place
            self._node(node, scope, io, outputs, reasons.get(place))
        floats = [self.give_output(value, scope, io) for value in graph.output]
        self.finish(scope)
        return floats

    def _reasons(self, graph: onnx.GraphProto, scope: GraphScope) -> dict[int, str]:
        """Reasons why nodes compute in float32 that follow from their neighbours, by place."""
        reasons = dict.fromkeys(mean_square_nodes(graph, lambda node: self._is_square(node, scope)), _MEAN_OF_SQUARES)
        reasons |= dict.fromkeys(size_nodes(graph, self._is_float32_only, self._doubles(graph)), _SIZES)
        reasons |= dict.fromkeys(integer_neighbours(graph, scope.half_dequantizers), _INTEGERS)
        reasons |= dict.fromkeys(folded_nodes(graph, self.lowered.planes), _FOLDED)
        reasons |= dict.fromkeys(batch_transposes(graph), _FUSED)
        for place, node in enumerate(graph.node if self.lowered.unfit else ()):
            if any(entry.key == SITE and entry.value in self.lowered.unfit for entry in node.metadata_props):
                reasons[place] = _UNFIT
        return reasons

    def _doubles(self, graph: onnx.GraphProto) -> set[str]:
        """Names of values that are float64."""
        names = {name for name, kind in self.inferred.items() if kind == onnx.TensorProto.DOUBLE}
        names |= {v.name for v in graph.input if v.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE}
        return names | {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.DOUBLE}

    # ---- nodes ----

    def _node(self, node: onnx.NodeProto, scope: GraphScope, io: int, outputs: set[str], reason: str | None) -> None:
        """Convert one node; float outputs of the graph become ``io``, a ``reason`` keeps the node in float32."""
        if node.op_type in _CONTROL and node.domain in STANDARD:
            types = self._control(node, scope)
        elif node.op_type in ("Cast", "CastLike") and node.domain in STANDARD and reason is None:
            types = self._cast(node, scope, is_output=not outputs.isdisjoint(node.output))
        elif node.op_type == "ConstantOfShape" and node.domain in STANDARD and reason is None:
            types = self._filled(node)
        elif node.op_type == "Constant" and node.domain in STANDARD:
            types = self._constant_node(node)
        else:
            self._keep_graphs(node, scope)
            types = self._plain(node, scope, reason)
            self._note_halves(node)
        for index, kind in types.items():
            name = node.output[index]
            if not name:
                continue
            scope.types[name] = kind
            self.changed |= kind == HALF
            if name in outputs and kind != io:  # the output keeps its name, behind a Cast
                node.output[index] = scope.variants[name, kind] = self.fresh_name(name, kind)
                scope.variants[name, io] = name
                self.insert_cast(scope, node.output[index], name, io, scope.place[name])

    def _plain(self, node: onnx.NodeProto, scope: GraphScope, reason: str | None) -> dict[int, int]:
        """Types of an operator's float outputs by index; its inputs get the variants that it can take."""
        floats = [i for i, name in enumerate(node.input) if name and scope.owner(name)]
        signature = self.signature(node)
        if not reason and any(scope.place[name] in scope.half_dequantizers for name in node.output if name):
            self.use(node, 1, scope, HALF)
            return {0: HALF}
        why = reason or self._why_in_float32(node, signature, scope, floats)
        if why or signature is None:
            if floats and why not in (_SIZES, _FOLDED):
                self.in_float32.setdefault(node.op_type, why or _UNKNOWN)
            for i in floats:
                self.use(node, i, scope, FLOAT)
            return {j: int(FLOAT) for j in range(len(node.output)) if self._is_float(node, j, signature, floats)}
        types: dict[int, int] = {}
        for j in range(len(node.output)):
            slot = signature.output(j)
            if slot and self._is_float(node, j, signature, floats):
                bound = any(signature.parameter(i) == slot.parameter for i in floats)
                types[j] = HALF if bound and "tensor(float16)" in slot.allowed else FLOAT
        for i in floats:
            native = scope.holder(node.input[i]).types[node.input[i]] if node.op_type in _ANY_TYPE else None
            self.use(node, i, scope, native or (FLOAT if self._is_float32_only(node, i) else HALF))
        return types

    def _why_in_float32(
        self, node: onnx.NodeProto, signature: Signature | None, scope: GraphScope, floats: Sequence[int]
    ) -> str | None:
        """The reason why a node has to compute in float32; None when it need not."""
        if signature is None:
            return _OURS if node.domain == DOMAIN else _UNKNOWN
        if reason := reason_for_float32(node, signature):
            return reason
        if floats and all(self._is_float32_only(node, i) for i in floats):
            return "its types do not include float16"
        for i in floats:
            owner = scope.owner(node.input[i])
            constant = owner.constants.get(node.input[i]) if owner else None
            if constant is None:
                continue
            array = self.document.array(constant)
            why = unfit(array)
            # Small numbers that are added may be zero, and guards against zero stay so.
            if why and (beyond(array) or (i < 2 and node.op_type in _PRODUCTS)):
                return f"its constant {node.input[i]!r} {why}"
        return None

    def _is_square(self, node: onnx.NodeProto, scope: GraphScope) -> bool:
        """Whether a node squares its input."""
        if node.op_type == "Mul":
            return node.input[0] == node.input[1]
        owner = scope.owner(node.input[1]) if node.op_type == "Pow" else None
        exponent = owner.constants.get(node.input[1]) if owner else None
        return exponent is not None and bool((self.document.array(exponent) == 2).all())

    def _is_float32_only(self, node: onnx.NodeProto, index: int) -> bool:
        """Whether float16 is not allowed for an input."""
        signature = self.signature(node)
        slot = signature.input(index) if signature else None
        return slot is None or "tensor(float16)" not in slot.allowed

    def _is_float(self, node: onnx.NodeProto, index: int, signature: Signature | None, floats: Sequence[int]) -> bool:
        """Whether an output of the original is a float32 tensor."""
        name, slot = node.output[index], signature.output(index) if signature else None
        if not name:
            return False
        if slot and slot.allowed == frozenset(["tensor(float)"]):
            return True
        bound = [
            i
            for i, n in enumerate(node.input)
            if n and slot and signature and signature.parameter(i) == slot.parameter
        ]
        if (to := cast_to(node)) is not None:
            return to == FLOAT
        if bound:
            return any(i in floats for i in bound)
        if name in self.inferred:
            return self.inferred[name] == FLOAT
        if slot is None:
            return not read_as_integers(self.document.proto.graph, name, self.signature)
        return "tensor(float)" in slot.allowed and bool(floats)

    def _note_halves(self, node: onnx.NodeProto) -> None:
        """Note outputs that the original has in float16."""
        signature = self.signature(node)
        bound = {signature.parameter(i) for i, n in enumerate(node.input) if n in self.halves} if signature else set()
        for j, name in enumerate(node.output):
            slot = signature.output(j) if signature else None
            if self.inferred.get(name, HALF if slot and slot.parameter in bound else NO_FLOAT) == HALF:
                self.halves.add(name)

    # ---- operators whose types are their own matter ----

    def _cast(self, node: onnx.NodeProto, scope: GraphScope, *, is_output: bool) -> dict[int, int]:
        """Types of the outputs of a Cast or CastLike, which casts to float16 where it cast to float32."""
        owner = scope.owner(node.input[0])
        if cast_to(node) == FLOAT and (source := self._half_source(node.input[0], owner)) and not is_output:
            # Whoever reads the result in float16 reads what was cast.
            scope.variants[node.output[0], HALF] = source
            scope.removed.add(scope.place[node.output[0]])
            return {0: HALF}
        if cast_to(node) == HALF and self._half_source(node.input[0], owner):
            node.op_type = "Identity"
            del node.attribute[:]
        if owner:  # any type will do; a constant gives all its digits
            self.use(node, 0, scope, owner.types[node.input[0]] or FLOAT)
        if node.op_type == "CastLike":
            like = scope.owner(node.input[1])
            if like is None:
                return {}
            self.use(node, 1, scope, HALF)
            return {0: HALF}
        to = next((a for a in node.attribute if a.name == "to"), None)
        if to is None or to.i != FLOAT:
            self.halves.update(node.output if node.op_type == "Identity" or cast_to(node) == HALF else ())
            return {}
        to.i = HALF
        return {0: HALF}

    def _half_source(self, name: str, owner: GraphScope | None) -> str:
        """Name of the float16 tensor that a value is; empty where it is none."""
        if owner is None:
            return name if name in self.halves else ""
        return owner.variants.get((name, HALF), name) if owner.types[name] == HALF else ""

    def _filled(self, node: onnx.NodeProto) -> dict[int, int]:
        """Types of the outputs of a ConstantOfShape, whose value becomes float16."""
        value = next((a for a in node.attribute if a.name == "value"), None)
        if value is None:
            value = onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1, np.float32)))
            node.attribute.append(value)
            value = node.attribute[-1]
        if value.t.data_type != FLOAT:
            return {}
        self.halve(value.t, node.output[0], attribute=True)
        return {0: HALF}

    def _constant_node(self, node: onnx.NodeProto) -> dict[int, int]:
        """A Constant that is an output of its graph, or sparse: others are initializers by now."""
        sparse = next((a.sparse_tensor for a in node.attribute if a.name == "sparse_value"), None)
        if sparse is not None and sparse.values.data_type == FLOAT:
            if beyond(self.document.array(sparse.values)):
                return {0: FLOAT}
            self.halve(sparse.values, node.output[0], attribute=True)
            return {0: HALF}
        tensor = constant_tensor(node)
        if tensor is None or tensor.data_type != FLOAT:
            return {}
        self.halve(tensor, node.output[0], attribute=True)
        node.CopyFrom(onnx.helper.make_node("Constant", [], list(node.output), name=node.name, value=tensor))
        return {0: HALF}

    def _control(self, node: onnx.NodeProto, scope: GraphScope) -> dict[int, int]:
        """Types of the outputs of an If, Loop or Scan, whose graphs are converted."""
        inner = list(subgraphs(node))
        floats = [bool(n) and scope.owner(n) is not None for n in node.input]
        inputs: list[bool | None] = [*floats] if node.op_type != "If" else []
        if node.op_type == "Scan" and len(node.input) > len(inner[0].input):  # opset 8: lengths come first
            inputs = inputs[1:]
        for i, is_float in enumerate(floats):
            if is_float:
                self.use(node, i, scope, HALF)
        floats_of_graphs = [self.convert(graph, scope, HALF, inputs) for graph in inner]
        # The body of a Loop also gives the condition, which is no output.
        results = floats_of_graphs[0][1:] if node.op_type == "Loop" else floats_of_graphs[0]
        return {j: HALF for j, is_float in enumerate(results) if is_float and j < len(node.output)}

    def _keep_graphs(self, node: onnx.NodeProto, scope: GraphScope) -> None:
        """Leave the graphs in a node's attributes in float32 (BeamSearch, SequenceMap); their weights are cast on loading."""
        for graph in subgraphs(node):
            owners = {name: owner for name in names_read(graph) if (owner := scope.owner(name))}
            for own in (*(i.name for i in graph.input), *(t.name for t in graph.initializer)):
                owners.pop(own, None)
            for name, owner in owners.items():
                owner.captured.update({name} & owner.constants.keys())
            rename_reads(graph, {name: self.variant(owner, name, FLOAT) for name, owner in owners.items()})
            for inner in graphs(graph):
                self._cast_on_loading(inner)

    def _cast_on_loading(self, graph: onnx.GraphProto) -> None:
        """Store the large constants of a graph in float16, each behind a Cast to float32 that is folded on loading."""
        callers_names = {i.name for i in graph.input} | {o.name for o in graph.output}
        casts = []
        for tensor in graph.initializer:
            if tensor.data_type == FLOAT and tensor.name not in callers_names and self.is_worth_a_cast(tensor):
                name, tensor.name = tensor.name, self.fresh_name(tensor.name, HALF)
                casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=FLOAT))
                self.halve(tensor, name)
        self.casts += len(casts)
        replace_field(graph.node, [*casts, *graph.node])
