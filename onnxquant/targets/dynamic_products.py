"""Our operator DynamicProducts: products that round one activation to codes in each call, as our library computes them.

The operator's body is the nodes that it replaces, so that any onnxruntime computes what it did before:
DynamicQuantizeMatMul, or a DynamicQuantizeLinear and the products that share its codes, and the activation functions behind
them. Calls whose bodies are equal share one. ``custom_ops/README.md`` has its attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import onnx
from scipy.special import erf

from onnxquant.graph.analysis.scalar_functions import ScalarFunction, scalar_functions
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.functions import (
    MOST_NAMES,
    expand_functions,
    import_domain,
    is_call,
    local_function,
    nodes_entry,
    plain_nodes,
)
from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN, DYNAMIC_PRODUCTS, MICROSOFT, SITE
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.order import sort_nodes
from onnxquant.graph.shapes import Known, infer

_PRODUCTS = "products"
_ABSENT = -1
_ROUNDS, _ALONE, _SHARES = "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"
# Inputs of a product: weight, scales, zero points, bias.
_PLANES = {_ALONE: (1, 2, 3, 4), _SHARES: (1, 3, 5, 6)}
# Where a function is compared with GELU; far ones, too, as bounds before it may be.
_FAR = np.geomspace(16, 1e30, 100)
_POINTS = np.concatenate([-_FAR, np.linspace(-12, 12, 961), _FAR])
_TOLERANCE = 1e-6  # of float32's constants


class _Activation(IntEnum):
    """The function behind a product, as the operator numbers it."""

    NONE = 0
    RELU = 1
    GELU = 2


@dataclass(frozen=True)
class _Product:
    """A product and the activation function behind it.

    Attributes:
        node: the product.
        activation: the function.
        after: the nodes of the function.
    """

    node: onnx.NodeProto
    activation: _Activation = _Activation.NONE
    after: tuple[onnx.NodeProto, ...] = ()

    @property
    def output(self) -> str:
        """Name of what they compute."""
        return str((self.after[-1] if self.after else self.node).output[0])

    @property
    def planes(self) -> list[str]:
        """Names of the weight, its scales, its zero points and the bias; empty where there is none."""
        inputs = self.node.input
        return [inputs[i] if i < len(inputs) else "" for i in _PLANES[self.node.op_type]]


@dataclass(frozen=True)
class _Group:
    """Products of one activation.

    Attributes:
        x: name of the activation.
        products: the products.
        rounding: the node that rounds it for all of them; none where a product does it itself.
    """

    x: str
    products: tuple[_Product, ...]
    rounding: tuple[onnx.NodeProto, ...] = ()

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes."""
        return [*self.rounding, *(node for product in self.products for node in (product.node, *product.after))]

    @property
    def constants(self) -> list[str]:
        """Names of the constants that the nodes read: those of the products first."""
        own = {self.x, ""}.union(name for node in self.nodes for name in node.output)
        names = [name for product in self.products for name in product.planes]
        names += [name for node in self.nodes for name in node.input]
        return [name for name in dict.fromkeys(names) if name not in own]

    def body(self, name: str, imports: Iterable[onnx.OperatorSetIdProto]) -> onnx.FunctionProto:
        """The function whose body computes what the products do.

        Args:
            name: its name.
            imports: the model's versions of domains.
        """
        inputs = {tensor: f"x{i}" for i, tensor in enumerate((self.x, *self.constants))}
        outputs = {product.output: f"y{i}" for i, product in enumerate(self.products)}
        nodes = plain_nodes(self.nodes, {**inputs, **outputs}, ())
        for number, node in enumerate(nodes):
            node.name = f"n{number}"
        return local_function(name, inputs.values(), outputs.values(), [_PRODUCTS], nodes, imports)

    def call(self, name: str, node_name: str) -> onnx.NodeProto:
        """The operator in their place.

        Args:
            name: its name.
            node_name: name of the node.
        """
        inputs = [self.x, *self.constants]
        places = {name: number for number, name in enumerate(inputs)}
        words = [
            word
            for product in self.products
            for word in (*(places.get(plane, _ABSENT) for plane in product.planes), int(product.activation))
        ]
        call = onnx.helper.make_node(name, inputs, [p.output for p in self.products], name=node_name, domain=DOMAIN)
        call.attribute.append(onnx.helper.make_attribute(_PRODUCTS, words))
        call.attribute.append(nodes_entry(self.nodes))
        return call


def add_dynamic_products(proto: onnx.ModelProto, document: Document) -> int:
    """Replace products that round their activations in each call in the main graph by our operator, in place.

    Args:
        proto: a model with dynamic integer activations.
        document: the document that it was made from, which has the values of its constants.

    Returns:
        the number of operators.
    """
    if not any(_is_product(node, *_PLANES) for node in proto.graph.node):
        return 0
    editor = GraphEditor(proto.graph)
    groups = list(_groups(editor, _gelus(document, editor)))
    numbers: dict[bytes, int] = {}
    calls: list[tuple[_Group, onnx.NodeProto]] = []
    for group in groups:
        number = numbers.setdefault(group.body("", ()).SerializeToString(), len(numbers) + 1)
        if number > MOST_NAMES:
            continue
        name = f"{DYNAMIC_PRODUCTS}{number}"
        if all(function.name != name or function.domain != DOMAIN for function in proto.functions):
            proto.functions.append(group.body(name, proto.opset_import))
        calls.append((group, group.call(name, editor.names.fresh(f"{group.products[0].output}/{DYNAMIC_PRODUCTS}"))))
    shapes = infer(Document(proto, memoryview(b""), None))
    for group, call in calls:
        for node in group.nodes:
            editor.remove(node)
        editor.insert_after(group.nodes[0], [call])
        _declare(proto.graph, call.output, shapes)
    editor.apply(keep_unread=True)
    sort_nodes(proto.graph)
    import_domain(proto)
    return len(calls)


def is_dynamic_products(node: onnx.NodeProto) -> bool:
    """Whether a node is our operator."""
    return is_call(node, DYNAMIC_PRODUCTS)


def expand_dynamic_products(proto: onnx.ModelProto) -> None:
    """Put the nodes back that our operator stands for, in place."""
    expand_functions(proto, DYNAMIC_PRODUCTS)


def _is_product(node: onnx.NodeProto, *ops: str) -> bool:
    """Whether a node is one of these operators of onnxruntime, on a weight that was encoded here: its zero points are 0."""
    return node.domain == MICROSOFT and node.op_type in ops and any(entry.key == SITE for entry in node.metadata_props)


def _groups(editor: GraphEditor, gelus: Mapping[str, ScalarFunction]) -> Iterator[_Group]:
    """The groups of a graph: nothing of theirs but their outputs is read elsewhere.

    Args:
        editor: the graph.
        gelus: GELUs written with several operators, by what they are computed of.
    """
    for node in list(editor.nodes):
        if _is_product(node, _ALONE) and _has_constants(editor, node):
            yield _Group(str(node.input[0]), (_with_activation(editor, node, gelus),))
        elif is_op(node, _ROUNDS):
            readers = list({id(r): r for name in node.output for r in editor.consumers(name)}.values())
            shared = all(
                _is_product(r, _SHARES)
                and [r.input[0], r.input[2], r.input[4]] == list(node.output)
                and _has_constants(editor, r)
                for r in readers
            )
            if readers and shared and all(map(editor.is_private, node.output)):
                products = tuple(_with_activation(editor, reader, gelus) for reader in readers)
                yield _Group(str(node.input[0]), products, (node,))


def _has_constants(editor: GraphEditor, product: onnx.NodeProto) -> bool:
    """Whether all that a product reads but the activation is in initializers."""
    return all(not name or editor.has_initializer(name) for name in _Product(product).planes)


def _with_activation(editor: GraphEditor, product: onnx.NodeProto, gelus: Mapping[str, ScalarFunction]) -> _Product:
    """A product with the activation function that alone reads it."""
    output = str(product.output[0])
    reader = editor.single_consumer(output)
    if reader is not None and is_op(reader, "Relu"):
        return _Product(product, _Activation.RELU, (reader,))
    if reader is not None and reader.op_type == "Gelu" and attribute(reader, "approximate", "none") == "none":
        return _Product(product, _Activation.GELU, (reader,))
    gelu = gelus.get(output)
    if gelu is None or not editor.is_private(output):
        return _Product(product)
    inside = {id(node) for node in gelu.nodes}
    is_whole = all(id(node) in inside for node in editor.consumers(output))
    return _Product(product, _Activation.GELU, gelu.nodes) if is_whole else _Product(product)


def _gelus(document: Document, editor: GraphEditor) -> dict[str, ScalarFunction]:
    """GELUs written with several operators, by what they are computed of."""
    exact = _POINTS * (1 + erf(_POINTS / np.sqrt(2))) / 2
    gelus = {}
    for node in editor.nodes:
        for function in scalar_functions(document, editor, node) if is_op(node, "Mul") else ():
            values = function.term.values(_POINTS)
            if len(function.nodes) > 1 and np.allclose(values, exact, rtol=_TOLERANCE, atol=_TOLERANCE):
                gelus[function.source] = function
    return gelus


def _declare(graph: onnx.GraphProto, names: Iterable[str], shapes: Mapping[str, Known]) -> None:
    """State types and shapes of what an operator makes: tools that infer them know nothing of ours."""
    known = {value.name for value in (*graph.value_info, *graph.output)}
    for name in names:
        if name not in known:
            shape = shapes[name].shape if name in shapes else None
            graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
