"""Sessions that observe the outputs of convolutions in the blocked layout in which ONNX Runtime computes them.

ONNX Runtime keeps tensors between convolutions as [N, C/16, H, W, 16] (or blocks of 8), and puts a ReorderOutput in front of
every other op, the observers' included. That would copy each observed tensor. So in the optimized graph the observers read
the tensor before ReorderOutput: its order differs, its statistics do not.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxquant.graph.names import DOMAIN
from onnxquant.graph.traverse import nodes
from onnxquant.runtime import sessions

_BLOCKED = "com.microsoft.nchwc"
# Channels are padded to whole blocks; a multiple of the largest has no padding that would be observed.
_BLOCK = 16


def blocked_session(session: sessions.Session, optimized: Path, threads: int | None) -> sessions.Session:
    """A session in which observers read blocked tensors; the session passed in where there are none.

    Args:
        session: a session on the model with observers.
        optimized: file with the optimized graph of that session.
        threads: number of threads of the new session.

    Raises:
        ModelError: onnxruntime refuses its own graph.
    """
    proto = onnx.load(str(optimized), load_external_data=False)
    if not read_blocked(proto):
        return session
    optimized.write_bytes(proto.SerializeToString())
    return sessions.open_session(optimized, sessions.session_options(threads=threads, optimize=False))


def read_blocked(proto: onnx.ModelProto) -> int:
    """Let observers read blocked tensors, in place; returns the number of observers that do."""
    graph = proto.graph
    reorders = {n.output[0]: n for n in graph.node if n.domain == _BLOCKED and n.op_type == "ReorderOutput"}
    count = 0
    for node in graph.node:
        if node.domain == DOMAIN and node.op_type == "Observe" and node.input[0] in reorders:
            reorder = reorders[node.input[0]]
            if all(a.i % _BLOCK == 0 for a in reorder.attribute if a.name == "channels"):
                node.input[0] = reorder.input[0]
                count += 1
    used = {name for node in nodes(proto) for name in node.input} | {o.name for o in graph.output}
    for name, reorder in reorders.items():
        if name not in used:
            graph.node.remove(reorder)
    return count
