"""Logits of a decoder folder, and the batch that they are compared on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from decoder_check.checkpoints import TOKENS, lengths_of
from onnxquant import runtime
from onnxquant.numerics.arrays import Array


def batch(name: str) -> tuple[Array, Array]:
    """Tokens and mask [batch, length] for a configuration: rows that end together, with padding before them."""
    rows = lengths_of(name)
    longest = max(rows)
    tokens = np.random.default_rng(1).integers(0, TOKENS, (len(rows), longest))
    return tokens, (np.arange(longest) >= longest - np.array(rows)[:, None]).astype(np.int64)


def decoder_logits(
    folder: Path, tokens: Array, mask: Array, ends: Sequence[int] = (), *, library: bool = True
) -> Array:
    """Logits [batch, length, vocabulary] of a decoder that reads its tokens in calls that end at these places."""
    session = runtime.open_session(folder / "model.onnx", runtime.session_options(threads=1), library=library)
    past = {
        i.name: np.zeros((len(tokens), i.shape[1], 0, i.shape[3]), np.float32)
        for i in session.get_inputs()
        if i.name.startswith("past")
    }
    names, parts, begin = [o.name for o in session.get_outputs()], [], 0
    for end in (*ends, tokens.shape[1]):
        feed = {"input_ids": tokens[:, begin:end], "attention_mask": mask[:, :end], "logits_count": np.array(end - begin)}
        outputs = dict(zip(names, session.run(None, feed | past), strict=True))
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        parts.append(outputs["logits"])
        begin = end
    return np.concatenate(parts, 1)
