"""Time of products in a format on this machine: one lowered product at a time, run as the file would run it."""

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
from onnxquant.graph.needs import UseKind
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import Site, find_sites
from onnxquant.native import dispatch
from onnxquant.plan.decision import Decision, EncodeDecision, Plan

# A product runs at least this many times, and more until this many seconds have passed.
_LEAST, _SECONDS = 7, 0.05


class ProductTimer:
    """Times products; those of one shape, format and target are run once.

    Args:
        opset: opset of the model
        threads: number of threads of a session; None: ONNX Runtime's choice
    """

    def __init__(self, opset: int, threads: int | None) -> None:
        self._opset, self._threads = opset, threads
        self._known: dict[tuple[object, ...], float] = {}

    def seconds(self, site: Site, decision: Decision, positions: int) -> float:
        """Seconds per sample of one site's products; 0 where it is decoded at load, or only looked up.

        Args:
            site: the weight
            decision: decision about the weight
            positions: number of rows that it is multiplied with
        """
        if (isinstance(decision, EncodeDecision) and decision.folded) or not site.served(UseKind.PRODUCT):
            return 0.0
        key = (site.rows, site.cols, site.tensor.data_type, positions, decision.format, decision.target)
        if key not in self._known:
            self._known[key] = self._measured(site, decision, positions)
        return self._known[key] * len(site.served(UseKind.PRODUCT))

    def _measured(self, site: Site, decision: Decision, positions: int) -> float:
        """Median seconds of one product with a weight of the site's size, encoded as decided."""
        kind = site.tensor.data_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        random = np.random.default_rng(0)
        weight = random.standard_normal((site.cols, site.rows)).astype(dtype)
        shapes = {"x": [positions, site.cols], "y": [positions, site.rows]}
        values = {n: onnx.helper.make_tensor_value_info(n, kind, s) for n, s in shapes.items()}
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [values["x"]], [values["y"]],
            [onnx.numpy_helper.from_array(weight, "w")],
        )  # fmt: skip
        opsets = [onnx.helper.make_opsetid("", self._opset)]
        document = load(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))
        plan = Plan((replace(decision, name=find_sites(document)[0][0].name),))
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
