"""Lowering of a plan: a copy of the model in which every decision is carried out.

The same code predicts sizes and writes files. With a SizeCounter as the sink and no weights it only counts bytes; with a
Publisher it writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxquant.artifact.float16 import convert_to_float16, converted_record
from onnxquant.artifact.loading import loading_notes
from onnxquant.artifact.records import Metadata, Record, entry_text
from onnxquant.errors import ModelError
from onnxquant.formats.base import Encoded, Format
from onnxquant.graph.computed import restore_computations
from onnxquant.graph.data_files import DataFiles
from onnxquant.graph.io import Document, nbytes
from onnxquant.graph.model_editor import ModelEditor, Sink
from onnxquant.graph.names import DOMAIN, METADATA, ORIGIN, PREPARATION
from onnxquant.graph.needs import UseKind
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import Site, find_sites
from onnxquant.graph.size_counter import SizeCounter
from onnxquant.graph.traverse import graphs, replace_field, tensors
from onnxquant.passes.float16.convert import Float16Result
from onnxquant.plan.activations import StaticRecord
from onnxquant.plan.decision import EncodeDecision, Plan
from onnxquant.targets import layout_types, target_named
from onnxquant.targets.experts import whole_layers
from onnxquant.targets.integer_operators import add_integer_operators
from onnxquant.version import __version__

Encode = Callable[[Site, EncodeDecision], Encoded | None]


@dataclass(frozen=True)
class LoweredModel:
    """A copy of a model in which every decision is carried out.

    Attributes:
        proto: the model
        records: its encoded weights
        float16: outcome of the conversion of all that stays in float; None where it keeps its types
    """

    proto: onnx.ModelProto
    records: Sequence[Record]
    float16: Float16Result | None


def lower(document: Document, plan: Plan, sink: Sink, encode: Encode | None) -> LoweredModel:
    """A copy of the model in which every decision is carried out.

    Args:
        document: the prepared model; it is not changed
        plan: the decisions
        sink: receiver of planes
        encode: function that returns the encoded weight of a site, or None where it stays in float; None: sizes only
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(document.proto)
    copy = Document(proto, memoryview(b""), document.path)
    copy.least_elements = document.least_elements
    editor = ModelEditor(proto, sink)
    sites = {s.name: s for s in find_sites(copy)[0]}
    lowered_sites: dict[str, list[tuple[Site, Format]]] = {}
    records = []
    in_layers = _in_layers(plan, sites, editor.opset)
    for decision in plan.encoded:
        site = sites[decision.name]
        has_experts = bool(site.served(UseKind.EXPERTS))
        site = site.folded() if decision.folded or (has_experts and site.name not in in_layers) else site
        encoded = encode(site, decision) if encode else None
        if encode and encoded is None:
            if site.name in in_layers:
                raise ModelError(f"{site.name}: cannot be encoded, so its layer of experts cannot; --exclude both weights")
            continue
        form = encoded.format if encoded else decision.format
        lowered = target_named(decision.target).lower(editor, site, form, encoded)
        if undeclared := lowered.planes.keys() - layout_types().keys():
            # Nobody could read the file again.
            raise ModelError(
                f"target {decision.target} does not declare its layout {min(undeclared)!r} in layout_types"
            )
        editor.drop_initializer(site.graph, site.tensor.name)
        lowered_sites.setdefault(decision.target, []).append((site, form))
        records.append(Record.of(site, form, decision.target, lowered))
    editor.finish()
    for target, pairs in lowered_sites.items():
        target_named(target).finish(editor, pairs)
    if plan.activations:
        plan.activations.insert(proto)
    if plan.integer_operators:
        add_integer_operators(proto, document)
    restore_computations(proto, document.computations)
    _drop_stale_shapes(proto)
    outcome = convert_to_float16(document, proto, plan.float16, records, sink) if plan.float16 else None
    records = [converted_record(record, outcome) for record in records] if outcome else records
    editor.annotate(METADATA, entry_text(_metadata(document, plan, records)))
    if plan.origin:
        editor.annotate(ORIGIN, plan.origin)
    if plan.preparation:
        editor.annotate(PREPARATION, plan.preparation)
    return LoweredModel(proto, records, outcome)


def _in_layers(plan: Plan, sites: Mapping[str, Site], opset: int) -> set[str]:
    """Names of the weights that their layers of experts read as codes: all of them do, in one way, or none."""
    chosen = [(sites[d.name], d.format) for d in plan.encoded if not d.folded and target_named(d.target).takes_experts]
    return whole_layers([(site, form) for site, form in chosen if site.served(UseKind.EXPERTS)], opset)


@dataclass(frozen=True)
class PredictedSize:
    """The size of an output before it is written. It is exact unless encoding refuses a weight.

    Attributes:
        nbytes: bytes of the model and its data file together
        constants: bytes of its tensors alone: without nodes and metadata
        float16: outcome of the conversion of all that stays in float; None where it keeps its types
        loading: sentences on weights that are decoded when a session is created, where they are many
        has_operators: whether nodes of the original became operators of ours
    """

    nbytes: int
    constants: int
    float16: Float16Result | None = None
    loading: tuple[str, ...] = ()
    has_operators: bool = False


def constant_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of a model's tensors: initializers, and those in attributes of nodes."""
    return sum(nbytes(tensor) for tensor in tensors(proto))


def predict(document: Document, plan: Plan, data: DataFiles | None) -> PredictedSize:
    """The size of the output.

    Args:
        document: the prepared model
        plan: the decisions
        data: names of the data files; None: tensors go into the model
    """
    counter = SizeCounter(data)
    lowered = lower(document, plan, counter, None)
    proto = lowered.proto
    counter.keep(proto, document)
    constants = constant_bytes(proto)
    loading = tuple(loading_notes(proto, lowered.records))
    has_operators = any(node.domain == DOMAIN for node in proto.graph.node)
    return PredictedSize(counter.total(proto), constants, lowered.float16, loading, has_operators)


def write(document: Document, plan: Plan, publisher: Publisher, encode: Encode) -> None:
    """Carry the plan out and publish the result."""
    proto = lower(document, plan, publisher, encode).proto
    publisher.keep(proto, document)
    publisher.publish(proto)


def _metadata(document: Document, plan: Plan, records: Sequence[Record]) -> Metadata:
    """The file's metadata: its origin in figures, and a record of each encoded weight."""
    return Metadata(
        version=__version__,
        source_bytes=document.size(),
        weights=sum(d.elements for d in plan.decisions),
        float_bytes=sum(d.float_bytes for d in plan.decisions),
        records=tuple(records),
        activations=plan.activation_record,
        rescaled=plan.rescaled,
        samples=None if isinstance(plan.activation_record, StaticRecord) else plan.samples,
        float16=True if plan.float16 else None,
        pruned=plan.pruned,
    )


def _drop_stale_shapes(proto: onnx.ModelProto) -> None:
    """Drop the recorded shapes of tensors that no node computes any more."""
    for graph in graphs(proto.graph):
        computed = {o for n in graph.node for o in n.output}
        present = [v for v in graph.value_info if v.name in computed]
        if len(present) != len(graph.value_info):
            replace_field(graph.value_info, present)
