"""Change of basis: linear streams of channels in the coordinates whose rounding costs their readers least.

A stream is a set of tensors that convolutions make, Adds join and 1x1 convolutions read, without an activation anywhere
between: the narrow tensors of inverted residual blocks. Any invertible A and any shift mu per maker leave the function
as it is when tensors become ``y = A (x - mu)``: makers have ``A W`` and ``A (b - mu)``, readers ``W A^-1`` and ``b + W mu``,
where the mu of a sum is the sum of its inputs' mus. Taking the mean for mu makes the range of codes tight.

Rounding y to codes of one step adds white noise whose variance grows with the largest variance of a component, so with
``tr(A C A^T) / n`` where all are equal; C is the covariance of x. Readers make of it ``tr(S A^-1 A^-T)``, S being the sum
of their ``W^T W`` relative to the energy of what they make. With ``M = C^1/2 S C^1/2`` and ``P = C^1/2 A^T A C^1/2`` that is
``tr(M P^-1)``, to be least while ``tr P`` is what it was, ``tr C``: ``P^-1 M P^-1`` is then a multiple of the identity, so
``P = M^1/2 tr C / tr M^1/2``, and by Cauchy-Schwarz ``(tr M^1/2)^2 <= tr(M P^-1) tr P`` nothing does better. From
``P = V L V^T`` follows ``A = R L^1/2 V^T C^-1/2``, where the orthogonal R is free: one that makes the variances equal.
Rotations that spread outliers are those of QuaRot (Ashkboos et al. 2024, arXiv 2404.00456) and SpinQuant (Liu et al.
2024, arXiv 2405.16406); a matrix for both sides by their covariances, that of FlatQuant's kind (Sun et al. 2024,
arXiv 2410.09426), here in closed form.

What changes is rounding alone: of weights and biases once more, and of the accumulation. With u = 2^-24 for float32, a
maker of depth K moves y by at most ``e = (K + 3) u (|A W| |x| + |A (b - mu)|)``, each Add by u times what it gives, and a
reader of n channels by ``|W A^-1| e + (n + 3) u (|W A^-1| |y| + |b + W mu|)``; the condition of A is at most 3.2e4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
import onnx

from onnxquant.errors import FeedError
from onnxquant.graph.analysis.linear import Linear, linear, rounded
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.numerics.arrays import Doubles
from onnxquant.observers.gram import ChannelMoments
from onnxquant.passes.base import Pass, PassResult, refusals_in_words

# The decompositions take the cube of this.
MOST_CHANNELS = 2048
# Directions in which nearly nothing lies, or that nearly nothing reads, are stretched no more than this allows.
_FLOOR = 1e-6


@dataclass(frozen=True)
class Stream:
    """Tensors that must change their basis together.

    Attributes:
        tensors: their names.
        makers: convolutions that make some of them.
        sums: Adds that make the others, in the graph's order.
        readers: 1x1 convolutions that read them.
        refusal: reason why they cannot; empty where they can.
    """

    tensors: tuple[str, ...]
    makers: tuple[onnx.NodeProto, ...]
    sums: tuple[onnx.NodeProto, ...]
    readers: tuple[onnx.NodeProto, ...]
    refusal: str


def stream_tensors(editor: GraphEditor) -> list[str]:
    """The tensors of a graph whose moments ``rebase`` needs."""
    return [name for stream in streams(editor) if not stream.refusal for name in stream.tensors]


@dataclass(frozen=True)
class Rebase(Pass):
    """Gives each linear stream the basis in which one step for all of its channels costs least.

    The module's text has the basis. The batch norms of the model are to be folded before.

    1. With A the basis and mu the means, makers of a stream get ``A W`` and ``A (b - mu)``, its readers ``W A^-1`` and
       ``b + W mu``.

           Conv(Conv(x, W1, b1), W2, b2)   ->   Conv(Conv(x, A W1, A (b1 - mu)), W2 A^-1, b2 + W2 mu)

    2. A stream without statistics, with too many channels, with a computed bias, with a weight that other nodes read too, or
       whose readers see nothing of it, stays.

    Attributes:
        moments: mean and covariance of the channels of the tensors of ``stream_tensors``, by name.
    """

    name = "rebase"
    summary = "gives linear streams of channels the basis in which one step for all of them costs least"

    moments: Mapping[str, ChannelMoments]

    def __call__(self, document: Document) -> PassResult:
        """Change the bases.

        Raises:
            FeedError: moments are not finite, or not of as many channels as the tensor has.
        """
        changed: list[Stream] = []
        refusals: Counter[str] = Counter()
        for editor in graph_editors(document):
            for stream in streams(editor):
                reason = stream.refusal or _change(document, editor, stream, self.moments)
                if reason:
                    refusals[reason] += 1
                else:
                    changed.append(stream)
            editor.apply()
        if not changed and not refusals:
            return PassResult()
        tensors = sum(len(stream.tensors) for stream in changed)
        note = f"{len(changed)} linear streams in another basis ({tensors} tensors)"
        return PassResult(bool(changed), (note + refusals_in_words(refusals),), refusals)


def streams(editor: GraphEditor) -> list[Stream]:
    """The linear streams of a graph."""
    result: list[Stream] = []
    visited: set[str] = set()
    for node in editor.nodes:
        if _maker(editor, node) is None or node.output[0] in visited:
            continue
        component = _component(editor, node.output[0])
        visited |= component.tensors.keys()
        if component.is_linear:
            result += _stream(editor, component)
    return result


@dataclass
class _Component:
    """Tensors that Adds join with one another, and the nodes around them.

    Attributes:
        tensors: their names.
        makers: convolutions that make some of them.
        sums: Adds that make others.
        readers: 1x1 convolutions that read them.
        is_linear: False where another node, a nested graph or a caller has a part.
    """

    tensors: dict[str, None] = field(default_factory=dict)
    makers: list[onnx.NodeProto] = field(default_factory=list)
    sums: list[onnx.NodeProto] = field(default_factory=list)
    readers: list[onnx.NodeProto] = field(default_factory=list)
    is_linear: bool = True


def _component(editor: GraphEditor, start: str) -> _Component:
    """All tensors that Adds join with one."""
    result = _Component()
    stack = [start]
    while stack:
        name = stack.pop()
        if name in result.tensors:
            continue
        result.tensors[name] = None
        source = editor.producer(name)
        if source is not None and is_op(source, "Add"):
            result.sums.append(source)
            stack += source.input
        elif source is not None and _maker(editor, source):
            result.makers.append(source)
        else:
            result.is_linear = False
        result.is_linear = result.is_linear and editor.is_private(name)
        for reader in editor.consumers(name):
            if is_op(reader, "Add"):
                stack.append(reader.output[0])
            elif reader.input[0] == name and _reader(editor, reader):
                result.readers.append(reader)
            else:
                result.is_linear = False
    return result


def _stream(editor: GraphEditor, component: _Component) -> list[Stream]:
    """The stream of a component; none where its parts do not see the same channels, or nothing can be mixed."""
    makers, sums, readers = (
        tuple(sorted(nodes, key=editor.place)) for nodes in (component.makers, component.sums, component.readers)
    )
    before = [op for n in makers if (op := _maker(editor, n))]
    after = [op for n in readers if (op := _reader(editor, n))]
    shapes = {(op.outputs, op.rank) for op in before} | {(op.inputs, op.rank) for op in after}
    channels = before[0].outputs
    if len(shapes) != 1 or not after or channels < 2:
        return []
    refusal = f"more than {MOST_CHANNELS} channels" if channels > MOST_CHANNELS else ""
    biases = [n.input[2] for n in (*makers, *readers) if len(n.input) > 2 and n.input[2]]
    if any(editor.constant(name) is None for name in biases):
        refusal = "a bias is computed"
    if not all(op.owns_weight(editor) for op in (*before, *after)):
        refusal = "a weight is read elsewhere too"
    return [Stream(tuple(component.tensors), makers, sums, readers, refusal)]


def _maker(editor: GraphEditor, node: onnx.NodeProto) -> Linear | None:
    """A convolution of all channels; the padding of its input is no part of its output."""
    op = linear(editor, node) if is_op(node, "Conv", "ConvTranspose") else None
    return op if op is not None and op.groups == 1 else None


def _reader(editor: GraphEditor, node: onnx.NodeProto) -> Linear | None:
    """A convolution that sees a stream one place at a time, and nothing that is not the stream: no padding."""
    op = linear(editor, node) if is_op(node, "Conv") else None
    if op is None or op.groups != 1 or any(length != 1 for length in op.tensor.dims[2:]):
        return None
    # auto_pad adds nothing to a kernel of one.
    return None if any(attribute(node, "pads", ())) else op


def _change(document: Document, editor: GraphEditor, stream: Stream, moments: Mapping[str, ChannelMoments]) -> str:
    """Bring one stream into its best basis; the reason where that cannot be."""
    nodes = {n.output[0]: n for n in (*stream.makers, *stream.readers)}
    ops = {output: op for output, n in nodes.items() if (op := linear(editor, n))}
    if any(name not in moments for name in stream.tensors):
        return "no statistics of a tensor"
    channels = ops[stream.makers[0].output[0]].outputs
    spreads = {name: _spread(name, moments[name], channels) for name in stream.tensors}
    means = {n.output[0]: np.asarray(moments[n.output[0]].mean, np.float64) for n in stream.makers}
    for node in stream.sums:
        means[node.output[0]] = means[node.input[0]] + means[node.input[1]]
    # [outputs, inputs, kernel]
    weights = {key: op.blocks(document)[0] for key, op in ops.items()}
    biases = {key: bias for key, op in ops.items() if (bias := op.bias(document, editor)) is not None}
    if biases.keys() != ops.keys():
        return "a bias is not one number per channel"
    covariance = sum((c for c in spreads.values() if c is not None), np.zeros((channels, channels)))
    sensitivity = np.zeros((channels, channels))
    for node in stream.readers:
        weight, spread = weights[node.output[0]][:, :, 0], spreads[node.input[0]]
        energy = 0.0 if spread is None else float(np.einsum("oi,ij,oj->", weight, spread, weight, optimize=True))
        if energy > 0:
            sensitivity += weight.T @ weight / energy
    if not sensitivity.any():
        return "what it is read for is constant"
    basis = best_basis(covariance, sensitivity)
    back = np.linalg.inv(basis)
    for node in stream.makers:
        key = node.output[0]
        weights[key] = np.tensordot(basis, weights[key], 1)
        biases[key] = basis @ (biases[key] - means[node.output[0]])
    for node in stream.readers:  # which may be makers too
        key = node.output[0]
        weight = weights[key][:, :, 0]
        weights[key], biases[key] = (weight @ back)[:, :, None], biases[key] + weight @ means[node.input[0]]
    return _commit(editor, ops, weights, biases)


def _commit(
    editor: GraphEditor, ops: dict[str, Linear], weights: dict[str, Doubles], biases: dict[str, Doubles]
) -> str:
    """Write weights and biases, if all of them fit their types; the reason where they do not."""
    changes = []
    for key, op in ops.items():
        weight = rounded(op.restored(weights[key][None]), op.dtype)
        bias = rounded(biases[key], op.dtype)
        if weight is None or bias is None:
            return "a weight or a bias would not fit its type"
        changes.append((op, weight, bias))
    for op, weight, bias in changes:
        editor.set_constant(op.node, 1, weight)
        op.set_bias(editor, bias)
    return ""


def _spread(name: str, moments: ChannelMoments, channels: int) -> Doubles | None:
    """The covariance of a tensor relative to its energy; None where it is constant."""
    mean, covariance = (np.asarray(m, np.float64) for m in moments)
    if mean.shape != (channels,) or covariance.shape != (channels, channels):
        raise FeedError(
            f"moments of {name!r}: expected those of {channels} channels, found shapes {list(mean.shape)} and "
            f"{list(covariance.shape)}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise FeedError(f"moments of {name!r}: expected finite numbers")
    energy = float(np.trace(covariance))
    relative: Doubles = covariance / energy if energy > 0 else covariance
    return relative if energy > 0 else None


def best_basis(covariance: Doubles, sensitivity: Doubles) -> Doubles:
    """The basis with the least noise, and equal variances in it.

    Args:
        covariance: covariance of the channels; C in the module's text.
        sensitivity: gain of white noise in the channels on its way through the readers; S.
    """
    values, vectors = _eigen(covariance)
    half, inverse_half = (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
    values, vectors = _eigen(half @ sensitivity @ half)
    spectrum = np.sqrt(values)
    spectrum *= float(np.trace(covariance)) / float(spectrum.sum())
    basis: Doubles = equalizing(spectrum) @ (np.sqrt(spectrum)[:, None] * vectors.T) @ inverse_half
    return basis


def _eigen(matrix: Doubles) -> tuple[Doubles, Doubles]:
    """Eigenvalues, with a floor, and eigenvectors of a symmetric matrix without negative ones."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.maximum(values, values.max() * _FLOOR), vectors


def equalizing(spectrum: Doubles) -> Doubles:
    """An orthogonal R with which all of the diagonal of ``R diag(spectrum) R^T`` is the mean of the spectrum.

    A seeded random rotation, so that each component holds something of everything and none is heavy-tailed; then a plane
    rotation for each component but one (Bendel and Mickey 1978, "Population correlation matrices for sampling
    experiments", Communications in Statistics B7).
    """
    n = len(spectrum)
    rotation, triangle = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))
    rotation *= np.sign(np.diagonal(triangle))  # signs that QR leaves to the library
    matrix = (rotation * spectrum) @ rotation.T
    mean = float(spectrum.mean())
    for _ in range(n - 1):
        diagonal = np.diagonal(matrix)
        low, high = int(diagonal.argmin()), int(diagonal.argmax())
        below, above, between = diagonal[low] - mean, diagonal[high] - mean, matrix[low, high]
        if not below < 0 < above:
            break
        tangent = (between + sqrt(between**2 - below * above)) / above
        cosine = 1 / sqrt(1 + tangent**2)
        plane = cosine * np.array([[1.0, -tangent], [tangent, 1.0]])
        pair = [low, high]
        rotation[pair] = plane @ rotation[pair]
        matrix[pair] = plane @ matrix[pair]
        matrix[:, pair] = matrix[:, pair] @ plane.T
    return rotation
