"""The values of a graph in both types: Casts between them, and constants that become float16 or stay."""

from __future__ import annotations

import numpy as np
import onnx

from onnxquant.graph.io import Document
from onnxquant.graph.names import NameAllocator
from onnxquant.graph.traverse import names_of
from onnxquant.passes.float16.scope import FLOAT, HALF, GraphScope
from onnxquant.passes.float16.values import ConvertedConstant, Store, store_inline, to_half, unfit

# A constant that is read in both types is stored twice up to this size, and cast above it.
_TWICE_BELOW = 1024


class Variants:
    """Both types of the values of one model.

    Args:
        document: the model.
        store: receiver of the values of large constants.

    Attributes:
        constants: every float32 constant.
        casts: number of Casts added.
        halves: names of values that the original has in float16.
    """

    def __init__(self, document: Document, store: Store) -> None:
        self.document, self.store = document, store
        self.names = NameAllocator(names_of(document.proto))
        self.constants: list[ConvertedConstant] = []
        self.casts = 0
        self.halves: set[str] = set()

    def is_worth_a_cast(self, tensor: onnx.TensorProto) -> bool:
        """Whether a constant that is read in float32 alone is stored in float16, behind a Cast."""
        values = self.document.array(tensor)
        return values.nbytes > _TWICE_BELOW and not unfit(values)

    def use(self, node: onnx.NodeProto, index: int, scope: GraphScope, kind: int) -> None:
        """Let a node read a value in a type, through a Cast or another copy of a constant where it has to be."""
        name = node.input[index]
        owner = scope.holder(name)
        node.input[index] = self.variant(owner, name, kind)
        if name in owner.constants and kind == FLOAT:
            owner.uses.setdefault(name, []).append((node, index))

    def variant(self, owner: GraphScope, name: str, kind: int) -> str:
        """Name of a value in a type; the Cast that makes it is added where there is none yet."""
        if (name, kind) in owner.variants:
            return owner.variants[name, kind]
        have = owner.types[name]
        if have == kind:
            return owner.variants.setdefault((name, kind), name)
        if have is None:  # a constant: float16 takes its name, float32 gets another one
            variant = name if kind == HALF else self.fresh_name(name, kind)
        else:
            variant = self.fresh_name(name, kind)
            source = owner.variants.get((name, have), name)
            self.insert_cast(owner, source, variant, kind, owner.place.get(name, -1))
        owner.variants[name, kind] = variant
        return variant

    def insert_cast(self, scope: GraphScope, source: str, name: str, kind: int, place: int) -> None:
        """Add a Cast behind the node at a place; -1: first in the graph."""
        node = onnx.helper.make_node("Cast", [source], [name], name=self.fresh_name(name, "cast"), to=kind)
        scope.inserted.setdefault(place, []).append(node)
        self.casts += 1

    def give_output(self, value: onnx.ValueInfoProto, scope: GraphScope, io: int) -> bool:
        """Give an output of a graph its type; whether it is a float."""
        owner = scope.owner(value.name)
        if owner is None:
            return False
        self.retype(value, io)
        if owner is not scope or (owner.types[value.name] not in (None, io) and (value.name, io) not in owner.variants):
            # A value of an outer graph, or an input: it becomes an output of its own.
            have = owner.types[value.name] or HALF
            variant = self.fresh_name(value.name, io)
            self.insert_cast(scope, self.variant(owner, value.name, have), variant, io, len(scope.graph.node))
            value.name = variant
        else:
            self.variant(owner, value.name, io)
        return True

    def retype(self, value: onnx.ValueInfoProto, kind: int) -> None:
        """Declare another type of a value."""
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.elem_type = kind

    def fresh_name(self, base: str, kind: int | str) -> str:
        """A new name for a value in a type."""
        suffix = kind if isinstance(kind, str) else {FLOAT: "float32", HALF: "float16"}[kind]
        return self.names.fresh(f"{base}_{suffix}")

    def halve(self, tensor: onnx.TensorProto, name: str, *, attribute: bool = False) -> None:
        """Make a float32 tensor float16, and note what that did to its values."""
        values = np.asarray(self.document.array(tensor))
        half, constant = to_half(values, name)
        self.constants.append(constant)
        for kind in ("float_data", "raw_data"):
            tensor.ClearField(kind)
        tensor.data_type = HALF
        (store_inline if attribute or values.nbytes <= _TWICE_BELOW else self.store)(tensor, half)

    def finish(self, scope: GraphScope) -> None:
        """Make the copies of constants that were asked for, and put the Casts in their places."""
        added: list[onnx.TensorProto] = []
        for name, tensor in scope.constants.items():
            half, single = (name, HALF) in scope.variants, (name, FLOAT) in scope.variants
            captured = name in scope.captured and scope.types[name] != FLOAT
            if captured and not half and self.is_worth_a_cast(tensor):
                half = True
            if scope.types[name] == FLOAT or (single and not half):
                self._leave(scope, tensor, scope.variants[name, FLOAT] if captured else name)
                continue
            if single:
                self._both(scope, tensor, added)
            self.halve(tensor, name)
        scope.graph.initializer.extend(added)
        scope.rebuild()

    def _leave(self, scope: GraphScope, tensor: onnx.TensorProto, name: str) -> None:
        """Leave a constant in float32, under the name that all its readers then use."""
        for node, index in scope.uses.get(tensor.name, []):
            node.input[index] = name
        self.constants.append(ConvertedConstant(tensor.name, tuple(tensor.dims), half=False))
        scope.types[tensor.name], scope.variants[tensor.name, FLOAT] = FLOAT, name
        tensor.name = name

    def _both(self, scope: GraphScope, tensor: onnx.TensorProto, added: list[onnx.TensorProto]) -> None:
        """Keep a constant in float32, too: as a copy, or where it is large by a Cast of the float16 one."""
        variant = scope.variants[tensor.name, FLOAT]
        values = self.document.array(tensor)
        if values.nbytes > _TWICE_BELOW:
            self.insert_cast(scope, tensor.name, variant, FLOAT, -1)
            return
        added.append(onnx.numpy_helper.from_array(np.array(values, np.float32), variant))
