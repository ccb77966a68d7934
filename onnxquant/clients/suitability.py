"""Whether a client runs a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import onnx

from onnxquant.clients.client import Client, Slow
from onnxquant.clients.forms import Form, forms, versions_of
from onnxquant.clients.releases import releases
from onnxquant.clients.sizes import Shapes, Size


class Support(StrEnum):
    """Whether a client runs a file."""

    YES = "yes"
    SLOW = "yes, but slow"
    NO = "no"


@dataclass(frozen=True)
class Suitability:
    """The answer for one client.

    Attributes:
        support: whether it runs the file.
        reason: the first operator or type that stops it or makes it slow, or that is slow in some sizes; empty where there
            is none.
        depends_on_rows: whether it is slow in products of few rows alone, and how many it has is not known.
    """

    support: Support
    reason: str = ""
    depends_on_rows: bool = False


def check(
    proto: onnx.ModelProto, clients: Iterable[Client], shapes: Shapes | None = None
) -> dict[str, Suitability]:
    """Whether clients run a model, and fast, by the name of the client.

    Args:
        proto: the model.
        clients: the clients.
        shapes: shapes of its tensors, as far as they are known.

    >>> text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Add(x, x) }'
    >>> from onnxquant.clients import client_named
    >>> check(onnx.parser.parse_model(text), [client_named("onnxruntime-1.18")])["onnxruntime-1.18"].support.value
    'yes'
    """
    clients = list(clients)
    refusals = {client.name: _header(proto, client) for client in clients}
    answers = check_nodes(proto, clients, shapes)
    return {name: Suitability(Support.NO, refusals[name]) if refusals[name] else answers[name] for name in answers}


def check_nodes(
    proto: onnx.ModelProto, clients: Sequence[Client], shapes: Shapes | None = None
) -> dict[str, Suitability]:
    """Whether clients compute the nodes of a model, and fast, whatever its opset and size, by the name of the client."""
    nodes = {f: forms(proto, functions=f, shapes=shapes) for f in {client.functions for client in clients}}
    return {client.name: _check_forms(nodes[client.functions], client) for client in clients}


def _check_forms(nodes: Iterable[Form], client: Client) -> Suitability:
    always = [entry for entry in client.slow if not entry.depends_on_size]
    in_some_sizes = [entry for entry in client.slow if entry.depends_on_size]
    slow = small = of_few_rows = ""
    for form in nodes:
        if reason := _refusal(form, client):
            return Suitability(Support.NO, f"{form}: {reason}")
        slow = slow or _reason(form, client, always)
        small = small or _reason(form, client, in_some_sizes)
        of_few_rows = of_few_rows or _reason(form, client, in_some_sizes, least_rows=1)
    if slow:
        return Suitability(Support.SLOW, slow)
    return Suitability(Support.YES, small or of_few_rows, depends_on_rows=bool(of_few_rows) and not small)


def slow_reason(form: Form, client: Client) -> str:
    """The reason why a client certainly runs a form of nodes slower than floats; empty where it does not."""
    return _reason(form, client, (entry for entry in client.slow if not entry.is_only_said))


def _reason(form: Form, client: Client, entries: Iterable[Slow], least_rows: int | None = None) -> str:
    """The reason of the first entry that a form of nodes fits; empty where it fits none.

    Args:
        form: the form.
        client: the client.
        entries: entries of the client.
        least_rows: number of rows that there may be where it is not known; None: nothing is assumed.
    """
    fitting = (e for e in entries if _is_slow(form, e, client) and _is_small(form.size, e, least_rows))
    return next((f"{form}: {entry.reason}" for entry in fitting), "")


def _is_small(size: Size | None, slow: Slow, least_rows: int | None) -> bool:
    """Whether a node of some size is slow."""
    if not slow.depends_on_size:
        return True
    rows = least_rows if size is None or size.rows is None else size.rows
    if size is None or (slow.below_inputs and size.inputs >= slow.below_inputs):
        return False
    if slow.below_rows and (rows is None or rows >= slow.below_rows):
        return False
    return not slow.below_work or (rows is not None and rows * size.inputs * size.outputs < slow.below_work)


def _header(proto: onnx.ModelProto, client: Client) -> str:
    """The reason why a client does not read a file; empty where it does."""
    table = releases()
    opset, highest = versions_of(proto.opset_import).get("", 0), table.opsets[client.place]
    if opset > highest:
        return f"opset {opset}; it knows {highest}"
    if proto.ir_version > table.ir_versions[client.place]:
        return f"version {proto.ir_version} of the file format; it knows {table.ir_versions[client.place]}"
    for name in client.once:
        domain, _, operator = name.rpartition("::")
        if (count := sum((n.domain, n.op_type) == (domain, operator) for n in proto.graph.node)) > 1:
            return f"{name}: {count} nodes; it takes one in a file"
    size = proto.ByteSize()
    return f"{size} bytes; it takes {client.max_bytes}" if client.max_bytes and size > client.max_bytes else ""


def _refusal(form: Form, client: Client) -> str | None:
    if client.domains and (form.domain or "ai.onnx") not in client.domains:
        return "no such operator"
    if str(form) in client.lacks:
        return "no such operator"
    if form.first_type and f"{form} of {form.first_type}" in client.lacks:
        return f"no such operator for {form.first_type}"
    for _, kind in form.types:
        if kind in client.types:
            return f"{kind} is not supported"
    return releases().refusal(client.place, form)


def _is_slow(form: Form, slow: Slow, client: Client) -> bool:
    if form.operator not in slow.operators or (slow.before and releases().place(slow.before) <= client.place):
        return False
    if (slow.with_float_bias and not form.has_float_bias) or (slow.with_unpacking and not form.is_unpacked):
        return False
    if slow.codes and form.codes != slow.codes:
        return False
    if slow.element_type and slow.element_type not in dict(form.types).values():
        return False
    return slow.bits in (0, form.attribute("bits")) and form.attribute("block_size") >= slow.from_block
