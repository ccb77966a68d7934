"""Whether a client runs a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import onnx

from onnxquant.clients.client import Client, Slow
from onnxquant.clients.forms import Form, forms, versions_of
from onnxquant.clients.releases import releases


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
        reason: the first operator or type that stops it or makes it slow; empty where nothing does.
    """

    support: Support
    reason: str = ""


def check(proto: onnx.ModelProto, clients: Iterable[Client]) -> dict[str, Suitability]:
    """Whether clients run a model, and fast, by the name of the client.

    >>> text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Add(x, x) }'
    >>> from onnxquant.clients import client_named
    >>> check(onnx.parser.parse_model(text), [client_named("onnxruntime-1.18")])["onnxruntime-1.18"].support.value
    'yes'
    """
    clients = list(clients)
    refusals = {client.name: _header(proto, client) for client in clients}
    answers = check_nodes(proto, clients)
    return {name: Suitability(Support.NO, refusals[name]) if refusals[name] else answers[name] for name in answers}


def check_nodes(proto: onnx.ModelProto, clients: Sequence[Client]) -> dict[str, Suitability]:
    """Whether clients compute the nodes of a model, and fast, whatever its opset and size, by the name of the client."""
    nodes = {functions: forms(proto, functions=functions) for functions in {c.functions for c in clients}}
    return {client.name: _check_forms(nodes[client.functions], client) for client in clients}


def _check_forms(nodes: Iterable[Form], client: Client) -> Suitability:
    slow = ""
    for form in nodes:
        if reason := _refusal(form, client):
            return Suitability(Support.NO, f"{form}: {reason}")
        slow = slow or slow_reason(form, client)
    return Suitability(Support.SLOW, slow) if slow else Suitability(Support.YES)


def slow_reason(form: Form, client: Client) -> str:
    """The reason why a client runs a form of nodes slower than floats; empty where it does not."""
    return next((f"{form}: {s.reason}" for s in client.slow if _is_slow(form, s, client)), "")


def _header(proto: onnx.ModelProto, client: Client) -> str:
    """The reason why a client does not read a file; empty where it does."""
    table = releases()
    opset, highest = versions_of(proto.opset_import).get("", 0), table.opsets[client.place]
    if opset > highest:
        return f"opset {opset}; it knows {highest}"
    if proto.ir_version > table.ir_versions[client.place]:
        return f"version {proto.ir_version} of the file format; it knows {table.ir_versions[client.place]}"
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
    if slow.operator != form.operator or (slow.before and releases().place(slow.before) <= client.place):
        return False
    if slow.codes and form.codes != slow.codes:
        return False
    if slow.element_type and slow.element_type not in dict(form.types).values():
        return False
    return slow.bits in (0, form.attribute("bits")) and form.attribute("block_size") >= slow.from_block
