"""Recurrent layers: torch's kernels where they are the same, a loop over the steps else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from onnxquant.modules.node import Node, Result, operator
from onnxquant.modules.operators.indexing import reversed_beginnings

Activation = Callable[[Tensor], Tensor]
Rounding = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Callable[[float, float], Activation]] = {
    "affine": lambda a, b: lambda x: a * x + b,
    "elu": lambda a, b: lambda x: F.elu(x, a),
    "hardsigmoid": lambda a, b: lambda x: torch.clamp(a * x + b, 0, 1),
    "leakyrelu": lambda a, b: lambda x: F.leaky_relu(x, a),
    "relu": lambda a, b: torch.relu,
    "scaledtanh": lambda a, b: lambda x: a * torch.tanh(b * x),
    "sigmoid": lambda a, b: torch.sigmoid,
    "softplus": lambda a, b: F.softplus,
    "softsign": lambda a, b: F.softsign,
    "tanh": lambda a, b: torch.tanh,
    "thresholdedrelu": lambda a, b: lambda x: torch.where(x > a, x, torch.zeros_like(x)),
}
# The numbers that activations take where the node gives none; those without an entry take none.
_ALPHAS = {"affine": 1.0, "elu": 1.0, "hardsigmoid": 0.2, "leakyrelu": 0.01, "scaledtanh": 1.0, "thresholdedrelu": 1.0}
_BETAS = {"affine": 0.0, "hardsigmoid": 0.5, "scaledtanh": 1.0}
_DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
# The order of the gates in torch, as places in that of ONNX.
_ORDER = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}


@dataclass(frozen=True)
class Cell:
    """The weights of one direction.

    Attributes:
        of_input: [gates * hidden, input].
        of_state: [gates * hidden, hidden].
        input_bias: [gates * hidden].
        state_bias: the same.
        peepholes: weights of the cell's state in the input, output and forget gate [3 * hidden]; None: there are none.
        activations: functions of the gates.
        is_default: whether these are the usual ones.
    """

    of_input: Tensor
    of_state: Tensor
    input_bias: Tensor
    state_bias: Tensor
    peepholes: Tensor | None
    activations: Sequence[Activation]
    is_default: bool


def _activations(node: Node, op: str, directions: int) -> tuple[list[Activation], bool]:
    """Functions of the gates of all directions, and whether they are the usual ones."""
    usual = _DEFAULTS[op] * directions
    names = [name.lower() for name in node.get("activations", usual)]
    alphas: Iterator[float] = iter(node.get("activation_alpha", []))
    betas: Iterator[float] = iter(node.get("activation_beta", []))
    functions = []
    for name in names:
        if name not in _ACTIVATIONS:
            raise node.refuse(f"an activation is {name!r}", f"one of {', '.join(_ACTIVATIONS)}")
        a = next(alphas, _ALPHAS[name]) if name in _ALPHAS else 0.0
        b = next(betas, _BETAS[name]) if name in _BETAS else 0.0
        functions.append(_ACTIVATIONS[name](a, b))
    return functions, names == usual


def _is_of_torch(node: Node, op: str, cell: Cell) -> bool:
    """Whether torch's kernel computes the same."""
    return (
        cell.is_default
        and cell.peepholes is None
        and not node.get("clip", 0.0)
        and not node.get("input_forget", 0)
        and (op != "GRU" or bool(node.get("linear_before_reset", 0)))
    )


def _by_torch(op: str, x: Tensor, cell: Cell, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Outputs of all steps and the last states, by torch's kernel."""

    def ordered(weight: Tensor) -> Tensor:
        gates = weight.chunk(len(_ORDER[op]))
        return torch.cat([gates[place] for place in _ORDER[op]])

    weights = [ordered(w) for w in (cell.of_input, cell.of_state, cell.input_bias, cell.state_bias)]
    options = (
        True,
        1,
        0.0,
        False,
        False,
        False,
    )  # biases, one layer, no dropout, no training, one direction, time first
    first = [state.unsqueeze(0).contiguous() for state in states]
    if op == "LSTM":
        y, h, c = torch.lstm(x, first, weights, *options)
        return y, [h[0], c[0]]
    kernel = torch.gru if op == "GRU" else torch.rnn_tanh
    y, h = kernel(x, first[0], weights, *options)
    return y, [h[0]]


def _step(node: Node, op: str, cell: Cell, of_input: Tensor, states: Sequence[Tensor], h: Tensor) -> list[Tensor]:
    """The states behind a step.

    Args:
        node: the node.
        op: kind of the layer.
        cell: its weights.
        of_input: the gates' sums of the input [batch, gates * hidden].
        states: states before: the hidden one and, of an LSTM, that of the cell.
        h: the hidden state as products read it.
    """
    bound = node.get("clip", 0.0)

    def clipped(x: Tensor) -> Tensor:
        return x.clamp(-bound, bound) if bound else x

    if op == "RNN":
        return [cell.activations[0](clipped(of_input + F.linear(h, cell.of_state, cell.state_bias)))]
    if op == "GRU":
        update_weight, reset_weight, new_weight = cell.of_state.chunk(3)
        update_bias, reset_bias, new_bias = cell.state_bias.chunk(3)
        update_input, reset_input, new_input = of_input.chunk(3, -1)
        update = cell.activations[0](clipped(update_input + F.linear(h, update_weight, update_bias)))
        reset = cell.activations[0](clipped(reset_input + F.linear(h, reset_weight, reset_bias)))
        if node.get("linear_before_reset", 0):
            new = reset * F.linear(h, new_weight, new_bias)
        else:
            new = F.linear(reset * h, new_weight, new_bias)
        return [(1 - update) * cell.activations[1](clipped(new_input + new)) + update * states[0]]
    i, o, f, new = (of_input + F.linear(h, cell.of_state, cell.state_bias)).chunk(4, -1)
    before = states[1]
    if cell.peepholes is not None:
        of_i, of_o, of_f = cell.peepholes.chunk(3)
        i, f = i + of_i * before, f + of_f * before
    i = cell.activations[0](clipped(i))
    f = 1 - i if node.get("input_forget", 0) else cell.activations[0](clipped(f))
    state = f * before + i * cell.activations[1](clipped(new))
    if cell.peepholes is not None:
        o = o + of_o * state
    return [cell.activations[0](clipped(o)) * cell.activations[2](state), state]


def _by_steps(
    node: Node, op: str, x: Tensor, cell: Cell, states: Sequence[Tensor], lengths: Tensor | None, rounding: Rounding
) -> tuple[Tensor, list[Tensor]]:
    """Outputs of all steps and the last states, step by step."""
    of_input = F.linear(rounding(x), cell.of_input, cell.input_bias)
    outputs, current = [], list(states)
    for time in range(x.shape[0]):
        after = _step(node, op, cell, of_input[time], current, rounding(current[0]))
        if lengths is None:
            current = after
            outputs.append(after[0])
        else:
            is_inside = (time < lengths).reshape(-1, 1)
            current = [torch.where(is_inside, new, old) for new, old in zip(after, current, strict=True)]
            outputs.append(torch.where(is_inside, after[0], torch.zeros_like(after[0])))
    return torch.stack(outputs), current


@operator("LSTM", "GRU", "RNN", numbers=(4,))
def recurrent(
    node: Node,
    x: Tensor,
    of_input: Tensor,
    of_state: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> Result:
    """Outputs of all steps, and the last states."""
    return run(node, node.op, x, (of_input, of_state, bias, peepholes), lengths, (hidden, cell), None)


def run(
    node: Node,
    op: str,
    x: Tensor,
    weights: Sequence[Tensor | None],
    lengths: Tensor | None,
    states: Sequence[Tensor | None],
    rounding: Rounding | None,
) -> Result:
    """A recurrent layer of one or both directions.

    Args:
        node: the node.
        op: kind of the layer.
        x: [length, batch, input], or [batch, length, input] where ``layout`` is 1.
        weights: those of the input and of the state, biases, peepholes, each with an axis of directions first.
        lengths: steps of each sequence; None: all.
        states: first states [directions, batch, hidden].
        rounding: function of what the products read; None: they read it as it is.
    """
    is_batch_first = bool(node.get("layout", 0))
    if is_batch_first:
        x = x.transpose(0, 1)
        states = [None if state is None else state.transpose(0, 1) for state in states]
    if lengths is not None and bool((lengths == x.shape[0]).all()):
        lengths = None
    cells = _cells(node, op, weights)
    size = cells[0].of_state.shape[1]
    first = [x.new_zeros(len(cells), x.shape[1], size) if state is None else state for state in states]
    outputs, last = [], []
    for number, cell in enumerate(cells):
        is_reverse = number == 1 or node.get("direction", "forward") == "reverse"
        own = [state[number] for state in first[: 2 if op == "LSTM" else 1]]
        source = reversed_beginnings(x, lengths) if is_reverse else x
        if lengths is None and rounding is None and _is_of_torch(node, op, cell):
            y, final = _by_torch(op, source, cell, own)
        else:
            y, final = _by_steps(node, op, source, cell, own, lengths, rounding or (lambda values: values))
        outputs.append(reversed_beginnings(y, lengths) if is_reverse else y)
        last.append(final)
    y = torch.stack(outputs, 1)  # [length, directions, batch, hidden]
    finals = [torch.stack(parts) for parts in zip(*last, strict=True)]
    if is_batch_first:
        return y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in finals)
    return y, *finals


def _cells(node: Node, op: str, weights: Sequence[Tensor | None]) -> list[Cell]:
    """The weights of each direction."""
    of_input, of_state, bias, peepholes = weights
    assert of_input is not None and of_state is not None
    directions = len(of_input)
    functions, is_default = _activations(node, op, directions)
    each = len(_DEFAULTS[op])
    if bias is None:
        bias = of_input.new_zeros(directions, 2 * of_input.shape[1])
    halves = bias.chunk(2, 1)
    return [
        Cell(
            of_input[i], of_state[i], halves[0][i], halves[1][i],
            None if peepholes is None else peepholes[i], functions[each * i : each * (i + 1)], is_default,
        )
        for i in range(directions)
    ]  # fmt: skip
