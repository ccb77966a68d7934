"""Carrying out a plan on a copy of the model: the same code predicts sizes and writes files.

With a Counter as the sink and no weights it is a rehearsal whose sizes are exact; with a Publisher it is the real thing.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import onnx

from onnxquant.artifact.stored import Record
from onnxquant.formats.base import Encoded, Format
from onnxquant.graph import sites as sites_
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import ModelEditor, Sink
from onnxquant.graph.names import ORIGIN, PROVENANCE
from onnxquant.graph.publish import Counter, Publisher, is_stored
from onnxquant.graph.sites import Site
from onnxquant.graph.traverse import graphs, replace_field, tensors
from onnxquant.json_data import to_json
from onnxquant.plan.decision import EncodeDecision, Plan
from onnxquant.targets import Lowered, target_named
from onnxquant.version import __version__

Encode = Callable[[Site, EncodeDecision], Encoded | None]


def lower(document: Document, plan: Plan, sink: Sink, encode: Encode | None) -> onnx.ModelProto:
    """A copy of the model in which every decision is carried out.

    Args:
        document: the prepared model; it is not changed.
        plan: the decisions.
        sink: receives planes.
        encode: gives the encoded weight of a site, or None to leave it in float; None: sizes only.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(document.proto)
    copy = Document(proto, memoryview(b""), document.path)
    editor = ModelEditor(proto, sink)
    found = {s.name: s for s in sites_.find(copy)[0]}
    done: dict[str, list[tuple[Site, Format]]] = {}
    records = []
    for decision in plan.encoded:
        site = found[decision.name]
        site = site.folded() if decision.folded else site
        encoded = encode(site, decision) if encode else None
        if encode and encoded is None:
            continue
        form = encoded.format if encoded else decision.format
        lowered = target_named(decision.target).lower(editor, site, form, encoded)
        editor.drop_initializer(site.graph, site.tensor.name)
        done.setdefault(decision.target, []).append((site, form))
        records.append(_record(site, form, decision.target, lowered))
    editor.finish()
    for name, lowered_sites in done.items():
        target_named(name).finish(editor, lowered_sites)
    if plan.activations:
        plan.activations.insert(proto)
    _tidy(proto)
    editor.annotate(PROVENANCE, _provenance(document, plan, records))
    if plan.origin:
        editor.annotate(ORIGIN, plan.origin)
    return proto


def predict(document: Document, plan: Plan, output: str, *, external: bool) -> int:
    """Bytes of the output, model and data file together, exact but for weights that encoding refuses.

    Args:
        document: the prepared model.
        plan: the decisions.
        output: file name of the output; a data file is named after it.
        external: whether tensors go to the data file.
    """
    counter = Counter(external=external, location=f"{output}.data")
    proto = lower(document, plan, counter, None)
    for graph in graphs(proto.graph):
        for tensor in graph.initializer:
            if not is_stored(tensor) and (raw := document.referenced(tensor)) is not None:
                counter.store(tensor, len(raw), None)
    for tensor in tensors(proto):
        if not is_stored(tensor):
            document.inline(tensor)
    return counter.total(proto)


def write(document: Document, plan: Plan, publisher: Publisher, encode: Encode) -> None:
    """Carry the plan out and publish the result."""
    proto = lower(document, plan, publisher, encode)
    publisher.keep(proto, document)
    publisher.publish(proto)


def _record(site: Site, form: Format, target: str, lowered: Lowered) -> Record:
    view = site.view
    return Record(
        site.name, form.name, form.settings(), target, view.shape, view.perm, view.split, site.tensor.data_type, lowered
    )


def _provenance(document: Document, plan: Plan, done: list[Record]) -> str:
    entries = []
    for record in done:
        entry = {k: v for k, v in vars(record).items() if k != "lowered"}
        entry["planes"] = record.lowered.planes
        entry["results"] = [[r.how.value, r.x, r.y, *([r.bias] if r.bias else [])] for r in record.lowered.results]
        entries.append(entry)
    data = {
        "version": __version__,
        "source_bytes": document.size(),
        "weights": sum(d.elements for d in plan.decisions),
        "float_bytes": sum(d.float_bytes for d in plan.decisions),
        "sites": entries,
    }
    if plan.activations:
        data["activations"] = to_json(plan.activations.record)
    if plan.rescaled:
        data["rescaled"] = list(plan.rescaled)
    return json.dumps(data, separators=(",", ":"))


def _tidy(proto: onnx.ModelProto) -> None:
    """Drop shapes recorded for tensors that are gone."""
    for graph in graphs(proto.graph):
        made = {o for n in graph.node for o in n.output}
        kept = [v for v in graph.value_info if v.name in made]
        if len(kept) != len(graph.value_info):
            replace_field(graph.value_info, kept)
