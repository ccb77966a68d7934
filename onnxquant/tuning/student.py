"""The student: a planned model as a torch module that rounds where its file will."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnxquant.activations.plan import StaticActivations
from onnxquant.formats.base import Encoded
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.names import ACTIVATION
from onnxquant.graph.needs import UseKind
from onnxquant.graph.node import is_op
from onnxquant.graph.sites import find_sites
from onnxquant.modules.graph_module import GraphModule, Replacement
from onnxquant.modules.node import OPERATORS, Node
from onnxquant.plan.decision import Plan
from onnxquant.targets import Activations, target_named
from onnxquant.tuning.batch_norm import STATISTICS, BatchNorm, separate_statistics
from onnxquant.tuning.blocks import Block, blocks_of
from onnxquant.tuning.quantizers import ActivationQuantizer, DynamicQuantizer, FloatClip, Learned, WeightQuantizer
from onnxquant.tuning.range_observer import MovingMinMaxObserver

Quantizer = WeightQuantizer | ActivationQuantizer | DynamicQuantizer | FloatClip

# Inputs that hold one number for each channel: biases, and scales of normalization.
_VECTORS = {
    "Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "BatchNormalization": (1, 2), "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2), "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,), "SkipLayerNormalization": (2, 3, 4), "SkipSimplifiedLayerNormalization": (2,),
    "Add": (0, 1), "BiasGelu": (1,),
}  # fmt: skip
# An Add holds a bias behind these; elsewhere its constant may be a mask or a position.
_BEFORE_BIASES = ("MatMul", "Gemm", "Conv", "ConvTranspose")
# The unit of biases that begin at zero.
_LEAST_UNIT = 0.05


@dataclass(frozen=True)
class Tuned:
    """The result of learning, for the plan of the file.

    Attributes:
        document: the float model with learned biases.
        encoded: encoded weights by site.
        activations: the activations with learned ranges; None where they are floats.
        changed: names of the constants that stay floats and have other values now.
    """

    document: Document
    encoded: Mapping[str, Encoded]
    activations: StaticActivations | None
    changed: tuple[str, ...]


class Student(nn.Module):
    """A planned model with rounding that gradients pass.

    Args:
        document: the float model, its functions expanded.
        plan: decisions about its weights.
        encoded: encoded weights by site, where learning begins.
        range_momentum: momentum of ranges of static activations that follow the data; None: they learn.
        updates_statistics: whether BatchNormalization normalizes by the batch and keeps running statistics.

    Raises:
        ModelError: an operator has no function in torch.
    """

    def __init__(
        self,
        document: Document,
        plan: Plan,
        encoded: Mapping[str, Encoded],
        *,
        range_momentum: float | None = None,
        updates_statistics: bool = False,
    ) -> None:
        super().__init__()
        document = document.copy()
        separate_statistics(document)
        self.document, self.plan, self._momentum, self._is_frozen = document, plan, range_momentum, False
        activations = plan.activations
        self._static = activations if isinstance(activations, StaticActivations) else None
        sites = {site.name: site for site in find_sites(document)[0]}
        self._sites = {d.name: sites[d.name] for d in plan.encoded}
        self._encoded = dict(encoded)
        self.ranges: dict[str, ActivationQuantizer] = {}
        with_conversions = document.copy()
        if self._static is not None:
            self._static.insert(with_conversions.proto)
        replaced = {**self._rounded_activations(with_conversions), **self._dynamic_products(with_conversions)}
        self._statistics: list[str] = []
        if updates_statistics:
            replaced |= self._batch_norms(with_conversions)
        rounded = {
            self._sites[name].tensor.name: WeightQuantizer(weight, self._sites[name].view, self._staying(name))
            for name, weight in encoded.items()
            if weight.format.has_grid
        }
        self.module = GraphModule(with_conversions, replaced, rounded)
        self._weights = rounded
        self._start()

    def _staying(self, name: str) -> Tensor | None:
        """0 where a weight was pruned, else 1; None where it was not."""
        if self.plan.pruned is None or name not in self.plan.pruned.zeros:
            return None
        return torch.from_numpy(self.document.array(self._sites[name].tensor) != 0).float()

    def _rounded_activations(self, document: Document) -> dict[str, Replacement]:
        """Modules in the place of the conversions that static activations insert; those of one source share one."""
        if self._static is None:
            return {}
        editor = GraphEditor(document.proto.graph)
        sources = {f"{t.source}/scale": t.source for t in self._static.tensors}
        modules: dict[str, ActivationQuantizer] = {}
        replaced: dict[str, Replacement] = {}
        for node in document.proto.graph.node:
            marked = next((p.value for p in node.metadata_props if p.key == ACTIVATION), "")
            if marked == "Clip":  # it clips nothing
                replaced[node.output[0]] = Replacement(nn.Identity(), (node.input[0],))
            if marked != "DequantizeLinear":
                continue
            quantize = editor.producer(node.input[0])
            assert quantize is not None
            scale = node.input[1]
            if scale not in modules:
                source = sources.get(scale) or self._source_of(scale, sources)
                modules[scale] = ActivationQuantizer(self._static.codes, *self._static.ranges[source], self._momentum)
            replaced[node.output[0]] = Replacement(modules[scale], (quantize.input[0],))
        # A range that follows the data is that behind a Clip.
        replaced |= {} if self._momentum is not None else self._clips(editor)
        self.ranges = {sources.get(scale) or self._source_of(scale, sources): m for scale, m in modules.items()}
        return replaced

    def _clips(self, editor: GraphEditor) -> dict[str, Replacement]:
        """Clips that the codes behind them replace, whatever range these learn: they clip in float alone."""
        assert self._static is not None
        replaced = {}
        for tensor in self._static.tensors:
            node = editor.producer(tensor.name) if tensor.produced else None
            if node is not None and node.op_type == "DequantizeLinear":  # the name stays with the rounded values
                quantize = editor.producer(node.input[0])
                node = None if quantize is None else editor.producer(quantize.input[0])
            while node is not None and node.op_type in ("Relu", "Clip"):
                if node.op_type == "Clip":
                    clip = FloatClip(Node.of(node, self.document.opset))
                    replaced[node.output[0]] = Replacement(clip, tuple(node.input))
                node = editor.producer(node.input[0])
        return replaced

    @staticmethod
    def _source_of(scale: str, sources: Mapping[str, str]) -> str:
        """The source whose scale got a name with a number behind it."""
        return next(source for name, source in sources.items() if scale.startswith(name))

    def _dynamic_products(self, document: Document) -> dict[str, Replacement]:
        """Modules in the place of products whose activations are rounded on every call."""
        names = {d.name for d in self.plan.encoded if target_named(d.target).activations is Activations.DYNAMIC}
        return {
            use.node.output[0]: Replacement(_DynamicProduct(Node.of(use.node, document.opset)), tuple(use.node.input))
            for name in sorted(names)
            for use in self._sites[name].served(UseKind.PRODUCT)
        }

    def _batch_norms(self, document: Document) -> dict[str, Replacement]:
        """Modules in the place of BatchNormalizations that are not folded, for running statistics."""
        constants = {tensor.name for tensor in document.proto.graph.initializer}
        norms = [Node.of(n, document.opset) for n in document.proto.graph.node if is_op(n, "BatchNormalization")]
        norms = [n for n in norms if constants.issuperset(n.inputs[i] for i in STATISTICS) and BatchNorm.takes(n)]
        self._statistics = [norm.inputs[place] for norm in norms for place in STATISTICS]
        return {norm.outputs[0]: Replacement(BatchNorm(norm), norm.inputs) for norm in norms}

    @property
    def has_statistics(self) -> bool:
        """Whether some running statistics are updated."""
        return bool(self._statistics)

    @property
    def weights(self) -> Mapping[str, WeightQuantizer]:
        """The modules that round weights to grids, by the names of the weights."""
        return self._weights

    def freeze(self, *, is_frozen: bool) -> None:
        """Let steps, scales, zero points, ranges and statistics stay as they are, or change again."""
        if is_frozen == self._is_frozen:
            return
        self._is_frozen = is_frozen
        for module in self.modules():
            if isinstance(module, (MovingMinMaxObserver, BatchNorm)):
                module.is_frozen = is_frozen
        for entry in self.learned():
            if entry.of_quantizer:
                entry.values.requires_grad_(not is_frozen)
                entry.values.grad = None if is_frozen else entry.values.grad

    @torch.no_grad()
    def _start(self) -> None:
        """Give weights the values where learning begins: they round to the codes that there are."""
        for name, quantizer in self._weights.items():
            weight = self.module.constant(name)
            weight.copy_(quantizer.start(weight))
        for name, encoded in self._encoded.items():
            site = self._sites[name]
            if site.tensor.name not in self._weights:
                decoded = site.view.restore(encoded.format.decode(encoded))
                self.module.constant(site.tensor.name).copy_(torch.from_numpy(np.ascontiguousarray(decoded)))
        learned = {id(entry.values) for entry in self.learned()}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in learned)

    def learned(self) -> Iterator[Learned]:
        """The parameters that are learned, with their units."""
        parameters = self.module.learned()
        for name, quantizer in self._weights.items():
            if name in parameters:
                yield Learned(parameters[name], quantizer.unit(parameters[name]))
            yield from quantizer.learned()
        for name in self._vectors():
            vector = parameters[name]
            yield Learned(vector, vector.detach().square().mean().sqrt().clamp(min=_LEAST_UNIT))
        if self._static is not None:
            for module in self.ranges.values():
                yield from module.learned()

    def _vectors(self) -> list[str]:
        """Names of biases and of scales of normalization that stay floats."""
        parameters, taken = self.module.learned(), {site.tensor.name for site in self._sites.values()}
        # Constant nodes have no place in the file that another value could be written to.
        initializers = {tensor.name for tensor in self.document.proto.graph.initializer}
        names = dict.fromkeys(
            node.inputs[position]
            for node in self.module.nodes
            for position in _VECTORS.get(node.op, ())
            if position < len(node.inputs) and (node.op != "Add" or self._is_behind_product(node, position))
        )
        return [n for n in names if n in parameters and n in initializers - taken and _is_vector(parameters[n])]

    def _is_behind_product(self, add: Node, position: int) -> bool:
        """Whether the other input of an Add is a product."""
        producer = self.module.producers.get(add.inputs[1 - position])
        return producer is not None and producer.op in _BEFORE_BIASES

    def constrain(self) -> None:
        """Keep steps, scales and zero points in bounds, after they have learned."""
        for quantizer in self._weights.values():
            quantizer.constrain()
        if self._static is not None:
            for module in self.ranges.values():
                module.constrain()

    def quantizers(self) -> list[Quantizer]:
        """The modules that round, or clip where nothing is rounded."""
        return [module for module in self.modules() if isinstance(module, Quantizer)]

    @torch.no_grad()
    def blocks(self, sample: Mapping[str, NDArray[Any]]) -> list[Block]:
        """The blocks between tensors that everything passes, and that the float model has too.

        Args:
            sample: inputs by name, to see which tensors are floats.
        """
        floats: set[str] = set()

        def watch(node: Node, results: tuple[Tensor, ...]) -> None:
            floats.update(n for n, r in zip(node.outputs, results, strict=False) if r.is_floating_point())

        feeds = {name: torch.from_numpy(np.array(array)) for name, array in sample.items()}
        self.module.run(feeds, self.module.outputs, watch)
        named = {name for node in self.document.proto.graph.node for name in node.output}
        return blocks_of(self.module, self._weights.keys(), floats & named)

    @contextmanager
    def in_float(self) -> Iterator[None]:
        """Let nothing be rounded meanwhile."""
        with self.rounding(is_on=False):
            yield

    @contextmanager
    def rounding(self, *, is_on: bool) -> Iterator[None]:
        """Let everything or nothing be rounded meanwhile."""
        quantizers = self.quantizers()
        before = [quantizer.is_on for quantizer in quantizers]
        for quantizer in quantizers:
            quantizer.is_on = is_on
        try:
            yield
        finally:
            for quantizer, is_on in zip(quantizers, before, strict=True):
                quantizer.is_on = is_on

    def forward(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        return self.module(feeds)  # type: ignore[no-any-return]  # torch types calls of modules as Any

    @torch.no_grad()
    def tuned(self) -> Tuned:
        """The result of learning."""
        document, changed = self.document.copy(), list[str]()
        tensors = {tensor.name: tensor for tensor in document.proto.graph.initializer}
        for name in (*self._vectors(), *self._statistics):
            values = self.module.constant(name).detach().numpy()
            if not np.array_equal(values, document.array(tensors[name])):
                tensors[name].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
                changed.append(name)
        encoded = dict(self._encoded)
        for site in self._sites.values():
            if site.tensor.name in self._weights:
                encoded[site.name] = self._weights[site.tensor.name].encode(self.module.constant(site.tensor.name))
        static = self._static
        if static is not None:
            ranges = {source: module.range for source, module in self.ranges.items()}
            static = replace(static, ranges={**static.ranges, **ranges})
        return Tuned(document, encoded, static, tuple(changed))


class _DynamicProduct(nn.Module):
    """A product whose activations are rounded on every call."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node, self._quantizer = node, DynamicQuantizer()

    def forward(self, values: Tensor, *others: Tensor) -> Tensor:
        """The product."""
        function = OPERATORS[self._node.domain, self._node.op].function
        result = function(self._node, self._quantizer(values), *others)
        assert isinstance(result, Tensor)
        return result


def _is_vector(values: Tensor) -> bool:
    return max(values.shape, default=1) == values.numel() and bool(torch.isfinite(values).all())

