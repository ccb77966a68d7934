"""The conversion of one model to float16: the type of every value, and Casts where types change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.names import NameAllocator
from onnxquant.graph.node import STANDARD
from onnxquant.graph.traverse import graphs, names_of, names_read, rename_reads, replace_field, subgraphs
from onnxquant.passes.float16.mean_squares import mean_square_nodes
from onnxquant.passes.float16.operators import reason_for_float32
from onnxquant.passes.float16.scope import FLOAT, HALF, GraphScope, hoist_constants, inferred_types
from onnxquant.passes.float16.size_chains import cast_to, size_nodes
from onnxquant.passes.float16.values import ConvertedConstant, Store, beyond, constant_tensor, store_inline, to_half
from onnxquant.passes.prepare.initializers import free_inputs
from onnxquant.runtime import outputs_of, session_of
from onnxquant.runtime.signatures import Signature, signatures

# A constant that is read in both types is stored twice up to this size, and cast above it.
_TWICE_BELOW = 1024
_ANY_TYPE = ("Shape", "Size")
# Stands for any other type.
_NO_FLOAT = int(onnx.TensorProto.UNDEFINED)
_UNKNOWN = "its types are not known"
_SIZES = "its values are sizes"
_MEAN_OF_SQUARES = "squares leave float16's range"
_CONTROL = ("If", "Loop", "Scan")


class GraphConversion:
    """The conversion of one model.

    Attributes:
        constants: every float32 constant.
        in_float32: reason by operator for nodes that compute in float32.
        casts: number of Casts added.
        notes: sentences for a report.
        changed: whether anything is float16 now.
    """

    def __init__(self, document: Document, store: Store) -> None:
        self.document, self.store = document, store
        self.constants: list[ConvertedConstant] = []
        self.in_float32: dict[str, str] = {}
        self.casts = 0
        self.notes: list[str] = []
        self.signature = signatures(document.proto)
        self.names = NameAllocator(names_of(document.proto))
        self.inferred = inferred_types(document.proto) | self._foreign_types()
        self.changed = False

    def _foreign_types(self) -> dict[str, int]:
        """Types of what operators of unknown signatures give, where onnxruntime knows the operators."""
        foreign = [n for n in self.document.proto.graph.node if self.signature(n) is None]
        outputs = [name for node in foreign for name in node.output if name]
        if not outputs:
            return {}
        try:
            with session_of(self.document, outputs, threads=1) as session:
                types = outputs_of(session)
        except ModelError:  # it cannot run the model: operators that were not registered
            return {}
        return {name: FLOAT if types[name] == "tensor(float)" else _NO_FLOAT for name in outputs}

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
        scope = GraphScope(graph, parent)
        for index, value in enumerate(graph.input):
            known = is_float[index] if index < len(is_float) else None
            if known or value.type.tensor_type.elem_type == FLOAT:
                scope.types[value.name] = io
                self._retype(value, io)
        outputs = {o.name for o in graph.output}
        for name in outputs & scope.constants.keys():
            if io == FLOAT:  # it keeps its name and type
                scope.types[name] = FLOAT
        reasons = dict.fromkeys(mean_square_nodes(graph, lambda node: self._is_square(node, scope)), _MEAN_OF_SQUARES)
        reasons |= dict.fromkeys(size_nodes(graph, self._is_float32_only), _SIZES)
        for place, node in enumerate(graph.node):
            for name in node.output:
                scope.place[name] = place
            self._node(node, scope, io, outputs, reasons.get(place))
        floats = [self._output(value, scope, io) for value in graph.output]
        self._finish(scope)
        return floats

    # ---- nodes ----

    def _node(self, node: onnx.NodeProto, scope: GraphScope, io: int, outputs: set[str], reason: str | None) -> None:
        """Convert one node; float outputs of the graph become ``io``, a ``reason`` keeps the node in float32."""
        if node.op_type in _CONTROL and node.domain in STANDARD:
            types = self._control(node, scope)
        elif node.op_type in ("Cast", "CastLike") and node.domain in STANDARD and reason is None:
            types = self._cast(node, scope)
        elif node.op_type == "ConstantOfShape" and node.domain in STANDARD and reason is None:
            types = self._filled(node)
        elif node.op_type == "Constant" and node.domain in STANDARD:
            types = self._constant_node(node)
        else:
            self._keep_graphs(node, scope)
            types = self._plain(node, scope, reason)
        for index, kind in types.items():
            name = node.output[index]
            if not name:
                continue
            scope.types[name] = kind
            self.changed |= kind == HALF
            if name in outputs and kind != io:  # the output keeps its name, behind a Cast
                node.output[index] = scope.variants[name, kind] = self._name(name, kind)
                scope.variants[name, io] = name
                self._insert_cast(scope, node.output[index], name, io, scope.place[name])

    def _plain(self, node: onnx.NodeProto, scope: GraphScope, reason: str | None) -> dict[int, int]:
        """Types of an operator's float outputs by index; its inputs get the variants that it can take."""
        floats = [i for i, name in enumerate(node.input) if name and scope.owner(name)]
        signature = self.signature(node)
        why = reason or self._why_in_float32(node, signature, scope, floats)
        if why or signature is None:
            if floats and why != _SIZES:
                self.in_float32.setdefault(node.op_type, why or _UNKNOWN)
            for i in floats:
                self._use(node, i, scope, FLOAT)
            return {j: int(FLOAT) for j in range(len(node.output)) if self._is_float(node, j, signature, floats)}
        types: dict[int, int] = {}
        for j in range(len(node.output)):
            slot = signature.output(j)
            if slot and self._is_float(node, j, signature, floats):
                bound = any(signature.parameter(i) == slot.parameter for i in floats)
                types[j] = HALF if bound and "tensor(float16)" in slot.allowed else FLOAT
        for i in floats:
            native = scope.holder(node.input[i]).types[node.input[i]] if node.op_type in _ANY_TYPE else None
            self._use(node, i, scope, native or (FLOAT if self._is_float32_only(node, i) else HALF))
        return types

    def _why_in_float32(
        self, node: onnx.NodeProto, signature: Signature | None, scope: GraphScope, floats: Sequence[int]
    ) -> str | None:
        """The reason why a node has to compute in float32; None when it need not."""
        if signature is None:
            return _UNKNOWN
        if reason := reason_for_float32(node, signature):
            return reason
        if floats and all(self._is_float32_only(node, i) for i in floats):
            return "its types do not include float16"
        for i in floats:
            owner = scope.owner(node.input[i])
            if (
                owner
                and node.input[i] in owner.constants
                and beyond(self.document.array(owner.constants[node.input[i]]))
            ):
                return f"its constant {node.input[i]!r} holds numbers beyond 65504"
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
        return slot is None or ("tensor(float)" in slot.allowed and bool(floats))

    # ---- operators whose types are their own matter ----

    def _cast(self, node: onnx.NodeProto, scope: GraphScope) -> dict[int, int]:
        """Types of the outputs of a Cast or CastLike, which casts to float16 where it cast to float32."""
        owner = scope.owner(node.input[0])
        if owner:  # any type will do; a constant gives all its digits
            self._use(node, 0, scope, owner.types[node.input[0]] or FLOAT)
        if node.op_type == "CastLike":
            like = scope.owner(node.input[1])
            if like is None:
                return {}
            self._use(node, 1, scope, HALF)
            return {0: HALF}
        to = next((a for a in node.attribute if a.name == "to"), None)
        if to is None or to.i != FLOAT:
            return {}
        to.i = HALF
        return {0: HALF}

    def _filled(self, node: onnx.NodeProto) -> dict[int, int]:
        """Types of the outputs of a ConstantOfShape, whose value becomes float16."""
        value = next((a for a in node.attribute if a.name == "value"), None)
        if value is None:
            value = onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1, np.float32)))
            node.attribute.append(value)
            value = node.attribute[-1]
        if value.t.data_type != FLOAT:
            return {}
        self._halve(value.t, node.output[0], attribute=True)
        return {0: HALF}

    def _constant_node(self, node: onnx.NodeProto) -> dict[int, int]:
        """A Constant that is an output of its graph, or sparse: others are initializers by now."""
        sparse = next((a.sparse_tensor for a in node.attribute if a.name == "sparse_value"), None)
        if sparse is not None and sparse.values.data_type == FLOAT:
            if beyond(self.document.array(sparse.values)):
                return {0: FLOAT}
            self._halve(sparse.values, node.output[0], attribute=True)
            return {0: HALF}
        tensor = constant_tensor(node)
        if tensor is None or tensor.data_type != FLOAT:
            return {}
        self._halve(tensor, node.output[0], attribute=True)
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
                self._use(node, i, scope, HALF)
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
            rename_reads(graph, {name: self._variant(owner, name, FLOAT) for name, owner in owners.items()})
            for inner in graphs(graph):
                self._cast_on_loading(inner)

    def _cast_on_loading(self, graph: onnx.GraphProto) -> None:
        """Store the large constants of a graph in float16, each behind a Cast to float32 that is folded on loading."""
        callers_names = {i.name for i in graph.input} | {o.name for o in graph.output}
        casts = []
        for tensor in graph.initializer:
            if tensor.data_type == FLOAT and tensor.name not in callers_names and self._is_worth_a_cast(tensor):
                name, tensor.name = tensor.name, self._name(tensor.name, HALF)
                casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=FLOAT))
                self._halve(tensor, name)
        self.casts += len(casts)
        replace_field(graph.node, [*casts, *graph.node])

    def _is_worth_a_cast(self, tensor: onnx.TensorProto) -> bool:
        values = self.document.array(tensor)
        return values.nbytes > _TWICE_BELOW and not beyond(values)

    # ---- values ----

    def _use(self, node: onnx.NodeProto, index: int, scope: GraphScope, kind: int) -> None:
        """Let a node read a value in a type, through a Cast or another copy of a constant where it has to be."""
        name = node.input[index]
        owner = scope.holder(name)
        node.input[index] = self._variant(owner, name, kind)
        if name in owner.constants and kind == FLOAT:
            owner.uses.setdefault(name, []).append((node, index))

    def _variant(self, owner: GraphScope, name: str, kind: int) -> str:
        """Name of a value in a type; the Cast that makes it is added where there is none yet."""
        if (name, kind) in owner.variants:
            return owner.variants[name, kind]
        have = owner.types[name]
        if have == kind:
            return owner.variants.setdefault((name, kind), name)
        if have is None:  # a constant: float16 takes its name, float32 gets another one
            variant = name if kind == HALF else self._name(name, kind)
        else:
            variant = self._name(name, kind)
            source = owner.variants.get((name, have), name)
            self._insert_cast(owner, source, variant, kind, owner.place.get(name, -1))
        owner.variants[name, kind] = variant
        return variant

    def _insert_cast(self, scope: GraphScope, source: str, name: str, kind: int, place: int) -> None:
        node = onnx.helper.make_node("Cast", [source], [name], name=self._name(name, "cast"), to=kind)
        scope.inserted.setdefault(place, []).append(node)
        self.casts += 1

    def _output(self, value: onnx.ValueInfoProto, scope: GraphScope, io: int) -> bool:
        """Give an output of a graph its type; whether it is a float."""
        owner = scope.owner(value.name)
        if owner is None:
            return False
        self._retype(value, io)
        if owner is not scope or (owner.types[value.name] not in (None, io) and (value.name, io) not in owner.variants):
            # A value of an outer graph, or an input: it becomes an output of its own.
            have = owner.types[value.name] or HALF
            variant = self._name(value.name, io)
            self._insert_cast(scope, self._variant(owner, value.name, have), variant, io, len(scope.graph.node))
            value.name = variant
        else:
            self._variant(owner, value.name, io)
        return True

    def _retype(self, value: onnx.ValueInfoProto, kind: int) -> None:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.elem_type = kind

    def _name(self, base: str, kind: int | str) -> str:
        suffix = kind if isinstance(kind, str) else {FLOAT: "float32", HALF: "float16"}[kind]
        return self.names.fresh(f"{base}_{suffix}")

    # ---- constants ----

    def _halve(self, tensor: onnx.TensorProto, name: str, *, attribute: bool = False) -> None:
        """Make a float32 tensor float16, and note what that did to its values."""
        values = np.asarray(self.document.array(tensor))
        half, constant = to_half(values, name)
        self.constants.append(constant)
        for kind in ("float_data", "raw_data"):
            tensor.ClearField(kind)
        tensor.data_type = HALF
        (store_inline if attribute or values.nbytes <= _TWICE_BELOW else self.store)(tensor, half)

    def _finish(self, scope: GraphScope) -> None:
        """Make the copies of constants that were asked for, and put the Casts in their places."""
        added: list[onnx.TensorProto] = []
        for name, tensor in scope.constants.items():
            half, single = (name, HALF) in scope.variants, (name, FLOAT) in scope.variants
            captured = name in scope.captured and scope.types[name] != FLOAT
            if captured and not half and self._is_worth_a_cast(tensor):
                half = True
            if scope.types[name] == FLOAT or (single and not half):
                self._leave(scope, tensor, scope.variants[name, FLOAT] if captured else name)
                continue
            if single:
                self._both(scope, tensor, added)
            self._halve(tensor, name)
        scope.graph.initializer.extend(added)
        scope.rebuild()

    def _leave(self, scope: GraphScope, tensor: onnx.TensorProto, name: str) -> None:
        """Leave a constant in float32, under the name that all its readers then use."""
        for node, index in scope.uses.get(tensor.name, []):
            node.input[index] = name
        self.constants.append(ConvertedConstant(tensor.name, tuple(tensor.dims), half=False))
        tensor.name = name

    def _both(self, scope: GraphScope, tensor: onnx.TensorProto, added: list[onnx.TensorProto]) -> None:
        """Keep a constant in float32, too: as a copy, or where it is large by a Cast of the float16 one."""
        variant = scope.variants[tensor.name, FLOAT]
        values = self.document.array(tensor)
        if values.nbytes > _TWICE_BELOW:
            self._insert_cast(scope, tensor.name, variant, FLOAT, -1)
            return
        added.append(onnx.numpy_helper.from_array(np.array(values, np.float32), variant))
