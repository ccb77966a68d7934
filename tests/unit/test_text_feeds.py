"""Feeds from texts: strings as they are, and tokens, compared with the package tokenizers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tokenizers
from samples import read

from onnxquant.calibration.feeds import Input, ModelFacts, open_feeds
from onnxquant.errors import FeedError

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "cat",
    "sat",
    "##s",
    "##ting",
    "on",
    "a",
    "mat",
    ".",
    ",",
    "cafe",
    "中",
]
BERT = [Input(n, "tensor(int64)", ("batch", "length")) for n in ("input_ids", "attention_mask", "token_type_ids")]
LINES = ["The cats sat on a mat.", "Sitting, sitting", "Café 中", "unheard words"]


@pytest.fixture
def word_piece(tmp_path: Path) -> Path:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def text(folder: Path, *lines: str) -> Path:
    (folder / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "texts.txt"


def test_string_inputs_take_the_lines_themselves(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("\ufefffirst\r\n\r\n  second \nlast".encode())
    for shape, wanted in (((), "first"), (("n",), ["first"]), ((1, 1), [["first"]])):
        spec = Input("text", "tensor(string)", shape)
        feeds = open_feeds(tmp_path / "t.txt", [spec])
        assert next(iter(feeds))["text"].tolist() == wanted and len(feeds) == 3
    assert [f["text"][0, 0] for f in feeds] == ["first", "  second ", "last"]


def test_bert_tokens_equal_those_of_the_tokenizers_package(word_piece: Path, tmp_path: Path) -> None:
    oracle = tokenizers.Tokenizer.from_file(str(word_piece))
    feeds = open_feeds(text(tmp_path, *LINES), BERT)
    assert list(feeds.origin.assumed) == [f"tokenizer={word_piece}", "max_length=512"]
    for line, feed in zip(LINES, feeds, strict=True):
        wanted = oracle.encode(line)
        assert feed["input_ids"].tolist() == [wanted.ids]
        assert feed["attention_mask"].tolist() == [wanted.attention_mask]
        assert feed["token_type_ids"].tolist() == [wanted.type_ids]
    assert [len(WORDS) > int(f["input_ids"].max()) > 3 for f in feeds] == [True, True, True, False]


def test_tokens_are_cut_and_padded_and_fill_other_inputs(word_piece: Path, tmp_path: Path) -> None:
    data = text(tmp_path, *LINES)
    cut = read(data, BERT, None, "max_length=5")[0]
    assert cut["input_ids"].shape == (1, 5) and cut["input_ids"][0, -1] == 3  # [SEP] stays
    fixed = [Input(n, "tensor(int32)", (1, 12)) for n in ("input_ids", "attention_mask", "position_ids")]
    feeds = open_feeds(data, fixed)
    one = list(feeds)[1]
    assert one["input_ids"].dtype == np.int32 and one["input_ids"].shape == (1, 12)
    assert one["attention_mask"].tolist() == [[1] * 5 + [0] * 7]
    assert one["position_ids"].tolist() == [[*range(5), *[0] * 7]]
    assert "padded to 12 tokens" in feeds.origin.assumed
    single = read(data, [Input("tokens", "tensor(int64)", ("n",))], 1)[0]
    assert single["tokens"].ndim == 1
    with pytest.raises(FeedError, match="nothing for input pixels"):
        open_feeds(data, [*BERT, Input("pixels", "tensor(int64)", ("n", "length"))])


def test_other_tokenizers_run_in_the_tokenizers_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_padding(length=10)
    made.save(str(tmp_path / "words.json"))
    data = text(tmp_path, "a b c a")
    feed = read(data, BERT, None, {"tokenizer": str(tmp_path / "words.json")})[0]
    assert feed["input_ids"].tolist() == [[0, 1, 2, 0]]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tokenizers" else find(name))
    with pytest.raises(
        FeedError, match=r"a WordLevel tokenizer needs the package tokenizers: pip install 'onnxquant\[text\]'"
    ):
        open_feeds(data, BERT, preprocess={"tokenizer": str(tmp_path / "words.json")})


def bert_model(path: Path, **attributes: Any) -> Path:
    """A tokenizer as onnxruntime-extensions makes them: one operator."""
    names = ["input_ids", "token_type_ids", "attention_mask"]
    node = onnx.helper.make_node(
        "BertTokenizer", ["t"], names, domain="ai.onnx.contrib", vocab_file="\n".join(WORDS), **attributes
    )
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info("t", onnx.TensorProto.STRING, [None])],
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT64, [None]) for n in names],
    )  # fmt: skip
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.contrib", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def test_an_onnx_model_tokenizes(word_piece: Path, tmp_path: Path) -> None:
    data = text(tmp_path, *LINES)
    through_json = read(data, BERT, None, f"tokenizer={word_piece}")
    bert_model(tmp_path / "tokenizer.onnx", do_lower_case=1, strip_accents=1)
    through_model = read(data, BERT, None)  # found beside the text
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(through_json, through_model, strict=True))


def test_bad_texts_and_tokenizers_are_refused(word_piece: Path, tmp_path: Path) -> None:
    data = text(tmp_path, *LINES)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["x"], ["y"])], "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        ), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    onnx.save(model, tmp_path / "other.onnx")
    (tmp_path / "odd.json").write_text(json.dumps([1]))
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    for path, preprocess, says in (
        (data, "tokenizer=gone.json", "tokenizer 'gone.json' is not a file"),
        (data, f"tokenizer={data}", "expected a tokenizer.json or an .onnx model"),
        (data, f"tokenizer={tmp_path / 'other.onnx'}", r"takes x tensor\(float\), expected one input of strings"),
        (data, f"tokenizer={tmp_path / 'odd.json'}", "is no tokenizer.json"),
        (data, "max_length=0", "max_length is 0, expected a number of tokens"),
        (data, "size=3", "texts have no key 'size'"),
        (tmp_path / "gone.txt", None, "gone.txt: cannot be read as text: No such file"),
        (tmp_path / "empty.txt", None, "empty.txt: holds no samples; the model takes input_ids"),
        (tmp_path / "latin.txt", None, "latin.txt: cannot be read as text: not UTF-8"),
    ):
        with pytest.raises(FeedError, match=says):
            open_feeds(path, BERT, preprocess=preprocess)
    word_piece.unlink()
    with pytest.raises(FeedError, match=r"give --preprocess tokenizer=FILE .*the model takes input_ids"):
        open_feeds(data, BERT)


def test_a_tokenizer_beside_the_model_is_used(word_piece: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    (hub / "onnx").mkdir(parents=True)
    word_piece.rename(hub / "tokenizer.json")
    (tmp_path / "elsewhere").mkdir()
    data = text(tmp_path / "elsewhere", *LINES)
    feeds = open_feeds(data, BERT, facts=ModelFacts(folder=hub / "onnx"))
    assert len(list(feeds)) == len(LINES) and feeds.origin.tokenizer == str(hub / "tokenizer.json")
    assert feeds.origin.reason == "found beside the model; --preprocess tokenizer=FILE names another"


FEATURES = Input("features", "tensor(float)", ("n", 3))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a,b\n1,2\n", r"'features' takes 3 features, found 2 columns of numbers: a, b; the model takes"),
        ("a,b,c,d\n1,2,3,4\n", "found 4 columns of numbers: a, b, c, d"),
        ("a,b,c\n1,2,x\n", "found 2 columns of numbers: a, b .and c, which hold none"),
        ("a,b,c\n1,,3\n", "row 1: column 'b' is empty, expected a number"),
        ("a,b,c\n1,2,3\n4,5,\n", "row 2: column 'c' is empty, expected a number"),
        ("a,b,c\n1,2,3\n4,n/a,5\n", "row 2: column 'b' holds 'n/a', expected a number"),
    ],
)
def test_features_that_are_missing_are_named(rows: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(rows)
    with pytest.raises(FeedError, match=says):
        list(open_feeds(tmp_path / "t.csv", [FEATURES]))
