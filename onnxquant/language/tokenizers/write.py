"""The tokenizer of a checkpoint, written into a decoder folder."""

from __future__ import annotations

from pathlib import Path

from onnxquant.errors import CheckpointError
from onnxquant.interchange.tensor import Checkpoint
from onnxquant.language.fields import JsonFiles
from onnxquant.language.tokenizers.files import write_files
from onnxquant.language.tokenizers.gguf import tokenizer_of_gguf
from onnxquant.language.tokenizers.hub_folder import has_hub_tokenizer, write_hub_tokenizer
from onnxquant.language.tokenizers.tokenizer import TokenizerFacts

_GGUF = "gguf"
# Names of the table of embeddings in files of llama.cpp, and ends of its names in those of others.
_EMBEDDINGS = (
    "token_embd.weight", "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight",
    "tok_embeddings.weight",
)  # fmt: skip


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has a tokenizer, of any kind."""
    if checkpoint.container == _GGUF:
        return "tokenizer.ggml.model" in checkpoint.metadata
    return has_hub_tokenizer(checkpoint.folder)


def write_tokenizer(checkpoint: Checkpoint, folder: Path, files: JsonFiles | None = None) -> TokenizerFacts:
    """Write the tokenizer of a checkpoint into a folder: tokenizer.json, tokenizer_config.json, and what stands beside.

    It is that of the metadata of a GGUF file, or of the files beside other checkpoints.

    Args:
        checkpoint: the checkpoint.
        folder: folder to write into.
        files: files beside the checkpoint; None: those of its folder, which are read again.

    Returns:
        What a runner must know of it.

    Raises:
        CheckpointError: there is no tokenizer, or it is damaged, or of a kind that is not known.
        OutputError: the files cannot be written.
    """
    rows = embedding_rows(checkpoint)
    if checkpoint.container != _GGUF:
        return write_hub_tokenizer(files or JsonFiles(checkpoint.folder), folder, rows)
    tokenizer = tokenizer_of_gguf(checkpoint.path, checkpoint.metadata)
    if rows is not None and rows != tokenizer.vocabulary.size:
        raise CheckpointError(
            f"{checkpoint.path}: has {tokenizer.vocabulary.size} tokens, and the table of embeddings has {rows} rows; "
            "expected a row for each token"
        )
    return write_files(tokenizer, folder)


def embedding_rows(checkpoint: Checkpoint) -> int | None:
    """Rows of the table of embeddings; None where no tensor has the name of one."""
    for name, tensor in checkpoint.tensors.items():
        if name.endswith(_EMBEDDINGS) and len(tensor.shape) == 2:
            return tensor.shape[0]
    return None
