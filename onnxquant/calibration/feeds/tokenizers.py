"""Tokenizers: an ONNX model with onnxruntime-extensions' operators, or a tokenizer.json."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.errors import FeedError, ModelError

# Names that operators of onnxruntime-extensions have for the token ids.
_IDS = ("input_ids", "ids", "tokens")


class Tokenizer(Protocol):
    """A function from a text to arrays of tokens.

    Attributes:
        path: the file that it was read from.
        pad_id: the token that pads a sequence.
    """

    path: Path
    pad_id: int

    def tokens(self, text: str) -> dict[str, NDArray[Any]]:
        """``input_ids``, and the tokenizer's other numbers for each token."""
        ...


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file.

    Raises:
        FeedError: not a tokenizer, or one that needs a package that is not installed.
    """
    if path.suffix == ".onnx":
        return OnnxTokenizer(path, path)
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        model = description["model"]
        kind = model.get("type")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise FeedError(f"{path}: is no tokenizer.json: expected a JSON object with a model") from None
    if _is_bert(description):
        return OnnxTokenizer(path, _word_piece(description), _pad_id(description))
    return JsonTokenizer(path, kind, _pad_id(description))


def _is_bert(description: dict[str, Any]) -> bool:
    """Whether the operator BertTokenizer computes the same."""
    model, normalizer = description["model"], description.get("normalizer") or {}
    special = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
    return (
        model.get("type") == "WordPiece"
        and normalizer.get("type") == "BertNormalizer"
        and all(word in model.get("vocab", {}) for word in special)
    )


def _pad_id(description: dict[str, Any]) -> int:
    padding = description.get("padding") or {}
    named = (t["id"] for t in description.get("added_tokens", []) if t.get("content") in ("[PAD]", "<pad>"))
    return int(padding.get("pad_id", next(named, 0)))


def _word_piece(description: dict[str, Any]) -> bytes:
    """BERT's tokenizer as a model of one operator."""
    vocabulary: dict[str, int] = description["model"]["vocab"]
    words = sorted(vocabulary, key=lambda w: vocabulary[w])
    normalizer = description["normalizer"]
    lower = bool(normalizer.get("lowercase", True))
    strip = normalizer.get("strip_accents")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    node = onnx.helper.make_node(
        "BertTokenizer", ["text"], names, domain=runtime.EXTENSIONS, vocab_file="\n".join(words),
        do_lower_case=int(lower), strip_accents=int(lower if strip is None else strip),
        tokenize_chinese_chars=int(bool(normalizer.get("handle_chinese_chars", True))),
    )  # fmt: skip
    text = onnx.helper.make_tensor_value_info("text", onnx.TensorProto.STRING, [1])
    outputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT64, None) for n in names]
    graph = onnx.helper.make_graph([node], "tokenizer", [text], outputs)
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(runtime.EXTENSIONS, 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


class OnnxTokenizer:
    """A model that takes a string and returns token ids."""

    def __init__(self, path: Path, model: Path | bytes, pad_id: int = 0) -> None:
        self.path, self.pad_id = path, pad_id
        try:
            self._session = runtime.open_session(model, runtime.session_options(threads=1))
        except ModelError as error:
            raise FeedError(f"tokenizer {path}: {error}") from None
        inputs = runtime.inputs_of(self._session)
        if len(inputs) != 1 or inputs[0][1] != "tensor(string)":
            taken = ", ".join(f"{n} {t}" for n, t, _ in inputs)
            raise FeedError(f"tokenizer {path}: takes {taken}, expected one input of strings")
        self._name, _, shape = inputs[0]
        self._rank = len(shape)

    def tokens(self, text: str) -> dict[str, NDArray[Any]]:
        """The outputs of the model for a text, as vectors."""
        feed = {self._name: np.full((1,) * self._rank, text, object)}
        try:
            outputs = runtime.run(self._session, feed)
        except ModelError as error:
            raise FeedError(f"tokenizer {self.path}: {error}") from None
        ids = next((n for n in _IDS if n in outputs), None)
        if ids is None:
            raise FeedError(
                f"tokenizer {self.path}: gives {', '.join(outputs)}, expected {', '.join(_IDS[:-1])} or {_IDS[-1]}"
            )
        outputs["input_ids"] = outputs.pop(ids)
        return {n: a.reshape(-1) for n, a in outputs.items() if a.size == outputs["input_ids"].size}


@dataclass
class JsonTokenizer:
    """A tokenizer.json of a kind that onnxruntime-extensions has no operator for, through the package ``tokenizers``."""

    path: Path
    kind: str | None
    pad_id: int

    def __post_init__(self) -> None:
        """Read the file.

        Raises:
            FeedError: the package is missing, or refuses the file.
        """
        if importlib.util.find_spec("tokenizers") is None:
            raise FeedError(
                f"{self.path}: a {self.kind} tokenizer needs the package tokenizers: pip install 'onnxquant[text]'"
            )
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(self.path))
        except Exception as error:  # the package raises Exception itself
            raise FeedError(f"{self.path}: tokenizers cannot read it: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def tokens(self, text: str) -> dict[str, NDArray[Any]]:
        """Ids, types and mask of a text with its special tokens."""
        tokens = self._tokenizer.encode(text)
        lists = {"input_ids": tokens.ids, "token_type_ids": tokens.type_ids, "attention_mask": tokens.attention_mask}
        return {n: np.array(v, np.int64) for n, v in lists.items()}
