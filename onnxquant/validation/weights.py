"""Comparison of each encoded weight of a file with the original's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxquant.artifact.hashes import planes_digest
from onnxquant.artifact.read import PlaneIndex, decode_weight, plane_index, read_encoded
from onnxquant.artifact.records import Metadata, Record, computes_in_float16, records, rescaled_weights
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Site, find_sites
from onnxquant.numerics.difference import Difference, rescaled_like
from onnxquant.numerics.score import UnseenOutputs
from onnxquant.validation import checks
from onnxquant.validation.distribution import distribution
from onnxquant.validation.proof import Problem, Proof, WeightProof


@dataclass(frozen=True)
class EncodedWeights:
    """Knowledge of a file's writer, right after writing.

    Attributes:
        document: the float model whose weights were encoded.
        digests: hashes of the encoded weights; the file must give them back. Empty: not known.
        unseen: quality on samples that have not made what was judged on them; None where it was not judged.
    """

    document: Document
    digests: Mapping[str, str] = field(default_factory=dict)
    unseen: UnseenOutputs | None = None


def compare_weights(proof: Proof, written: EncodedWeights, quantized: Document) -> None:
    """Add every encoded weight, and the problems with it, to a proof."""
    originals = {s.name: s for s in find_sites(written.document)[0]}
    index = plane_index(quantized.proto)
    changed = frozenset() if written.digests else rescaled_weights(quantized.proto)
    metadata = Metadata.read(quantized.proto)
    zeros = metadata.pruned.zeros if metadata and metadata.pruned else {}
    if changed:
        proof.notes.append(
            f"{len(changed)} weights were rescaled by calibration before they were encoded; they are compared with the "
            f"original's up to one factor per row and column"
        )
    for record in records(quantized.proto):
        site = originals.get(record.name)
        if site is None and record.name in changed:
            continue
        if site is None or site.shape != record.shape:
            shape = "missing" if site is None else f"of shape {list(site.shape)}"
            text = f"weight {record.name!r} is {shape} in the original, {list(record.shape)} here"
            proof.problems.append(Problem(text))
            continue
        weight = _Weight(record, site, record.name in changed, zeros.get(record.name))
        _compare_weight(proof, written, weight, quantized, index)


@dataclass(frozen=True)
class _Weight:
    """An encoded weight, its site in the original, whether calibration rescaled it, and its zeros where it was pruned."""

    record: Record
    site: Site
    rescaled: bool
    zeros: int | None = None


def _compare_weight(
    proof: Proof,
    written: EncodedWeights,
    weight: _Weight,
    quantized: Document,
    index: PlaneIndex,
) -> None:
    """Add the error and checks of one weight to a proof."""
    record, view = weight.record, weight.site.view
    encoded = read_encoded(quantized, record, index)
    if record.name in written.digests and planes_digest(encoded) != written.digests[record.name]:
        text = f"weight {record.name!r}: the planes in the file are not the ones it was encoded to"
        proof.problems.append(Problem(text))
    decoded = decode_weight(quantized, record, index, encoded)
    before = written.document.array(weight.site.tensor)
    if weight.zeros is not None:
        # After writing the float model is the pruned one: each zero of it is looked for, not their number alone.
        back = int(np.count_nonzero(decoded[before == 0])) if written.digests else 0
        if back or (count := int(np.count_nonzero(decoded == 0))) < weight.zeros:
            text = f"{back} of its pruned elements are no zeros" if back else f"{count} zeros, expected {weight.zeros}"
            proof.problems.append(Problem(f"weight {record.name!r}: {text}"))
        before = np.where(decoded == 0, before.dtype.type(0), before)
    if weight.rescaled:
        before = view.restore(rescaled_like(view.matrix(before), view.matrix(decoded)))
    difference = Difference()
    difference.add(before, decoded)
    if not np.isfinite(decoded.astype(np.float32, copy=False)).all():
        proof.problems.append(Problem(f"weight {record.name!r} decodes to NaN or infinity"))
    checked = checks.check(view.matrix(before), view.matrix(decoded))
    if checked and checked.complaint:
        proof.problems.append(Problem(f"weight {record.name!r}: {checked.complaint}"))
    figures = difference.figures()
    dtype = "float16" if computes_in_float16(quantized.proto) else str(record.dtype)
    proof.weights[record.name] = WeightProof(record.format, record.target, dtype, figures, checked)
    proof.distributions[record.name] = distribution(before, decoded, encoded)
