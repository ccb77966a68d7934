"""Decoders of tiny checkpoints beside transformers: the same logits, cached and not, in batches with padding.

    python scripts/check_decoders.py                  # needs transformers and torch
    python scripts/check_decoders.py --write          # writes the logits that tests compare with

Each checkpoint has the configuration of a family and random weights, drawn by numpy from a fixed seed. transformers computes
its logits in float32. The decoder is the conversion of the same files, run by plain onnxruntime.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from decoder_check.checkpoints import CONFIGS, FIXTURE, save_checkpoint
from decoder_check.logits import batch, decoder_logits
from transformers import AutoModelForCausalLM

from onnxquant.language.convert import convert
from onnxquant.numerics.arrays import Array


def expected_logits(folder: Path, tokens: Array, mask: Array) -> Array:
    """Logits of transformers, [batch, length, vocabulary]; rows begin with padding where the mask is 0."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    with torch.no_grad():
        out = model(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask),
            position_ids=torch.tensor(positions),
            use_cache=False,
        )
    return np.asarray(out.logits)


def main() -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="configurations (default: all)")
    parser.add_argument("--write", action="store_true", help="write the logits that tests compare with")
    arguments = parser.parse_args()
    if arguments.write and arguments.names:
        parser.error("--write stores the logits of all configurations: give no names")
    failed, stored = [], {}
    for name in arguments.names or CONFIGS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "checkpoint"
            save_checkpoint(name, folder)
            tokens, mask = batch(name)
            longest = tokens.shape[1]
            expected = expected_logits(folder, tokens, mask)
            convert(folder, Path(place) / "decoder")
            real, worst = mask.astype(bool), {}
            # The second rotation of long texts holds for all keys: those of calls before were turned by the first one.
            begin = 18 if name == "phi3_long" else longest // 2
            for how, cuts in (("whole", []), ("cached", list(range(begin, longest)))):
                logits = decoder_logits(Path(place) / "decoder", tokens, mask, cuts)
                worst[how] = float(np.abs(logits - expected)[real].max())
            single = decoder_logits(
                Path(place) / "decoder", tokens[:1], mask[:1], [] if name == "phi3_long" else [3, 11]
            )
            worst["alone"] = float(np.abs(single - expected[:1])[real[:1]].max())
        print(
            f"{name:14} largest logit {np.abs(expected).max():.2f}, differs by",
            {k: f"{v:.1e}" for k, v in worst.items()},
            flush=True,
        )
        stored[name] = expected[0].astype(np.float32)
        if max(worst.values()) > 1e-4:
            failed.append(name)
    if arguments.write and not failed:
        np.savez_compressed(FIXTURE, **stored)
    print("FAILED: " + ", ".join(failed) if failed else "all equal within 1e-4")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
