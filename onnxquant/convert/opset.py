"""Conversion to a newer opset where a plan gains by it, proven by equal outputs.

The converted model is taken only when onnxruntime gives the same outputs for both models.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from onnxquant import runtime
from onnxquant.errors import FeedError, ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.publish import write_copy
from onnxquant.graph.sites import find_sites
from onnxquant.passes.prepare.opset import ConvertOpset
from onnxquant.plan.planner import make_plan
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import Recipe
from onnxquant.targets import target_named
from onnxquant.targets.kinds import LAST_DEQUANTIZE_OPSET
from onnxquant.validation.reference import sampled_outputs

_TOLERANCE = 1e-4
# The first opset whose DequantizeLinear has a scale for each channel: the step between none and blocks.
_CHANNELS_OPSET = 13


def raise_opset(document: Document, recipe: Recipe, required: int = 0) -> list[str]:
    """Raise the opset in place where the plan would use a newer one; sentences on the change.

    Args:
        document: the prepared model
        recipe: rules of the plan
        required: opset that is needed besides
    """
    highest = min((client.opset for client in recipe.clients), default=LAST_DEQUANTIZE_OPSET)
    before, needed = document.opset, max(min(_useful_opset(document, recipe), highest), required)
    if needed <= before:
        return []
    failures: list[str] = []
    for opset in (needed, _CHANNELS_OPSET):
        if not before < opset <= needed or (failures and opset == needed):
            continue
        converted = document.copy()
        result = ConvertOpset(opset)(converted)
        failure = _difference(document, converted) if result.changed else ""
        if result.changed and not failure:
            document.proto.CopyFrom(converted.proto)
            return [*failures, *(f"{note}, outputs equal" for note in result.notes)]
        failures += [f"no opset {opset}: the conversion is not proven ({failure})"] if failure else result.notes
    return [f"opset stays {before}", *failures]


def _useful_opset(document: Document, recipe: Recipe) -> int:
    """The newest opset that a decision's target asks for."""
    sites, skipped = find_sites(document)
    plan = make_plan(sites, skipped, recipe, LAST_DEQUANTIZE_OPSET)
    by_name = {s.name: s for s in sites}
    decided = [(by_name[d.name].folded() if d.folded else by_name[d.name], d) for d in plan.encoded]
    return max((target_named(d.target).wanted_opset(site, d.format) for site, d in decided), default=0)


def _difference(document: Document, converted: Document) -> str:
    """The reason why the converted model is not the same function; empty when it is."""
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        write_copy(document, before)
        write_copy(converted, after)
        try:
            return _compare_outputs(before, after)
        except (ModelError, FeedError) as error:
            return str(error)


def _compare_outputs(before: Path, after: Path) -> str:
    """The first output that differs between two models, in a few words; empty where none does."""
    samples = sampled_outputs(before, None, Options(samples=1))
    got = runtime.run(runtime.open_session(after, runtime.session_options(mapped=True)), samples.feeds[0])
    for name, value in samples.outputs[0].items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            # NaN and infinity must match exactly; the tolerance is scaled by the largest finite value.
            atol = _TOLERANCE * (float(np.abs(value[np.isfinite(value)]).max(initial=0)) or 1.0)
            near = value.shape == got[name].shape and np.allclose(value, got[name], rtol=0, atol=atol, equal_nan=True)
            if not near:
                return f"output {name!r} differs"
    return ""
