"""The clients that run a file, and the onnxruntime that is fast with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxquant.clients import Suitability, Support, check, clients, release_clients
from onnxquant.graph.io import load
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.traverse import nodes
from onnxquant.targets.bodies import DEQUANTIZE

# Ops that onnxruntime computes on codes, itself or after fusing them with what follows.
_ON_CODES = {
    "MatMulNBits", "GatherBlockQuantized", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger",
    "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "QAttention",
    "DynamicQuantizeLSTM", "QMoE",
}  # fmt: skip


@dataclass(frozen=True)
class ClientInfo:
    """The answer to whether a client runs a file.

    Attributes:
        client: name of the client.
        runs: yes, "yes, but slow", or no.
        reason: the first operator or type that stops it or is slow; empty where nothing is.
        source: origin of what is known: the client was run, or its documentation read.
        version: version of the client that this is about.
        date: date of that.
    """

    client: str
    runs: str
    reason: str
    source: str
    version: str
    date: str


@dataclass(frozen=True)
class Releases:
    """The releases of onnxruntime that run a file.

    Attributes:
        loads: the oldest from which on all load it; None: the newest does not.
        fast: the oldest from which on all are fast with it; None: the newest is not.
        reason: the reason why the release before ``loads``, or the newest one, does not load it; empty where there is none.
        slow: the reason why the newest is slow; empty where it is not.
    """

    loads: str | None
    fast: str | None
    reason: str
    slow: str


def where_it_runs(answers: Mapping[str, Suitability]) -> list[ClientInfo]:
    """The answers of clients, with what is known of each."""
    known = clients()
    return [
        ClientInfo(name, answer.support, answer.reason, known[name].source, known[name].version, known[name].date)
        for name, answer in answers.items()
    ]


def releases_that_run(answers: Mapping[str, Suitability]) -> Releases:
    """The releases of onnxruntime that run a model, and fast, by the answers of all of them."""
    known = release_clients()
    loads = fast = None
    reason = ""
    is_fast = True
    for client in reversed(known):
        answer, minor = answers[client.name], client.release.rpartition(".")[0]
        if answer.support is Support.NO:
            reason = answer.reason
            break
        is_fast = is_fast and answer.support is Support.YES
        loads, fast = minor, minor if is_fast else fast
    newest = answers[known[-1].name]
    return Releases(loads, fast, reason, newest.reason if newest.support is Support.SLOW else "")


def advice(model: str | Path | onnx.ModelProto, *, needs_library: bool = False) -> str:
    """One line: the onnxruntime that loads a file, the one that is fast with it, and whether our kernels make it faster.

    Args:
        model: the file.
        needs_library: whether it was measured slower than the original without our library.

    Raises:
        ModelError: it cannot be read.
    """
    proto = model if isinstance(model, onnx.ModelProto) else load(model).proto
    running = releases_that_run(check(proto, release_clients()))
    if running.loads is None:
        return f"no release of onnxruntime loads it: {running.reason}"
    bodies = {f.name: f for f in proto.functions if f.domain == DOMAIN}
    ours = [n.op_type for n in nodes(proto) if n.domain == DOMAIN and not n.op_type.startswith(DEQUANTIZE)]
    decoded = [op for op in ours if op in bodies and not any(n.op_type in _ON_CODES for n in bodies[op].node)]
    on_codes = any(n.op_type in _ON_CODES for n in nodes(proto)) or len(decoded) < len(ours)
    loads = f"loads on onnxruntime >= {running.loads}"
    if decoded:
        return (
            f"{loads}; there {len(decoded)} of our {len(ours)} ops decode weights at load and are only as fast as float. "
            "Fast with our kernels, on onnxruntime >= 1.23"
        )
    if needs_library:
        return f"{loads}, slower than the original there; fast with our kernels, on onnxruntime >= 1.23"
    speed = "as fast as float on all of them"
    if on_codes:
        speed = f"fast on >= {running.fast}" if running.fast else f"slower than float on all of them: {running.slow}"
    return f"{loads}, {speed}; our kernels are {'optional and faster' if ours else 'not needed'}"
