"""Tokenizers of decoder folders: from GGUF's metadata, from SentencePiece's file, and copied from a Hugging Face folder."""

import json
import random
import struct
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers
from onnxruntime_extensions import pp_api
from safetensors.numpy import save_file

from onnxquant.errors import CheckpointError
from onnxquant.interchange import open_checkpoint
from onnxquant.language.special_tokens import SpecialTokens
from onnxquant.language.tokenizers import TokenizerFacts, write_tokenizer

_CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it? The quick ones don't.",
    "def main(argc, argv):\n    return [argc + 1, 2024, 31415]\n\n\nclass Fox:\n\tpass\r\n",
    "Größe, naïve café, ÉCOLE; हिन्दी में पाठ। 漢字とかな 🎉🎉 12345 67",
]
_TEXTS = [
    *_CORPUS, "", " ", "  \n  x", "\n\n 123's", "I'M WE'LL they'Re '", "a1b2 c345678", "हिन्दी ÉtéÀ",
    "x<|end|>y <s>z", "\t\x1b end  ",
]  # fmt: skip
# The steps of the models' own tokenizers, by which a text is cut.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_PATTERNS = {
    "llama-bpe": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen35": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-4o": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    rf"{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+"
    rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{_CONTRACTIONS}?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_KINDS = {"normal": 1, "unknown": 2, "control": 3, "user": 4, "unused": 5, "byte": 6}


def _steps(name: str) -> tokenizers.pre_tokenizers.PreTokenizer:
    """The steps by which the model's own tokenizer cuts a text."""
    steps = tokenizers.pre_tokenizers
    if name == "gpt-2":
        return steps.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        return steps.Sequence([steps.Digits(individual_digits=True), steps.ByteLevel(add_prefix_space=False)])
    if name == "falcon":
        return steps.Sequence(
            [
                steps.Punctuation("contiguous"), steps.ByteLevel(add_prefix_space=False),
                steps.Split(tokenizers.Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        )  # fmt: skip
    split = steps.Split(tokenizers.Regex(_PATTERNS[name]), "isolated")
    return steps.Sequence([split, steps.ByteLevel(add_prefix_space=False, use_regex=False)])


def _trained(name: str) -> tokenizers.Tokenizer:
    """A tokenizer that was trained on a few lines, with two special tokens and one that a user defined."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=name in ("llama-bpe", "tekken")))
    tokenizer.pre_tokenizer, tokenizer.decoder = _steps(name), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_CORPUS * 3, trainer)
    tokenizer.add_special_tokens(["<s>", "<|end|>"])
    tokenizer.add_tokens([tokenizers.AddedToken("zz zz", normalized=False)])
    return tokenizer


def _gguf(path: Path, entries: dict, rows: int | None = None) -> Path:
    """A GGUF file of a tokenizer's entries, and of a table of embeddings if it has rows."""
    writer = gguf.GGUFWriter(path, "llama")
    arrays = {"tokens", "merges", "scores", "token_type"}
    for name, value in entries.items():
        key = name if name.startswith(("tokenizer", "general")) else f"tokenizer.ggml.{name}"
        if name in arrays and isinstance(value, list | tuple):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    if rows:
        writer.add_tensor("token_embd.weight", np.zeros((rows, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _entries_of(tokenizer: tokenizers.Tokenizer, name: str) -> dict:
    """The entries that llama.cpp's converter writes for a tokenizer."""
    data = json.loads(tokenizer.to_str())
    ids = data["model"]["vocab"] | {token["content"]: token["id"] for token in data["added_tokens"]}
    added = {t["id"]: _KINDS["control" if t["special"] else "user"] for t in data["added_tokens"]}
    texts = sorted(ids, key=ids.__getitem__)
    return {
        "model": "gpt2", "pre": name, "tokens": texts, "merges": [" ".join(merge) for merge in data["model"]["merges"]],
        "token_type": [added.get(number, 1) for number in range(len(texts))],
        "bos_token_id": ids["<s>"], "eos_token_id": ids["<|end|>"],
    }  # fmt: skip


def _written(path: Path, folder: Path) -> TokenizerFacts:
    folder.mkdir(exist_ok=True)
    return write_tokenizer(open_checkpoint(path), folder)


def _opened(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def _config(folder: Path) -> dict:
    return json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o", "falcon"])
def test_gguf_bpe_tokenizer_gives_the_ids_of_the_original(name, tmp_path):
    own = _trained(name)
    _written(_gguf(tmp_path / "m.gguf", _entries_of(own, name)), tmp_path / "out")
    ours = _opened(tmp_path / "out")

    def check(text: str) -> None:
        ids = own.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False).ids == ids
        assert ours.decode(ids, skip_special_tokens=False) == text

    _each([*_TEXTS, "zz zz z"], check)


def test_bytes_without_a_token_are_noted(tmp_path):
    entries = _entries_of(_trained("gpt-2"), "gpt-2")
    assert not _written(_gguf(tmp_path / "m.gguf", entries), tmp_path / "a").notes
    lost = {"Ć", "Ġ", "ÿ"}  # of 0x06, the space, and a byte that no text has
    kept = [place for place, token in enumerate(entries["tokens"]) if not lost & {*token}]
    entries |= {name: [entries[name][place] for place in kept] for name in ("tokens", "token_type")}
    entries |= {"merges": [m for m in entries["merges"] if not lost & {*m}], "bos_token_id": 0, "eos_token_id": 0}
    (note,) = _written(_gguf(tmp_path / "m.gguf", entries), tmp_path / "b").notes
    assert "no token for the bytes 06 20: " in note
    assert _opened(tmp_path / "b").encode("a\x06a").ids == _opened(tmp_path / "b").encode("a").ids * 2


def test_a_file_without_a_pattern_is_cut_by_llama_cpps_default(tmp_path):
    entries = _entries_of(_trained("gpt-2"), "gpt-2")
    del entries["pre"]
    facts = _written(_gguf(tmp_path / "m.gguf", entries), tmp_path / "out")
    cut = _opened(tmp_path / "out").pre_tokenizer.pre_tokenize_str("a,b 12345!?")
    assert [word for word, _ in cut] == ["a", ",", "b", "Ġ", "123", "45", "!?"]
    assert "does not know a pattern" in facts.notes[0]


def _extension_ids(folder: Path, text: str) -> list[int]:
    return [int(number) for number in pp_api.Tokenizer(str(folder)).tokenize(text)]


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "gpt-4o"])
def test_onnxruntime_extensions_reads_the_same_ids(name, tmp_path):
    entries = _entries_of(_trained(name), name) | {"add_bos_token": True}
    assert _written(_gguf(tmp_path / "m.gguf", entries), tmp_path).special.adds_bos
    texts = [text for text in _TEXTS if text != "  \n  x"]  # its pattern for lines of white space stops too early
    _each(texts, lambda text: _same(_extension_ids(tmp_path, text), _opened(tmp_path).encode(text).ids))


def _each(cases: Iterable, check: Callable) -> None:
    """Check every case."""
    for case in cases:
        check(case)


def _same(ids: list[int], expected: list[int]) -> None:
    assert ids == expected


def _pieces(is_trained: bool = False) -> dict:
    """Entries of a vocabulary of pieces: letters, pieces of two others with scores, bytes, special and other tokens.

    Scores are of any order; those of a vocabulary that was trained fall, and its pieces have no space inside.
    """
    chance = random.Random(0)
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"ab c".replace(" ", "\u2581")]
    while len(texts) < 330:
        piece = chance.choice(texts[259:]) + chance.choice(texts[259:])
        if piece not in texts and len(piece) < 12 and not (is_trained and "\u2581" in piece[1:]):
            texts.append(piece)
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(texts) - 259)]
    scores = chance.sample(range(-1000, 0), len(texts) - 259)
    scores = [0.0] * 259 + [float(score) for score in (sorted(scores, reverse=True) if is_trained else scores)]
    texts, kinds, scores = [*texts, "<|user|>"], [*kinds, 3], [*scores, 0.0]
    if not is_trained:  # the wheel of onnxruntime-extensions loses the end of a text that begins like an added token
        texts, kinds, scores = [*texts, "bb  c"], [*kinds, 4], [*scores, 0.0]
    return {
        "model": "llama", "tokens": texts, "token_type": kinds, "scores": scores, "bos_token_id": 1, "eos_token_id": 2,
        "unknown_token_id": 0,
    }  # fmt: skip


def _merged(entries: dict, text: str) -> list[int]:
    """The pieces of a text: of all neighbours those whose piece has the highest score are joined, the leftmost first."""
    ids = {t: i for i, (t, kind) in enumerate(zip(entries["tokens"], entries["token_type"], strict=True)) if kind == 1}
    symbols = list(text.replace(" ", "\u2581"))
    while True:
        joined = [left + right for left, right in pairwise(symbols)]
        pairs = [(-entries["scores"][ids[piece]], place) for place, piece in enumerate(joined) if piece in ids]
        if not pairs:
            break
        _, place = min(pairs)
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
    return [n for s in symbols for n in ([ids[s]] if s in ids else [3 + byte for byte in s.encode()])]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_scores_give_the_ids_of_a_reference(prefix, tmp_path):
    entries = _pieces() | {"add_space_prefix": prefix}
    _written(_gguf(tmp_path / "m.gguf", entries), tmp_path)
    ours, chance = _opened(tmp_path), random.Random(1)

    def check(text: str) -> None:
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == (_merged(entries, " " * prefix + text) if text else [])
        assert ours.decode(ids) == text

    _each(
        ["".join(chance.choices("aabbc  é🎉\n", k=chance.randrange(40))).replace("bb  c", "") for _ in range(400)],
        check,
    )


def test_special_tokens_are_split_out_of_a_text(tmp_path):
    entries = _pieces()
    facts = _written(_gguf(tmp_path / "m.gguf", entries), tmp_path)
    ours, user, defined = _opened(tmp_path), len(entries["tokens"]) - 2, len(entries["tokens"]) - 1
    ids = [1, *_merged(entries, " a"), user, *_merged(entries, " b"), defined, *_merged(entries, " c"), 2]
    assert ours.encode("a<|user|>bbb  cc</s>").ids == ids
    assert ours.encode_special_tokens is False
    ours.encode_special_tokens = True
    assert ours.encode("</s>", add_special_tokens=False).ids == _merged(entries, " </s>")
    assert (facts.vocabulary, facts.special) == (defined + 1, SpecialTokens(1, (2,), unknown=0, adds_bos=True))


@pytest.mark.parametrize("prefix", [True, False])
def test_onnxruntime_extensions_reads_the_same_pieces(prefix, tmp_path):
    entries = _pieces(is_trained=True) | {"add_space_prefix": prefix}
    _written(_gguf(tmp_path / "m.gguf", entries), tmp_path)
    for text in ["abc  abc", " ab\nb 12345 é", "x<|user|>cab", "\n\nca  ab"]:
        assert _extension_ids(tmp_path, text) == _opened(tmp_path).encode(text).ids


def test_tokens_of_phi_3_take_the_white_space_behind_them(tmp_path):
    _written(_gguf(tmp_path / "m.gguf", _pieces() | {"general.name": "Phi3 mini"}), tmp_path)
    ours = _opened(tmp_path)
    assert ours.encode("<|user|> \n a").ids == ours.encode("<|user|>a").ids != ours.encode("<s> \n a").ids


def test_the_configuration_names_special_tokens_and_the_template(tmp_path):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    entries = _pieces() | {
        "padding_token_id": 0,
        "eot_token_id": 330,
        "tokenizer.chat_template": template,
        "add_eos_token": True,
    }
    facts = _written(_gguf(tmp_path / "m.gguf", entries, rows=len(entries["tokens"])), tmp_path)
    config, tokens = _config(tmp_path), entries["tokens"]
    assert {name: config[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token")} == {
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>",
    }  # fmt: skip
    assert (config["add_bos_token"], config["add_eos_token"], config["chat_template"]) == (True, True, template)
    assert config["added_tokens_decoder"]["330"] == {
        "content": tokens[330], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True,
    }  # fmt: skip
    assert (facts.special.eos, facts.special.pad, facts.chat_template) == ((2, 330), 0, template)
    assert _opened(tmp_path).encode("a").ids == [1, *_merged(entries, " a"), 2]


def test_end_tokens_are_recognised_by_their_text(tmp_path):
    entries = _pieces()
    entries["tokens"] = [*entries["tokens"], "<|im_end|>", "<end_of_turn>"]
    entries["token_type"], entries["scores"] = [*entries["token_type"], 3, 1], [*entries["scores"], 0.0, 0.0]
    facts = _written(_gguf(tmp_path / "m.gguf", entries), tmp_path)
    assert facts.special.eos == (2, 332, 333)


def _runs(entries: dict, longest: int) -> dict:
    """Entries with pieces of one letter, each a letter longer, which can be cut everywhere."""
    runs = ["z" * length for length in range(1, longest + 1)]
    return {
        "tokens": [*entries["tokens"], *runs],
        "token_type": [*entries["token_type"], *[1] * longest],
        "scores": [*entries["scores"], *[-1.0] * longest],
    }


_BROKEN: list[tuple[str, Callable[[dict], dict]]] = [
    (r"tokenizer.ggml.model is missing; expected a text", lambda e: {k: v for k, v in e.items() if k != "model"}),
    (r"model is 'bert'; expected gpt2 or llama", lambda e: e | {"model": "bert"}),
    (r"'qwen3', which onnxquant does not know; did you mean 'qwen35'", lambda e: e | {"model": "gpt2", "pre": "qwen3"}),
    (r"tokenizer.ggml.merges is missing; expected an array", lambda e: e | {"model": "gpt2", "pre": "gpt-2"}),
    (r"tokenizer.ggml.scores has 331 entries; expected 332", lambda e: e | {"scores": e["scores"][1:]}),
    (r"tokenizer.ggml.token_type has 331 entries", lambda e: e | {"token_type": e["token_type"][1:]}),
    (r"token_type is 9; expected numbers from 1 to 6", lambda e: e | {"token_type": [9, *e["token_type"][1:]]}),
    (r"tokens 1 and 2 are both '<s>'", lambda e: e | {"tokens": [*e["tokens"][:2], "<s>", *e["tokens"][3:]]}),
    (r"token 5 has the score nan", lambda e: e | {"scores": [*e["scores"][:5], float("nan"), *e["scores"][6:]]}),
    (r"eos_token_id is 332; expected the id of a token, 0 to 331", lambda e: e | {"eos_token_id": 332}),
    (r"add_bos_token is 1; expected true or false", lambda e: e | {"add_bos_token": 1}),
    (r"tokenizer.chat_template is 3; expected a text", lambda e: e | {"tokenizer.chat_template": 3}),
    (r"merge 0 is 'ab'; expected two tokens", lambda e: e | {"model": "gpt2", "pre": "gpt-2", "merges": ["ab"]}),
    ("merges of its pieces may have 21\\d{6} characters; expected 9\\d{6} at most", lambda e: e | _runs(e, 400)),
    (r"merge 0, 'a x', needs the token 'x'", lambda e: e | {"model": "gpt2", "pre": "gpt-2", "merges": ["a x"]}),
]  # fmt: skip


def test_wrong_gguf_tokenizer_metadata_is_refused(tmp_path):
    def check(case: tuple[str, Callable[[dict], dict]]) -> None:
        message, change = case
        path = _gguf(tmp_path / "m.gguf", change(_pieces()))
        with pytest.raises(CheckpointError, match=message):
            _written(path, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())

    _each(_BROKEN, check)


def test_vocabulary_of_another_size_than_the_embeddings_is_refused(tmp_path):
    path = _gguf(tmp_path / "m.gguf", _pieces(), rows=331)
    with pytest.raises(CheckpointError, match="332 tokens, and the table of embeddings has 331 rows"):
        _written(path, tmp_path)


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def _field(number: int, value: bytes | int | float) -> bytes:
    """A field of protobuf: a message or text, an integer, or a 32-bit float."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    return _varint(number << 3) + _varint(value)


def _piece_model(entries: dict, method: int = 2, charsmap: bytes = b"") -> bytes:
    """SentencePiece's file of a vocabulary."""
    columns = zip(entries["tokens"], entries["scores"], entries["token_type"], strict=True)
    pieces = [_field(1, _field(1, text.encode()) + _field(2, score) + _field(3, kind)) for text, score, kind in columns]
    trainer = _field(3, method) + _field(40, 0) + _field(41, 1) + _field(42, 2) + _field(43, -1)
    normalizer = _field(1, b"identity") + _field(2, charsmap) + _field(3, int(entries.get("add_space_prefix", True)))
    return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


def _hub_folder(path: Path, rows: int = 400, **files: object) -> Path:
    """A folder of a Hugging Face checkpoint with a table of embeddings and other files."""
    path.mkdir()
    save_file({"model.embed_tokens.weight": np.zeros((rows, 2), np.float32)}, path / "model.safetensors")
    for name, content in files.items():
        name = name.replace("__", ".")
        (path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.mark.parametrize("prefix", [True, False])
def test_tokenizer_model_and_gguf_give_the_same_files(prefix, tmp_path):
    entries = _pieces() | {"add_space_prefix": prefix}
    folder = _hub_folder(tmp_path / "hf", tokenizer__model=_piece_model(entries))
    assert _written(folder, tmp_path / "a") == _written(_gguf(tmp_path / "m.gguf", entries), tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_tokens_beside_a_file_of_sentencepiece_are_added(tmp_path):
    entries = _pieces()
    config = {
        "add_bos_token": False, "eos_token": {"content": "<|end|>"}, "pad_token": "<extra>", "chat_template": "{{ x }}",
        "added_tokens_decoder": {"334": {"content": "<|end|>", "special": True, "rstrip": True},
                                 "331": {"content": "a\u2581b"}},
    }  # fmt: skip
    folder = _hub_folder(
        tmp_path / "hf", tokenizer__model=_piece_model(entries), tokenizer_config__json=config,
        added_tokens__json={"<extra>": 333}, generation_config__json={"eos_token_id": [334, 2]},
    )  # fmt: skip
    facts = _written(folder, tmp_path / "out")
    ours = _opened(tmp_path / "out")
    assert facts == TokenizerFacts(335, SpecialTokens(1, (334, 2), 333, unknown=0), "{{ x }}", facts.notes)
    assert ours.encode("a ba<|end|>  b").ids == [331, *_merged(entries, " a"), 334, *_merged(entries, " b")]
    assert (ours.token_to_id("<extra>"), ours.id_to_token(332)) == (333, "[PAD332]")


_LEAST: dict = {"model": {"vocab": {"a": 0}}}
_BROKEN_PIECES: list[tuple[str, Callable[[dict], dict]]] = [
    ("of the method unigram; expected byte pairs", lambda e: {"tokenizer__model": _piece_model(e, method=1)}),
    ("by a table of characters", lambda e: {"tokenizer__model": _piece_model(e, charsmap=b"\1")}),
    ("is it a whole file", lambda e: {"tokenizer__model": _piece_model(e)[:-3]}),
    ("piece 0 is of kind 7; expected 1 to 6", lambda e: {"tokenizer__model": _piece_model(e | {"token_type": [7] * 332})}),
    ("has no tokenizer.json and no tokenizer.model but vocab.json", lambda _: {"vocab__json": {}}),
    ("id 331, and the table of embeddings has 300 rows", lambda e: {"tokenizer__model": _piece_model(e), "rows": 300}),
    ("has the id 99999999", lambda e: {"tokenizer__model": _piece_model(e), "added_tokens__json": {"x": 99999999}}),
    ("eos_token is '<eos>', which is not in",
     lambda e: {"tokenizer__model": _piece_model(e), "tokenizer_config__json": {"eos_token": "<eos>"}}),
    ("eos_token_id is 400", lambda e: {"tokenizer__model": _piece_model(e), "config__json": {"eos_token_id": 400}}),
    ("has no vocabulary", lambda _: {"tokenizer__json": {"model": {"vocab": 3}}}),
    ("token 'a' has the id -1", lambda _: {"tokenizer__json": {"model": {"vocab": {"a": -1}}}}),
    ("table of embeddings has 300", lambda _: {"tokenizer__json": {"model": {"vocab": {"a": 300}}}, "rows": 300}),
    ("is no JSON", lambda _: {"tokenizer__json": b"{"}),
    ("piece 5000 begins, ends or fills texts", lambda e: {
        "tokenizer__model": _piece_model(e) + _field(2, _field(3, 2) + _field(42, 5000))}),
    ("tokenizer.json: decoder is 3; expected an object", lambda _: {"tokenizer__json": _LEAST | {"decoder": 3}}),
    ("decoder.type is 3; expected a text", lambda _: {"tokenizer__json": _LEAST | {"decoder": {"type": 3}}}),
    ("model.merges is 3; expected an array", lambda _: {"tokenizer__json": {"model": {"vocab": {"a": 0}, "merges": 3}}}),
    ("added_tokens has 3; expected objects", lambda _: {"tokenizer__json": _LEAST | {"added_tokens": [3]}}),
]  # fmt: skip


def test_wrong_tokenizer_files_are_refused(tmp_path):
    def check(case: tuple[str, Callable[[dict], dict]]) -> None:
        message, files = case
        folder = _hub_folder(tmp_path / f"hf{_BROKEN_PIECES.index(case)}", **files(_pieces()))
        with pytest.raises(CheckpointError, match=message):
            _written(folder, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())

    _each(_BROKEN_PIECES, check)


def test_a_tokenizer_is_copied_with_what_stands_beside(tmp_path):
    own = _trained("llama-bpe")
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", own.token_to_id("<s>"))]
    )
    files = {
        "tokenizer__json": own.to_str().encode(), "chat_template__jinja": b"{{ messages }}",
        "special_tokens_map__json": {"bos_token": "<s>"},
        "tokenizer_config__json": {"tokenizer_class": "LlamaTokenizerFast", "eos_token": "<|end|>", "model_max_length": 7},
        "generation_config__json": {"eos_token_id": [3, 5], "pad_token_id": 4}, "config__json": {"eos_token_id": 6},
    }  # fmt: skip
    folder = _hub_folder(tmp_path / "hf", rows=500, **files)
    facts = _written(folder, tmp_path / "out")
    bos, end = own.token_to_id("<s>"), own.token_to_id("<|end|>")
    special = SpecialTokens(bos, (3, 5, 6, end), 4, adds_bos=True)
    assert facts == TokenizerFacts(own.get_vocab_size(), special, "{{ messages }}")
    for name in ("tokenizer.json", "chat_template.jinja", "special_tokens_map.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    assert _config(tmp_path / "out") == {
        "tokenizer_class": "LlamaTokenizerFast", "eos_token": "<|end|>", "model_max_length": 7,
        "chat_template": "{{ messages }}",
    }  # fmt: skip
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_copied_tokenizer_is_what_onnxruntime_reads(tmp_path):
    own = _trained("smollm")
    own.add_tokens(["'s 1"])
    templates = [{"name": ["odd"]}, {"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    config = {"tokenizer_class": "CohereTokenizerFast", "chat_template": templates}
    folder = _hub_folder(
        tmp_path / "hf", rows=500, tokenizer__json=own.to_str().encode(), tokenizer_config__json=config
    )
    facts = _written(folder, tmp_path / "out")
    assert facts.chat_template == _config(tmp_path / "out")["chat_template"] == "d"
    ours = _opened(tmp_path / "out")
    _each(_TEXTS, lambda text: _same(ours.encode(text).ids, own.encode(text).ids))
    for text in ("in 31415", "abc 2024 x"):
        assert _extension_ids(tmp_path / "out", text) == own.encode(text).ids


def test_a_copied_merge_may_have_a_carriage_return(tmp_path):
    entries = _pieces(is_trained=True)
    entries |= {"tokens": [*entries["tokens"], "\r", "c\r"], "token_type": [*entries["token_type"], 1, 1]}
    entries["scores"] = [*entries["scores"], -2000.0, -2001.0]
    _written(_gguf(tmp_path / "m.gguf", entries), tmp_path / "a")
    data = json.loads((tmp_path / "a" / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
    folder = _hub_folder(tmp_path / "hf", tokenizer__json=data, tokenizer_config__json=_config(tmp_path / "a"))
    _written(folder, tmp_path / "b")
    for text in ("c\r", "ab c\rc"):
        ids = _opened(folder).encode(text).ids
        assert _extension_ids(tmp_path / "b", text) == _opened(tmp_path / "b").encode(text).ids == ids


def test_a_copied_tokenizer_of_pieces_is_read_as_a_whole(tmp_path):
    _written(_gguf(tmp_path / "m.gguf", _pieces(is_trained=True)), tmp_path / "a")
    config = _config(tmp_path / "a") | {"tokenizer_class": "LlamaTokenizer"}
    json_bytes = (tmp_path / "a" / "tokenizer.json").read_bytes()
    folder = _hub_folder(tmp_path / "hf", tokenizer__json=json_bytes, tokenizer_config__json=config)
    assert "GemmaTokenizer" in _written(folder, tmp_path / "b").notes[0]
    text = "caab 12345\n  ab"
    assert _extension_ids(tmp_path / "b", text) == _opened(tmp_path / "b").encode(text).ids
