"""Rows of tables and samples of Python: columns and parts become inputs, others are left out or tell the label."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxquant.calibration.feeds import Input, open_feeds
from onnxquant.errors import FeedError

TEXT = Input("text", "tensor(string)", (1,))
IMAGE = Input("x", "tensor(float)", ("n", 3, 8, 6))
FEATURES = Input("features", "tensor(float)", (None, 3))
IDS = Input("input_ids", "tensor(int64)", ("n", "length"))
LINES = ["the first", "a second, with a comma", "third"]


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        quoted = [mark.join(f'"{value}"' for value in row.values()) for row in rows]
        path.write_text("\n".join([mark.join(rows[0]), *quoted]))
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_a_column_of_texts_is_read(name: str, tmp_path: Path) -> None:
    data = table(tmp_path / name, [{"id": f"n{i}", "sentence": line, "label": i % 2} for i, line in enumerate(LINES)])
    feeds = open_feeds(data, [TEXT])
    assert [f["text"].item() for f in feeds] == LINES and "column=sentence" in (feeds.origin.assumed or ())
    assert [label for _, label in feeds.labelled()] == [[0], [1], [0]]
    ids = open_feeds(data, [TEXT], preprocess="column=id")
    assert [f["text"].item() for f in ids] == ["n0", "n1", "n2"]
    with pytest.raises(FeedError, match="has no column 'sentense'; did you mean 'sentence'"):
        open_feeds(data, [TEXT], preprocess="column=sentense")
    odd = table(tmp_path / f"odd{Path(name).suffix}", [{"a": "x y", "b": "z w"}])
    with pytest.raises(FeedError, match="has the columns a, b: --preprocess column=NAME says which holds the text"):
        open_feeds(odd, [TEXT])


def test_columns_of_numbers_are_features_or_inputs(tmp_path: Path) -> None:
    rows = [{"a": i, "b": i + 0.5, "c": -i, "y": i % 2} for i in range(4)]
    feeds = open_feeds(table(tmp_path / "t.csv", rows), [FEATURES])
    assert np.array_equal(np.concatenate([f["features"] for f in feeds]), [[i, i + 0.5, -i] for i in range(4)])
    named = [Input(name, kind, (None, 1)) for name, kind in (("a", "tensor(int64)"), ("b", "tensor(float)"))]
    feeds = open_feeds(tmp_path / "t.csv", named)
    assert [(f["a"].tolist(), f["b"].tolist()) for f in feeds] == [([[i]], [[i + 0.5]]) for i in range(4)]
    assert "columns that are no inputs: c" in (feeds.origin.assumed or ())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.jsonl", '{"text": "a"}\n{"text": ', "cannot be read as a table"),
        ("t.jsonl", '{"text": "a"}\n{"other": "b"}', "row 2: input 'text' is missing"),
        ("t.csv", "", "holds no rows"),
        ("t.csv", "a,b\n1,2\n", r"has the columns a, b; the model takes text"),
        ("gone.csv", None, "cannot be read as a table: No such file"),
    ],
)
def test_bad_tables_are_refused(name: str, content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(FeedError, match=says):
        list(open_feeds(tmp_path / name, [TEXT]))


# ---- Python ----


class Tensor:
    """A tensor as torch has it: numpy takes it after it is detached and on the CPU."""

    def __init__(self, values: Any, *, is_detached: bool = False) -> None:
        self._values, self._is_detached = np.asarray(values), is_detached

    def detach(self) -> Tensor:
        return Tensor(self._values, is_detached=True)

    def cpu(self) -> Tensor:
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        assert self._is_detached
        return self._values


class Loader:
    """A loader of torch: batches in the same order each time."""

    def __init__(self, batches: Callable[[], Iterator[Any]], length: int) -> None:
        self._batches, self._length = batches, length

    def __iter__(self) -> Iterator[Any]:
        return self._batches()

    def __len__(self) -> int:
        return self._length


VALUES = np.random.default_rng(0).random((10, 3, 8, 6), np.float32)


@pytest.mark.parametrize("first", ["n", 1, 4, 5])
@pytest.mark.parametrize("form", ["tuples", "mappings"])
def test_loaders_give_batches_and_labels(first: Any, form: str) -> None:
    def batches() -> Iterator[Any]:
        for i in range(0, 10, 4):
            x, y = Tensor(VALUES[i : i + 4]), Tensor(np.arange(10)[i : i + 4])
            yield (x, y) if form == "tuples" else {"x": x, "labels": y}

    feeds = open_feeds(Loader(batches, 3), [Input("x", "tensor(float)", (first, 3, 8, 6))])
    pairs = list(feeds.labelled())
    assert len(pairs) == len(feeds) == {"n": 3, 1: 10, 4: 3, 5: 2}[first]
    assert np.array_equal(np.concatenate([f["x"] for f, _ in pairs])[:10], VALUES)
    labels = [label for _, own in pairs for label in own or () if label != ""]
    assert labels == list(range(10))


def test_datasets_by_number_and_shuffled_loaders_are_read() -> None:
    class Dataset:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, i: int) -> tuple[Any, int]:
            return Tensor(VALUES[i]), i

    feeds = open_feeds(Dataset(), [IMAGE])  # type: ignore[arg-type]
    assert np.array_equal(np.concatenate([f["x"] for f in feeds]), VALUES)
    assert [label for _, label in feeds.labelled()] == [[i] for i in range(10)]

    class RandomSampler:
        pass

    random = np.random.default_rng(0)
    loader = Loader(lambda: iter([{"x": VALUES[i : i + 1]} for i in random.permutation(10)]), 10)
    loader.sampler = RandomSampler()  # type: ignore[attr-defined]
    kept = open_feeds(loader, [IMAGE], limit=4)
    assert np.array_equal([f["x"] for f in kept], [f["x"] for f in kept])


def test_rows_of_hugging_face_hold_images_texts_and_tokens() -> None:
    pixels = (VALUES * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    pictures = [{"image": Image.fromarray(pixels[i]), "label": i} for i in range(3)]
    feeds = open_feeds(pictures, [IMAGE], preprocess="minus1to1")
    assert all(np.abs(f["x"][0] - (2 * VALUES[i] - 1)).max() < 0.01 for i, f in enumerate(feeds))
    assert [label for _, label in feeds.labelled()] == [[0], [1], [2]] and feeds.origin.kind == "images"
    feeds = open_feeds([{"text": line, "idx": i} for i, line in enumerate(LINES)], [Input("s", "tensor(string)", (1,))])
    assert [f["s"].item() for f in feeds] == LINES
    tokens = [{"input_ids": [1, 2, 3], "special_tokens_mask": [1, 0, 1], "label": 0}]
    (feed,) = open_feeds(tokens, [IDS])
    assert feed["input_ids"].tolist() == [[1, 2, 3]]
    assert [f["s"].item() for f in open_feeds(LINES, [Input("s", "tensor(string)", (1,))])] == LINES


def test_splits_are_refused_by_name() -> None:
    class Part:
        column_names = ("x",)

    with pytest.raises(FeedError, match=r"holds the splits train, test: give one of them, such as data\['train'\]"):
        open_feeds({"train": Part(), "test": Part()}, [IMAGE])


def test_real_datasets_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": LINES, "label": [0, 1, 0]})
    assert [f["text"].item() for f in open_feeds(data, [TEXT])] == LINES
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(VALUES), torch.arange(10)), 4)
    assert np.array_equal(np.concatenate([f["x"] for f in open_feeds(loader, [IMAGE])]), VALUES)


