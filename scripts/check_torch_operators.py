"""Compare what models compute as torch modules with what onnxruntime computes.

    python scripts/fetch_models.py
    python scripts/fetch_models.py --catalogue models/zoo.toml
    python scripts/check_torch_operators.py

A row for each model that is there: the largest difference of an output, as a part of that output's largest magnitude, or
the reason why the model is none. Where outputs differ, each node is compared by itself, on the tensors that onnxruntime
computes: a code that falls to the other side changes everything behind it, and onnxruntime's fused operators round
otherwise. Below the rows stand the operators that have no function. The exit code is 1 where a node differs.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fetch_models import FETCHED
from zoo_bench import sources

from onnxquant.errors import OnnxQuantError
from onnxquant.graph.io import Document, load
from onnxquant.graph.node import STANDARD
from onnxquant.graph.traverse import nodes
from onnxquant.modules.graph_module import GraphModule
from onnxquant.modules.node import OPERATORS
from onnxquant.numerics.arrays import Array
from onnxquant.runtime import sessions
from onnxquant.runtime.extended import extendable, output_addition

BOUND = 1e-4
Feed = dict[str, torch.Tensor]


def missing_operators(document: Document) -> set[str]:
    """Operators of a model that have no function."""
    keys = {("" if node.domain in STANDARD else node.domain, node.op_type) for node in nodes(document.proto)}
    return {f"{domain}.{op}".lstrip(".") for domain, op in keys - OPERATORS.keys() - {("", "Constant")}}


@dataclass(frozen=True)
class Difference:
    """The largest difference of some tensors from those of onnxruntime.

    Attributes:
        size: the difference, as a part of the tensor's largest magnitude; infinity: another shape or type.
        name: the tensor.
        op: operator of the node that computes it.
        is_equal: whether no tensor differs more than it may.
    """

    size: float
    name: str
    op: str
    is_equal: bool


def of_outputs(module: GraphModule, path: Path, feed: Feed, bound: float) -> Difference:
    """The difference of a model's outputs."""
    session = sessions.open_session(path, sessions.session_options(threads=1))
    return _difference(module, module.run(feed, module.outputs), sessions.run(session, _arrays(feed)), bound)


def of_nodes(module: GraphModule, path: Path, feed: Feed, bound: float) -> Difference:
    """The difference of each node by itself: on the tensors that onnxruntime computes, without its fused operators."""
    names = [name for name in module.producers if name not in module.outputs]
    with extendable(path, 1) as source:
        session = source.session(output_addition(names), optimize=False)
        expected = sessions.run(session, _arrays(feed))
    known = {name: torch.from_numpy(np.asarray(array)) for name, array in expected.items()} | feed
    values: dict[str, torch.Tensor] = {}
    for node in module.nodes:
        if not node.op.startswith("Random"):
            read = {name: known[name] for name in node.inputs if name in known}
            values |= module.run(read, [name for name in node.outputs if name in expected])
    return _difference(module, values, {name: expected[name] for name in values}, bound)


def _arrays(feed: Feed) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in feed.items()}


def _difference(
    module: GraphModule, values: Mapping[str, torch.Tensor], expected: Mapping[str, Array], bound: float
) -> Difference:
    sizes = {name: _apart(values[name].numpy(), np.asarray(array)) for name, array in expected.items()}
    limits = {name: _limit(module.producers[name].op, values[name], bound) for name in sizes}
    worst = max(sizes, key=lambda name: sizes[name] / limits[name])
    return Difference(sizes[worst], worst, module.producers[worst].op, sizes[worst] <= limits[worst])


def _limit(op: str, values: torch.Tensor, bound: float) -> float:
    """The largest difference that counts as equal."""
    if op == "DynamicQuantizeLSTM":  # a code that falls to the other side changes all steps behind it
        return 2e-2
    return 4e-3 if values.dtype == torch.float16 else bound  # halves have no more digits


def _apart(array: Array, expected: Array) -> float:
    """The largest difference of two arrays as a part of the second one's largest magnitude; infinity: other shapes."""
    if array.shape != expected.shape or array.dtype != expected.dtype:
        return float("inf")
    if not expected.size:
        return 0.0
    values, others = array.astype(np.float64), expected.astype(np.float64)
    is_equal = (values == others) | (np.isnan(values) & np.isnan(others))
    magnitude = float(np.abs(others, where=np.isfinite(others), out=np.zeros_like(others)).max())
    return float(np.where(is_equal, 0, np.abs(values - others)).max()) / (magnitude or 1.0)


def _row(source: sources.Source, bound: float) -> tuple[str, bool]:
    """The words on a model, and whether it differs."""
    try:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            files = source.prepare(Path(folder))
            with np.load(files.test) as data:
                feed = {name: torch.from_numpy(np.asarray(data[name][0])) for name in data.files}
            module = GraphModule(load(files.model))
            whole = of_outputs(module, files.model, feed, bound)
            if whole.is_equal:
                return f"equal: {whole.size:.1e}", False
            each = of_nodes(module, files.model, feed, bound)
    except OnnxQuantError as error:
        return f"refused: {error}", False
    words = "each node equal" if each.is_equal else "DIFFERS"
    return f"{words}: {each.size:.1e} at most ({each.op} {each.name!r}); outputs {whole.size:.1e}", not each.is_equal


def main() -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="REGEX", help="models whose name contains a match (default: all)")
    parser.add_argument("--bound", type=float, default=BOUND, help="largest difference that counts as equal")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [s for s in sources.real() if not arguments.names or any(re.search(n, s.name) for n in arguments.names)]
    missing, wrong = Counter[str](), 0
    for source in chosen:
        row, is_wrong = _row(source, arguments.bound)
        wrong += is_wrong
        print(f"{source.name:26} {row}", flush=True)
        entry = FETCHED / source.name
        missing.update(*(missing_operators(load(path)) for path in entry.glob("*.onnx")))
    for operator, count in missing.most_common():
        print(f"no function: {operator} ({count} models)")
    print(f"{len(chosen)} models, {wrong} differ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
