"""Decoders give the logits of the same function in float64 numpy, from whichever folder, in whichever parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from decoder_check.checkpoints import save_checkpoint
from decoders import CONTEXT, END, VOCABULARY, Weights, plain_cache, save_genai, save_optimum, shared_cache

import onnxquant
from onnxquant.errors import FeedError, ModelError
from onnxquant.language.convert import convert
from onnxquant.language.running import decoder as module
from onnxquant.language.running.decoder import Decoder

WEIGHTS = Weights.draw()
TEXT = [256, 5, 77, 201, 14, 9, 130, 61]
OTHER = [256, 44, 3]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("decoders")
    return {
        "genai": save_genai(root / "genai", shared_cache(WEIGHTS)),
        "optimum": save_optimum(root / "optimum", plain_cache(WEIGHTS)),
    }


@pytest.fixture(scope="module", params=["genai", "optimum"])
def decoder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Decoder:
    return Decoder(folders[request.param], threads=1)


def test_the_cache_is_shared_where_the_graph_allows_it(folders: dict[str, Path]) -> None:
    shares = {name: Decoder(folder).shares_buffers for name, folder in folders.items()}
    assert shares == {"genai": True, "optimum": False}


def test_config_gives_vocabulary_context_length_and_eos(decoder: Decoder) -> None:
    assert (decoder.vocabulary, decoder.config.context_length, decoder.config.eos) == (VOCABULARY, CONTEXT, (END,))


@pytest.mark.parametrize("sizes", [(8,), (1,) * 8, (3, 4, 1)], ids=str)
def test_logits_do_not_depend_on_how_a_text_is_cut(decoder: Decoder, sizes: tuple[int, ...]) -> None:
    context, begin, rows = decoder.start(capacity=20), 0, []
    for size in sizes:
        rows += [logits[0] for logits in context.logits(np.array([TEXT[begin : begin + size]]))]
        begin += size
    assert np.allclose(np.concatenate(rows), WEIGHTS.logits(TEXT), atol=1e-4)
    assert context.lengths.tolist() == [8]


def test_long_texts_are_read_in_parts(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOGITS_BYTES", 3 * 4 * VOCABULARY)
    parts = [logits[0] for logits in decoder.start().logits(np.array([TEXT]))]
    assert [len(part) for part in parts] == [3, 3, 2]
    assert np.allclose(np.concatenate(parts), WEIGHTS.logits(TEXT), atol=1e-4)


def test_a_context_without_a_largest_length_grows(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["genai"], tmp_path / "boundless")
    _change(folder, "model", context_length=None)
    decoder = Decoder(folder)
    context = decoder.start()
    context.read([TEXT[:5]])
    assert np.allclose(context.read([TEXT[5:]])[0], WEIGHTS.logits(TEXT)[-1], atol=1e-4)


def test_texts_of_several_lengths_side_by_side(decoder: Decoder) -> None:
    context = decoder.start(2, 20)
    texts = [TEXT, OTHER]
    for more in ([[7], [9]], [[250], [1]], [[33], [120]]):
        logits = context.read(texts if context.lengths[0] == 0 else more)
        if context.lengths[0] > len(TEXT):
            texts = [text + tokens for text, tokens in zip(texts, more, strict=True)]
        for row, text in zip(logits, texts, strict=True):
            assert np.allclose(row, WEIGHTS.logits(text)[-1], atol=1e-4)
    assert context.lengths.tolist() == [len(TEXT) + 2, len(OTHER) + 2]


@pytest.mark.parametrize("batch", [10**7, 10**30])
def test_a_cache_larger_than_memory_is_refused(batch: int, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["genai"], tmp_path / "long")
    _change(folder, "model", context_length=2**31 - 1)
    with pytest.raises(FeedError, match="do not fit into memory: ask for fewer"):
        Decoder(folder).start(batch)


def test_contexts_of_one_decoder_are_apart(decoder: Decoder) -> None:
    first, second = decoder.start(), decoder.start()
    first.read([TEXT])
    assert np.allclose(second.read([OTHER])[0], WEIGHTS.logits(OTHER)[-1], atol=1e-4)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([[1, VOCABULARY]], f"token {VOCABULARY} is outside the vocabulary"),
        ([[-1]], "token -1 is outside the vocabulary"),
        ([[1] * 9], "9 tokens are more than the context of 8"),
        ([[1], [2]], "2 texts"),
        ([[]], "none empty"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(decoder: Decoder, texts: list[list[int]], words: str) -> None:
    with pytest.raises(FeedError, match=words):
        decoder.start(capacity=8).read(texts)


def test_a_run_that_fails_leaves_the_texts_as_they_were(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    context = decoder.start(capacity=20)
    context.read([TEXT[:3]])
    with monkeypatch.context() as patch:
        patch.setitem(decoder.config.names, "input_ids", "no such input")
        with pytest.raises(ModelError):
            context.read([TEXT[3:]])
    assert context.lengths.tolist() == [3]
    assert np.allclose(context.read([TEXT[3:]])[0], WEIGHTS.logits(TEXT)[-1], atol=1e-4)


def test_a_capacity_beyond_the_context_is_refused(decoder: Decoder) -> None:
    with pytest.raises(FeedError, match=f"{CONTEXT + 1} tokens are more than its context of {CONTEXT}"):
        decoder.start(capacity=CONTEXT + 1)


def test_texts_of_several_lengths_need_an_empty_context(decoder: Decoder) -> None:
    context = decoder.start(2)
    context.read([TEXT, OTHER])
    with pytest.raises(FeedError, match="the context is not empty"):
        context.read([[1, 2], [3]])


def _change(folder: Path, *keys: str, **values: object) -> None:
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    place = config
    for key in keys:
        place = place[key]
    place.update(values)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("keys", "values", "words"),
    [
        (("model", "decoder", "inputs"), {"input_ids": "tokens"}, "no input 'tokens'"),
        (("model", "decoder", "inputs"), {"past_key_names": "past.%d.k"}, "no input 'past.0.k'"),
        (("model", "decoder", "inputs"), {"past_key_names": "past.k"}, "past_key_names is 'past.k'"),
        (("model", "decoder", "inputs"), {"position_ids": "position"}, "no input 'position'.*did you mean 'position_ids'"),
        (("model", "decoder", "outputs"), {"logits": "scores"}, "no output 'scores'"),
        (("model", "decoder"), {"num_hidden_layers": 2}, "no input 'past_key_values.1.key'"),
        (("model", "decoder"), {"num_hidden_layers": 3_000_000}, "is 3000000; expected a whole number from 1 to 4096"),
        (("model", "decoder"), {"num_hidden_layers": None}, "model.decoder.num_hidden_layers is None"),
        (("model", "decoder"), {"filename": "other.onnx"}, "other.onnx: is missing"),
        (("model", "decoder"), {"filename": "/etc/passwd"}, "filename is '/etc/passwd'; expected the name of a file in the"),
        (("model", "decoder"), {"filename": "../model.onnx"}, "expected the name of a file in the folder"),
        (("model", "decoder"), {"filename": "x" * 5000}, "filename is 'x{79}.*; expected a name of 1 to 200 characters"),
        (("model", "decoder", "inputs"), {"input_ids": "a\nb"}, r"input_ids is 'a\\nb'; expected a name"),
        (("model", "decoder"), {"inputs": []}, "model.decoder.inputs is \\[\\]; expected an object"),
        (("model",), {"eos_token_id": "x"}, "model.eos_token_id is 'x'"),
        (("model",), {"context_length": 0}, "model.context_length is 0"),
        (("model",), {"context_length": 10**30}, "model.context_length is 10{30}; expected a whole number"),
    ],
)  # fmt: skip
def test_wrong_genai_config_fields_are_refused(
    folders: dict[str, Path], tmp_path: Path, keys: tuple[str, ...], values: dict[str, object], words: str
) -> None:
    folder = shutil.copytree(folders["genai"], tmp_path / "changed")
    _change(folder, *keys, **values)
    with pytest.raises(ModelError, match=words):
        Decoder(folder)


def test_graphs_of_an_encoder_and_its_decoder_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    """A folder with the graphs of Optimum's exports of t5 and whisper."""
    for name in ("encoder_model.onnx", "decoder_model_merged.onnx"):
        shutil.copy(folders["genai"] / "model.onnx", tmp_path / name)
    words = "but decoder_model_merged.onnx, encoder_model.onnx, those of an encoder and its decoder, which do not run here"
    with pytest.raises(ModelError, match=words.replace(".", r"\.")):
        Decoder(tmp_path)


def test_paths_without_a_decoder_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has neither genai_config\.json nor model\.onnx"):
        Decoder(tmp_path)
    with pytest.raises(ModelError, match="is a file; expected its folder"):
        Decoder(folders["genai"] / "model.onnx")
    (tmp_path / "genai_config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="is no JSON"):
        Decoder(tmp_path)
    (tmp_path / "genai_config.json").write_text("{")
    with pytest.raises(ModelError, match="is no JSON"):
        Decoder(tmp_path)


def test_a_decoder_with_operators_of_ours_runs_with_and_without_the_library(tmp_path: Path) -> None:
    folder = save_genai(tmp_path / "float", shared_cache(WEIGHTS))
    coded = shutil.copytree(folder, tmp_path / "coded")
    (coded / "model.onnx").unlink()
    onnxquant.quantize(folder / "model.onnx", coded / "model.onnx", format="q8_0", target="custom", proof=False)
    last = {library: Decoder(coded, library=library).start().read([TEXT])[0] for library in (True, False)}
    assert np.allclose(last[True], last[False], atol=0.05)
    assert not np.array_equal(last[True], last[False])
    assert np.allclose(last[True], WEIGHTS.logits(TEXT)[-1], atol=0.2)


def test_graphs_that_give_the_last_logits_alone_give_as_many_as_are_read(tmp_path: Path) -> None:
    convert(save_checkpoint("llama", tmp_path / "checkpoint"), tmp_path / "decoder")
    decoder = Decoder(tmp_path / "decoder", threads=1)
    texts = [[5, 17, 9, 30, 2, 11], [8, 3, 21]]
    whole = [next(decoder.start().logits(np.array([text])))[0] for text in texts]
    assert [len(logits) for logits in whole] == [6, 3]
    context = decoder.start(2, 16)
    assert decoder.shares_buffers
    for last, logits in zip(context.read(texts), whole, strict=True):
        assert np.allclose(last, logits[-1], atol=1e-5)
    begun = decoder.start()
    for place, token in enumerate(texts[0]):
        assert np.allclose(begun.read([[token]])[0], whole[0][place], atol=1e-5)
