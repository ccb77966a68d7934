"""Whether clients compute the nodes that a weight becomes, asked of a model of that weight alone."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxquant.clients import Client, Support
from onnxquant.clients.suitability import check_nodes
from onnxquant.formats.base import Format
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.shapes import outlined
from onnxquant.graph.sites import Site, find_sites
from onnxquant.graph.size_counter import SizeCounter
from onnxquant.targets import Target


def refusal_of_clients(
    site: Site, form: Format, target: Target, opset: int, clients: Sequence[Client]
) -> Refusal | None:
    """The reason why a client does not compute a weight in a format as a target makes nodes of it, or not fast.

    Args:
        site: the weight; folded where it is decoded when a session is created
        form: its format
        target: the target
        opset: opset of the model
        clients: clients that the file is for
    """
    if not clients:
        return None
    proto = _alone(site, opset)
    alone = next((s for s in find_sites(Document(proto, memoryview(b""), None))[0] if s.name == site.tensor.name), None)
    if alone is None:
        return None
    alone = alone if site.has_kernel else alone.folded()
    editor = ModelEditor(proto, SizeCounter())
    target.lower(editor, alone, form, None)
    editor.finish()
    target.finish(editor, [(alone, form)])
    answers = check_nodes(proto, clients).items()
    return next((Refusal(f"{n}: {a.reason}") for n, a in answers if a.support is not Support.YES), None)


def _alone(site: Site, opset: int) -> onnx.ModelProto:
    """A model of the nodes that read a weight, with all their other inputs as inputs of the graph."""
    proto = onnx.ModelProto(ir_version=10)
    proto.opset_import.add(domain="", version=opset)
    proto.opset_import.add(domain=MICROSOFT, version=1)
    graph = proto.graph
    graph.name = "alone"
    graph.initializer.append(outlined(site.tensor))
    for use in site.uses:
        graph.node.extend([use.graph.node[use.via]] if use.via is not None else [])
        graph.node.append(use.node)
    outputs = {name for node in graph.node for name in node.output}
    read = dict.fromkeys(name for node in graph.node for name in node.input if name)
    graph.input.extend(onnx.ValueInfoProto(name=n) for n in read if n not in outputs and n != site.tensor.name)
    graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in graph.node)
    return proto
