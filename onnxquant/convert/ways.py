"""Ways of quantizing that can suit a model, by what reads its weights and takes its time, most promising first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from onnxquant.clients import Client, Form, slow_reason
from onnxquant.convert.work import Kind, PreparedModel, Work
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import is_op
from onnxquant.graph.sites import Site
from onnxquant.json_data import JsonValue
from onnxquant.numerics.score import GOOD_DB
from onnxquant.passes.equivalent.smooth import products_without_maker
from onnxquant.recipe.values import Goal
from onnxquant.targets import Activations

# Work of less than this part of the bytes or of the time decides about no way.
_SHARE = 0.1
# Kernels before the outputs are a head where they are fewer than this part of all.
_HEAD = 0.4

# Kinds of work whose weights save no time in 4 bits.
_SMALLER_ALONE = (Kind.CONVOLUTION, Kind.RECURRENT, Kind.LOOKUP)

Rules = tuple[Mapping[str, JsonValue], ...]


class Family(Enum):
    """Ways of which a later one is tried where no earlier one keeps the bound."""

    STATIC = auto()
    INT4 = auto()
    ANY = auto()


@dataclass(frozen=True)
class Way:
    """A way of quantizing a model.

    Attributes:
        name: name in tables.
        options: options that make it.
        rules: rules for some weights, which come after the user's.
        rescues: ways in whose place it is tried, where none of them keeps the bound; None: it is always tried.
        family: ways that it belongs to.
        objection: reason why it is not tried; empty where it is.
    """

    name: str
    options: Mapping[str, JsonValue]
    rules: Rules = ()
    rescues: Family | None = None
    family: Family = Family.ANY
    objection: str = ""

    def comes_of(self, other: Way) -> bool:
        """Whether it is another way, perhaps without rules that match nothing in a model."""
        return self.name == other.name

    @property
    def keywords(self) -> dict[str, JsonValue]:
        """Keywords of ``quantize`` that make it."""
        rules: list[JsonValue] = [dict(rule) for rule in self.rules]
        return {**self.options, **({"recipe": {"rules": rules}} if rules else {})}


_REST: Rules = tuple({"role": role, "format": "int8"} for role in ("conv", "recurrent", "gather"))
_PRODUCTS = ("matmul", "gemm")
INT8 = Way("int8 weights", {"format": "int8"})
INT4 = Way("int4 products, int8 rest", {"format": "int4", "solver": "rtn"}, _REST, family=Family.INT4)
INT4_SOLVED = Way("int4 products, solved", {"format": "int4"}, _REST, rescues=Family.INT4, family=Family.INT4)
# Convolutions, recurrent layers and tables in 4 bits, too: they are decoded when a file is loaded, and save its size alone.
INT4_WHOLE = Way("int4 weights", {"format": "int4", "solver": "rtn"}, family=Family.INT4)
INT4_WHOLE_SOLVED = Way("int4 weights, solved", {"format": "int4"}, rescues=Family.INT4, family=Family.INT4)
MIXED = Way(
    "int8 and int4 weights", {"formats": ["int8", "int4"], "min_sqnr": GOOD_DB}, rescues=Family.INT4, family=Family.INT4
)
DYNAMIC = Way("dynamic int8", {"activations": "dynamic"})
STATIC = Way("static int8", {"activations": "static", "smoothing_muls": False}, family=Family.STATIC)
# A Mul costs time in every call, and so it has to be needed.
STATIC_MULS = Way(
    "static int8, smoothed by Muls", {"activations": "static"}, rescues=Family.STATIC, family=Family.STATIC
)
STATIC_FLOAT_PRODUCTS = Way(
    "static convolutions, int8 weights of products", {"activations": "static"},
    tuple({"role": role, "float_activations": True, "format": "int8"} for role in _PRODUCTS),
    rescues=Family.STATIC, family=Family.STATIC,
)  # fmt: skip
STATIC_DYNAMIC_PRODUCTS = Way(
    "static convolutions, dynamic products", {"activations": "static"},
    tuple({"role": role, "dynamic_activations": True, "format": "int8"} for role in _PRODUCTS),
    rescues=Family.STATIC, family=Family.STATIC,
)  # fmt: skip
STATIC_INT4_PRODUCTS = Way(
    "static convolutions, int4 products", {"activations": "static"},
    tuple({"role": role, "float_activations": True, "format": "int4"} for role in _PRODUCTS),
)  # fmt: skip
STATIC_HEAD = Way("static int8, head in float", {"activations": "static"}, rescues=Family.STATIC, family=Family.STATIC)
STATIC_LONG_HEAD = replace(STATIC_HEAD, name="static int8, longer head in float")
STATIC_SPARING = Way(
    "static int8, some kernels in float", {"activations": "static", "auto_exclude": True, "min_sqnr": GOOD_DB},
    rescues=Family.STATIC, family=Family.STATIC,
)  # fmt: skip
FLOAT16 = Way("float16 weights", {"format": "f16"}, rescues=Family.ANY)


# Nodes that ways with integer activations make of each kind of work.
_ROUNDING = Form("", "QuantizeLinear", 13)
_KERNELS = {
    (Activations.STATIC, Kind.CONVOLUTION): (_ROUNDING, Form("", "Conv", 11, codes=(8, 8))),
    (Activations.STATIC, Kind.PRODUCT): (_ROUNDING, Form("", "MatMul", 13, codes=(8, 8))),
    (Activations.DYNAMIC, Kind.PRODUCT): (Form(MICROSOFT, "DynamicQuantizeMatMul", 1),),
}


def ways(model: PreparedModel, work: Work, goal: Goal, clients: Sequence[Client] = ()) -> list[Way]:
    """The ways that can suit a model; those that rescue follow the ones that they replace.

    Args:
        model: the model.
        work: its work, by bytes and time.
        goal: measure that decides among files.
        clients: clients that the file is for; ways that one of them runs slower than floats have an objection.
    """
    suited = [_with_rules_that_match(way, model.sites) for way in _ways(model, work, goal)]
    return [replace(way, objection=reason) if (reason := _slow(way, work, clients)) else way for way in suited]


def _with_rules_that_match(way: Way, sites: Sequence[Site]) -> Way:
    """The way without rules for roles that no weight has, which a report and a saved recipe would list."""
    roles = {role for site in sites for role in site.role.split("+")}
    return replace(way, rules=tuple(rule for rule in way.rules if "role" not in rule or rule["role"] in roles))


def _slow(way: Way, work: Work, clients: Sequence[Client]) -> str:
    """The reason why a client runs integer kernels of a way slower than floats; empty where no client does."""
    kinds = {Activations(str(way.options.get("activations", Activations.NONE)))}
    if any(rule.get("dynamic_activations") for rule in way.rules):
        kinds.add(Activations.DYNAMIC)
    parts = [forms for (activations, part), forms in _KERNELS.items() if activations in kinds and _has(work, part)]
    nodes = [form for forms in parts for form in forms]
    slow = ((client.name, reason) for client in clients for form in nodes if (reason := slow_reason(form, client)))
    return next((f"slower than float on {name}: {reason}" for name, reason in slow), "")


def _has(work: Work, kind: Kind) -> bool:
    """Whether a kind of work decides about ways."""
    return max(work.share_of_bytes(kind), work.share_of_time(kind)) >= _SHARE


def _has_lstm(model: PreparedModel, work: Work) -> bool:
    """Whether LSTMs decide about ways: other recurrent layers have no operator on integers."""
    nodes = (use.node for site in model.sites for use in site.uses)
    return _has(work, Kind.RECURRENT) and any(is_op(node, "LSTM") for node in nodes)


def _ways(model: PreparedModel, work: Work, goal: Goal) -> list[Way]:
    """The ways, whatever clients do with them."""
    has_products, has_convolutions = _has(work, Kind.PRODUCT), _has(work, Kind.CONVOLUTION)
    integers = [STATIC] if has_products or has_convolutions else []
    if has_products or _has_lstm(model, work):
        is_first = work.share_of_time(Kind.PRODUCT, Kind.RECURRENT) > work.share_of_time(Kind.CONVOLUTION)
        integers.insert(0 if is_first else 1, DYNAMIC)
    stored_in_four = work.share_of_bytes(Kind.PRODUCT) >= _SHARE
    has_rest = work.share_of_bytes(*_SMALLER_ALONE) >= _SHARE and goal is not Goal.FAST
    four_bits = [INT4] * stored_in_four + [INT4_WHOLE] * has_rest
    if stored_in_four and has_convolutions and goal is not Goal.FAST:
        integers.append(STATIC_INT4_PRODUCTS)
    # The cheapest way comes first: there is something to keep where the others have no time.
    first = [INT8, *four_bits, *integers] if goal is Goal.SMALL else [INT8, *integers, *four_bits]
    rescues: list[Way] = []
    if STATIC in integers:
        rescues += [STATIC_MULS] if has_products and products_without_maker(model.document) else []
        rescues += _static_rescues(model, mixed=has_products and has_convolutions)
    if four_bits:
        rescues += [INT4_SOLVED] * stored_in_four + [INT4_WHOLE_SOLVED] * has_rest + [MIXED] * (goal is not Goal.FAST)
    return [*first, *rescues, FLOAT16]


def _static_rescues(model: PreparedModel, *, mixed: bool) -> list[Way]:
    """Static ways with some work in float, those that lose least speed first."""
    near = heads(model.document, model.sites)
    far = heads(model.document, model.sites, beyond=near)
    in_float = [
        replace(way, rules=(_in_float(names),))
        for way, names in ((STATIC_HEAD, near), (STATIC_LONG_HEAD, [*near, *far]))
        if names and len(names) <= _HEAD * len(model.sites)
    ]
    return [*in_float, *([STATIC_DYNAMIC_PRODUCTS, STATIC_FLOAT_PRODUCTS] if mixed else []), STATIC_SPARING]


def _in_float(names: Sequence[str]) -> Mapping[str, JsonValue]:
    """The rule that leaves some weights in float."""
    return {"include": [f"^{re.escape(name)}$" for name in names], "keep": True}


def heads(model: Document, sites: Sequence[Site], beyond: Sequence[str] = ()) -> list[str]:
    """Names of the weights of the last kernels: those with a path to an output on which no other kernel stands.

    Args:
        model: a prepared model.
        sites: its weights.
        beyond: weights whose kernels do not count as kernels, so that the ones before them are the last.
    """
    editor = GraphEditor(model.proto.graph)
    outputs = {output.name for output in model.proto.graph.output}
    kernels = {use.node.output[0]: site.name for site in sites for use in site.uses if use.graph is model.proto.graph}
    stops = {output for output, name in kernels.items() if name not in beyond}

    def reaches_an_output(start: str) -> bool:
        pending, known = [start], {start}
        while pending:
            name = pending.pop()
            if name in outputs:
                return True
            for node in editor.consumers(name):
                fresh = [] if node.output[0] in stops else [out for out in node.output if out and out not in known]
                known.update(fresh)
                pending += fresh
        return False

    return list(dict.fromkeys(kernels[output] for output in kernels if output in stops and reaches_an_output(output)))
