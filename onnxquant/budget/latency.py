"""How long products take in a format on this machine: one lowered product at a time, timed as the file would run it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from onnxquant import runtime
from onnxquant.artifact import lowering
from onnxquant.graph.io import load
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import How, Site, find
from onnxquant.native import dispatch
from onnxquant.plan.decision import Decision, EncodeDecision, Plan

# Runs of a product: at least so many, and more until so many seconds went by.
_LEAST, _SECONDS = 7, 0.05


class Timer:
    """Seconds of products, each kind measured once.

    Args:
        opset: of the model.
        threads: of sessions.
    """

    def __init__(self, opset: int, threads: int | None) -> None:
        self._opset, self._threads = opset, threads
        self._known: dict[tuple[object, ...], float] = {}

    def seconds(self, site: Site, decision: Decision, positions: int) -> float:
        """Of the products of a site per sample; 0 where its format does not matter: it is decoded at load, or looked up.

        Args:
            site: the weight.
            decision: what becomes of it.
            positions: rows of what it is multiplied with.
        """
        if (isinstance(decision, EncodeDecision) and decision.folded) or not site.served(How.PRODUCT):
            return 0.0
        key = (site.rows, site.cols, site.tensor.data_type, positions, decision.format, decision.target)
        if key not in self._known:
            self._known[key] = self._measured(site, decision, positions)
        return self._known[key] * len(site.served(How.PRODUCT))

    def _measured(self, site: Site, decision: Decision, positions: int) -> float:
        kind = site.tensor.data_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        random = np.random.default_rng(0)
        weight = random.standard_normal((site.cols, site.rows)).astype(dtype)
        shapes = {"x": [positions, site.cols], "y": [positions, site.rows]}
        shown = {n: onnx.helper.make_tensor_value_info(n, kind, s) for n, s in shapes.items()}
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [shown["x"]], [shown["y"]],
            [onnx.numpy_helper.from_array(weight, "w")],
        )  # fmt: skip
        opsets = [onnx.helper.make_opsetid("", self._opset)]
        document = load(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))
        named = replace(decision, name=find(document)[0][0].name)
        plan = Plan((named,))
        with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
            path = Path(folder) / "product.onnx"
            with Publisher(path, external=False, force=True) as publisher:
                lowering.write(document, plan, publisher, lambda _, d: dispatch.rounded_to_nearest(d.format, weight.T))
            session = runtime.open_session(path, runtime.session_options(threads=self._threads), library=True)
            feed = {"x": random.standard_normal(shapes["x"]).astype(dtype)}
            return _median(lambda: runtime.run(session, feed))


def _median(run: Callable[[], object]) -> float:
    run()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < _LEAST or time.perf_counter() - begin < _SECONDS:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return median(times)
