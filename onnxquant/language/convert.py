"""A decoder folder from a checkpoint: ``onnxquant convert`` of language models, and ``onnxquant.language.convert``."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from onnxquant.arguments import checked
from onnxquant.errors import RecipeError
from onnxquant.interchange.convert import refuse_output
from onnxquant.interchange.files import open_checkpoint
from onnxquant.language.running.int8_cache import quantize_cache
from onnxquant.language.write_decoder import DecoderReport, write_decoder
from onnxquant.recipe.progress import Progress, silent

_INT8 = "int8"
CACHES = ("float32", _INT8)
"""Forms in which a decoder keeps keys and values."""


@checked
def convert(
    source: str | Path,
    output: str | Path,
    *,
    context: int | None = None,
    cache: str | None = None,
    text: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: object,
) -> DecoderReport:
    """Write the decoder of a checkpoint as an ONNX model in a folder that onnxruntime-genai opens.

    Codes of the checkpoint move as they are; floats of 16 bits stay what they are. With a format, floats are rounded to it.

    Args:
        source: a GGUF file, or a folder of a Hugging Face checkpoint.
        output: folder to write.
        context: number of positions that it holds; None: those that it was trained for.
        cache: form of keys and values: ``float32`` or ``int8``, a quarter of the memory; None: ``float32``.
        text: texts that the ranges of an int8 cache are measured on; None: one that the model writes.
        force: replace an existing folder of this kind.
        progress: called with the part that is done.
        options: options of a rule for weights that are floats: ``format``, ``bits``, ``include``, ``exclude``, ``target``
            and ``compute``, and parameters of the format. ``target`` and ``compute`` hold for codes as well.

    Raises:
        CheckpointError: the source is damaged, or of an architecture that is not known.
        RecipeError: an option is wrong, or has no effect.
        FeedError: the text cannot be read, or is empty.
        OutputError: the output is there already, or cannot be written.
    """
    if cache is not None and cache not in CACHES:
        raise RecipeError(f"cache is {cache!r}, expected {' or '.join(CACHES)}")
    if cache != _INT8:
        if text is not None:
            raise RecipeError("--text (text=...) has no effect without --cache int8 (cache='int8')")
        return write_decoder(source, output, context=context, force=force, progress=progress, **options)
    output = Path(output)
    refuse_output(open_checkpoint(source), output, is_folder=True, force=force)
    with tempfile.TemporaryDirectory(prefix=".onnxquant-", dir=output.parent) as place:
        folder = Path(place) / "decoder"
        report = write_decoder(source, folder, context=context, force=False, progress=progress, **options)
        rounded = quantize_cache(report.output, output, text=text, force=force, progress=progress)
    note = (
        f"keys and values of a token take {rounded.token_bytes:,} bytes instead of {rounded.source_token_bytes:,}; their "
        f"ranges are those of {rounded.tokens:,} tokens" + " that the model wrote" * (text is None)
    )
    return replace(report, output=str(output), notes=(*report.notes, note))
