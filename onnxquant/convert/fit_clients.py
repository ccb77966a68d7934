"""The check that the clients of a file run it, before anything is encoded."""

from __future__ import annotations

from collections.abc import Sequence

from onnxquant.artifact import lowering
from onnxquant.clients import Client, Support, check
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.size_counter import SizeCounter
from onnxquant.plan.decision import Plan


def refuse_original(original: Document, clients: Sequence[Client]) -> None:
    """Refuse a model that a client does not run as it is.

    Raises:
        ModelError: a client does not run it.
    """
    for name, answer in check(original.proto, clients).items():
        if answer.support is Support.NO:
            raise ModelError(f"{original.name}: {name} does not run this model as it is: {answer.reason}")


def refuse_unfit(document: Document, plan: Plan, clients: Sequence[Client]) -> list[str]:
    """Refuse a plan whose file a client would not run; sentences on clients that would run it slowly.

    Args:
        document: the model that the plan is of
        plan: the plan
        clients: clients that the file is for

    Raises:
        ModelError: a client would not run it.
    """
    if not clients:
        return []
    proto = lowering.lower(document, plan, SizeCounter(), None).proto
    answers, before = check(proto, clients), check(document.proto, clients)
    slow = []
    for name, answer in answers.items():
        if answer.support is Support.NO:
            remedy = "leave out --activations, or name another format"
            raise ModelError(f"{document.name}: {name} would not run the file: {answer.reason}; {remedy}")
        if answer.support is Support.SLOW and before[name].support is Support.YES:
            slow.append(f"slower than float on {name}: {answer.reason}")
    return slow

