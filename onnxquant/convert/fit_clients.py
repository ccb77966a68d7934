"""The check that the clients of a file run it, before anything is encoded."""

from __future__ import annotations

from collections.abc import Sequence

from onnxquant.artifact import lowering
from onnxquant.clients import Client, Shapes, Support, check
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.size_counter import SizeCounter
from onnxquant.plan.decision import Plan

# The way to let kernels of unknown sizes be judged.
_ROWS = "how many rows it has is not known: samples (--data) show it"


def refuse_original(original: Document, clients: Sequence[Client]) -> None:
    """Refuse a model that a client does not run as it is.

    Raises:
        ModelError: a client does not run it.
    """
    for name, answer in check(original.proto, clients).items():
        if answer.support is Support.NO:
            raise ModelError(f"{original.name}: {name} does not run this model as it is: {answer.reason}")


def in_float_for_clients(plan: Plan) -> list[str]:
    """A sentence on the kernels that stay in float, since a client computes them slower on integers, if there are any."""
    slow = dict(plan.activations.slow_on_clients) if plan.activations else {}
    if not slow:
        return []
    kernels = "1 kernel stays" if len(slow) == 1 else f"{len(slow)} kernels stay"
    return [f"{kernels} in float, where on integers it would be {'; or '.join(dict.fromkeys(slow.values()))}"]


def refuse_unfit(document: Document, plan: Plan, clients: Sequence[Client], shapes: Shapes) -> list[str]:
    """Refuse a plan whose file a client would not run; sentences on clients that would run it slowly.

    Args:
        document: the model that the plan is of
        plan: the plan
        clients: clients that the file is for
        shapes: shapes of the tensors of the model, as far as they are known

    Raises:
        ModelError: a client would not run it.
    """
    if not clients:
        return []
    proto = lowering.lower(document, plan, SizeCounter(), None).proto
    answers, before = check(proto, clients, shapes), check(document.proto, clients)
    slow = []
    for name, answer in answers.items():
        if answer.support is Support.NO:
            remedy = "leave out --activations, or name another format"
            raise ModelError(f"{document.name}: {name} would not run the file: {answer.reason}; {remedy}")
        if answer.support is Support.SLOW and before[name].support is Support.YES:
            slow.append(f"slower than float on {name}: {answer.reason}")
        elif answer.support is Support.YES and answer.reason and not before[name].reason:
            is_open = plan.activations is not None and answer.depends_on_rows
            slow.append(f"may be slower than float on {name}: {answer.reason}{f'; {_ROWS}' * is_open}")
    return slow

