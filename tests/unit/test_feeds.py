"""Feeds: what every source of samples gives, and what each says of data that does not fit."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from samples import read

import onnxquant
from onnxquant.artifact.records import Metadata
from onnxquant.calibration.feeds import (
    Guess,
    Input,
    ModelFacts,
    SampleOrigin,
    Split,
    Synthetic,
    open_feeds,
    split,
    spread,
)
from onnxquant.errors import FeedError
from onnxquant.plan.activations import SampleUse

X = Input("x", "tensor(float)", ("batch", 3))
IDS = Input("ids", "tensor(int64)", ("batch", "length"))
RATE = Input("rate", "tensor(int64)", ())


def values(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same(left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(
        np.array_equal(left[n], right[n]) and left[n].dtype == right[n].dtype for n in left
    )


# ---- arrays ----


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_iterating_an_archive_twice_returns_the_same_samples(save: Callable[..., None], tmp_path: Path) -> None:
    x, rate = values(5, 3), np.arange(5)
    save(tmp_path / "f.npz", x=x, rate=rate)
    feeds = open_feeds(tmp_path / "f.npz", [X, RATE], limit=4)
    assert len(feeds) == 4
    assert feeds.origin == SampleOrigin(source=str(tmp_path / "f.npz"), samples=4)
    first, second = list(feeds), list(feeds)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        assert same(a, b)
        assert same(a, {"x": x[i : i + 1], "rate": np.asarray(rate[i])})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_is_not_read_into_memory(save: Callable[..., None], tmp_path: Path) -> None:
    save(tmp_path / "f.npz", x=np.zeros((64, 100_000), np.float32))  # 25 MB
    feeds = open_feeds(tmp_path / "f.npz", [Input("x", "tensor(float)", ("n", 100_000))])
    tracemalloc.start()
    assert sum(f["x"].shape[0] for f in feeds) == 64
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 100_000 < peak < 5_000_000  # some samples' worth


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_in_fortran_order_are_read(save: Callable[..., None], tmp_path: Path) -> None:
    x = np.asfortranarray(values(4, 3))
    save(tmp_path / "f.npz", x=x)
    assert np.array_equal(np.concatenate([f["x"] for f in open_feeds(tmp_path / "f.npz", [X])]), x)


dtypes = st.sampled_from([np.float32, np.float64, np.float16, ">f4", np.int64, np.uint8, np.bool_])


@settings(max_examples=60, deadline=None)
@given(st.data(), dtypes, st.integers(1, 5), st.lists(st.integers(0, 4), max_size=3), st.booleans())
def test_any_array_is_read_back_unchanged(
    tmp_path_factory: Any, data: Any, dtype: Any, count: int, rest: list[int], packed: bool
) -> None:
    array = data.draw(
        hnp.arrays(
            np.dtype(dtype),
            (count, *rest),
            elements={"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else None,
        )
    )
    path = tmp_path_factory.mktemp("arrays") / "f.npz"
    (np.savez_compressed if packed else np.savez)(path, x=array)
    native = np.dtype(dtype).newbyteorder("=")
    spec = Input(
        "x",
        {"bool": "tensor(bool)", "float32": "tensor(float)", "float64": "tensor(double)"}.get(
            str(native), f"tensor({native})"
        ),
        ("n", *rest),
    )
    feeds = open_feeds(path, [spec])
    assert len(feeds) == count
    assert same({"x": np.concatenate([f["x"] for f in feeds])}, {"x": array.astype(native)})
    path.with_suffix(".npy").unlink(missing_ok=True)
    np.save(path.with_suffix(".npy"), array)
    assert all(same(a, b) for a, b in zip(open_feeds(path.with_suffix(".npy"), [spec]), feeds, strict=True))


def test_batch_axes_open_and_fixed(tmp_path: Path) -> None:
    """One axis more: each entry is a batch. A model with a batch of 2: two entries are one."""
    np.savez(tmp_path / "f.npz", x=values(4, 5, 3))
    assert [f["x"].shape for f in open_feeds(tmp_path / "f.npz", [X])] == [(5, 3)] * 4
    x = values(6, 3)
    np.savez(tmp_path / "g.npz", x=x)
    feeds = list(open_feeds(tmp_path / "g.npz", [Input("x", "tensor(float)", (2, 3))]))
    assert np.array_equal(feeds[1]["x"], x[2:4]) and len(feeds) == 3


PAIRS = Input("x", "tensor(float)", (2, 3))


def test_what_fills_no_batch_is_kept_and_repeated_and_that_is_said(tmp_path: Path) -> None:
    x = values(7, 3)
    np.savez(tmp_path / "h.npz", x=x)
    for data in (tmp_path / "h.npz", [{"x": x[i : i + 1]} for i in range(7)], (x[i : i + 1] for i in range(7))):
        feeds = open_feeds(data, [PAIRS])
        assert np.array_equal(np.concatenate([f["x"] for f in feeds]), np.concatenate([x, x[6:]])) and len(feeds) == 4
        assert "1 samples are repeated to fill a batch" in (feeds.origin.assumed or ())


def test_fewer_samples_than_a_batch_are_repeated_and_that_is_said(tmp_path: Path) -> None:
    x = values(3, 3)
    np.savez(tmp_path / "h.npz", x=x)
    feeds = open_feeds(tmp_path / "h.npz", [Input("x", "tensor(float)", (8, 3))])
    assert len(feeds) == 1 and np.array_equal(next(iter(feeds))["x"], np.concatenate([x, x, x[:2]]))
    assert feeds.origin.assumed == ("batches of 8", "5 samples are repeated to fill a batch")


def test_inputs_beside_a_batch_are_not_joined() -> None:
    samples = [{"x": values(1, 3, seed=i), "rate": np.int64(8)} for i in range(4)]
    feeds = open_feeds(samples, [PAIRS, RATE])
    assert [(f["x"].shape, int(f["rate"])) for f in feeds] == [((2, 3), 8)] * 2
    assert len(open_feeds(samples, [PAIRS, RATE], limit=1)) == 1
    whole = [{"x": values(2, 3, seed=i), "rate": np.int64(8)} for i in range(4)]
    assert len(open_feeds(whole, [PAIRS, RATE])) == 4


def test_files_in_subfolders_are_taken_in_turn(tmp_path: Path) -> None:
    for name in ("cat/1.npy", "cat/2.npy", "dog/1.npy", "dog/deep/7.NPY", ".cache/9.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.full((1, 3), sum(name.encode()), np.float32))
    feeds = open_feeds(tmp_path, [X])
    names = ["cat/1.npy", "dog/1.npy", "dog/deep/7.NPY", "cat/2.npy"]
    assert [int(f["x"][0, 0]) for f in feeds] == [sum(name.encode()) for name in names]


def test_folders_hold_one_sample_per_file(tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir(), many.mkdir()
    for i in range(3):
        np.save(one / f"{i}.npy", values(3, seed=i))  # no batch axis: it gets one
        np.save(many / f"x_{i}.npy", values(2, 3, seed=i))
        np.save(many / f"rate_{i}.npy", np.int64(i))
    assert [f["x"].shape for f in open_feeds(one, [X])] == [(1, 3)] * 3
    feeds = list(open_feeds(many, [X, RATE]))
    assert [f["x"].shape for f in feeds] == [(2, 3)] * 3
    assert [int(f["rate"]) for f in feeds] == [0, 1, 2]
    (many / "rate_1.npy").unlink()
    with pytest.raises(FeedError, match=r"sample '1' has no rate_1\.npy; the model takes x"):
        open_feeds(many, [X, RATE])


def test_zero_sized_batches_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((0, 3), np.float32))
    assert [f["x"].shape for f in open_feeds(tmp_path, [X])] == [(0, 3)]
    with pytest.raises(FeedError, match=r"shape \[0, 3\], expected \[1, 3\]"):
        open_feeds(tmp_path, [Input("x", "tensor(float)", (1, 3))])


def test_optional_inputs_may_be_missing() -> None:
    extra = Input("bias", "tensor(float)", (3,), default=True)
    maybe = Input("maybe", "optional(tensor(float))", (3,))
    assert read([{"x": values(1, 3)}], [X, extra, maybe], None)[0].keys() == {"x"}
    both = read([{"x": values(1, 3), "bias": [1, 2, 3], "maybe": values(3)}], [X, extra, maybe], None)[0]
    assert both["bias"].dtype == np.float32 and both["maybe"].shape == (3,)


def test_strings_and_integers_are_converted_to_the_input_type() -> None:
    text = Input("text", "tensor(string)", ("n",))
    assert read([{"text": ["a", "b"]}], [text], None)[0]["text"].tolist() == ["a", "b"]
    with pytest.raises(FeedError, match=r"is int64, expected tensor\(string\)"):
        read([{"text": [1]}], [text], None)
    byte = Input("b", "tensor(uint8)", ("n",))
    assert read([{"b": [0, 255]}], [byte], None)[0]["b"].dtype == np.uint8
    for wrong in ([256], [-1]):
        with pytest.raises(FeedError, match=r"holds -?\d+ to -?\d+, which tensor\(uint8\) cannot hold"):
            read([{"b": wrong}], [byte], None)
    with pytest.raises(FeedError, match=r"which tensor\(uint64\) cannot hold"):
        read([{"b": [-1]}], [Input("b", "tensor(uint64)", ("n",))], None)


def npz(**arrays: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        np.savez_compressed(folder / "f.npz", **arrays)
        return folder / "f.npz"

    return make


def file(name: str, content: bytes) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def broken_stream(folder: Path) -> Path:
    """An archive whose directory is whole and whose compressed data is not."""
    np.savez_compressed(folder / "f.npz", x=values(200, 3))
    data = bytearray((folder / "f.npz").read_bytes())
    data[500:900] = bytes(400)
    (folder / "f.npz").write_bytes(data)
    return folder / "f.npz"


def short_member(folder: Path, ordered: Callable[[Any], Any] = np.ascontiguousarray) -> Path:
    """A member whose header promises more than there is."""
    np.save(folder / "x.npy", ordered(values(8, 3)))
    content = (folder / "x.npy").read_bytes()[:-12]
    with zipfile.ZipFile(folder / "f.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return folder / "f.npz"


def two_kinds(folder: Path) -> Path:
    np.save(folder / "a.npy", values(3))
    np.savez(folder / "b.npz", x=values(1, 3))
    return folder


def bomb(folder: Path) -> Path:
    """A small archive of one gigabyte of zeros."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": True, "shape": (1 << 27, 3)})
    with zipfile.ZipFile(folder / "f.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(header.getvalue())
        member.write(bytes(1 << 20))
    content = (folder / "f.npz").read_bytes()
    size = len(header.getvalue()) + (1 << 20)
    swollen = content.replace(
        size.to_bytes(4, "little"), (len(header.getvalue()) + 12 * (1 << 27)).to_bytes(4, "little")
    )
    (folder / "f.npz").write_bytes(swollen)
    return folder / "f.npz"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "f.npz")
    return folder / "f.npz"


TAKES = r"the model takes x tensor\(float\) \['batch', 3\]"
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing file": (lambda f: f / "no.npz", "no.npz: cannot be read as .npz: No such file"),
    "another ending": (file("f.dat", b"1,2,3"), f"expected a .npz file, a .npy file, .*; {TAKES}"),
    "no archive": (file("f.npz", b"nothing"), "f.npz: cannot be read as .npz: File is not a zip file"),
    "no array": (file("f.npy", b"nothing"), "f.npy: cannot be read as .npy"),
    "damaged stream": (broken_stream, "f.npz: cannot be read as .npz"),
    "bomb": (bomb, "f.npz: cannot be read as .npz: .* bytes that stand for 1610612"),
    "bomb in a folder": (lambda f: bomb(f).parent, "f.npz: cannot be read as .npz: .* bytes that stand for 1610612"),
    "FIFO": (fifo, "f.npz: is a device, a FIFO or a socket"),
    "FIFO in a folder": (lambda f: fifo(f).parent, "no .npz files in this folder"),
    "short member in Fortran's order": (
        lambda f: short_member(f, np.asfortranarray),
        "f.npz: cannot be read as .npz: x.npy ends early",
    ),
    "short member": (short_member, "f.npz: cannot be read as .npz: x.npy ends early"),
    "name": (npz(X=values(2, 3)), "no input 'X'; found X float32 .*the model takes x"),
    "near name": (npz(xx=values(2, 3)), "no input 'xx'; did you mean 'x'"),
    "nan": (npz(x=np.full((2, 3), np.nan, np.float32)), "sample 0: input 'x' holds NaN or infinity"),
    "empty": (npz(x=np.zeros((0, 3), np.float32)), f"holds no samples; {TAKES}"),
    "type": (npz(x=np.full((2, 3), "a")), r"input 'x' is <U1, expected tensor\(float\)"),
    "shape": (npz(x=values(2, 4)), r"input 'x' has shape \[1, 4\], expected \['batch', 3\]"),
    "mapping of nothing": (lambda f: {}, f"input 'x' is missing; {TAKES}"),
    "a number": (lambda f: 3, r"data: is int, expected \{input name: array\} for each sample; the model"),
    "an array": (lambda f: values(2, 3), "data: is numpy.ndarray, expected"),
    "samples of lists": (lambda f: [[1, 2, 3]], r"sample 0: is list, expected \{input name: array\}"),
    "ragged": (lambda f: [{"x": [[1, 2, 3], [1]]}], "input 'x' is no array"),
    "two kinds": (two_kinds, "holds both .npz and .npy files"),
    "empty folder": (lambda f: f, f"no .npz files in this folder or its subfolders, nor .npy files or images; {TAKES}"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_data_is_refused_with_its_reason(kind: str, tmp_path: Path) -> None:
    make, says = BAD[kind]
    data = make(tmp_path)
    with pytest.raises(FeedError, match=says) as caught:
        read(data, [X], None)
    assert "\n" not in str(caught.value)


def test_preprocess_is_only_for_images_and_texts(tmp_path: Path) -> None:
    for data in (npz(x=values(2, 3))(tmp_path), [{"x": values(1, 3)}]):
        with pytest.raises(FeedError, match="preprocess is for folders of images and for texts"):
            open_feeds(data, [X], preprocess="size=3")


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="holds 2 samples, expected at least 3"):
        open_feeds(npz(x=values(2, 3))(tmp_path), [X], least=3)


def test_a_bad_sample_is_named_when_it_is_read() -> None:
    feeds = open_feeds([{"x": values(1, 3)}, {"x": values(1, 4)}], [X])
    with pytest.raises(FeedError, match=r"data, sample 1: input 'x' has shape"):
        list(feeds)


# ---- Python ----


def test_iterables_are_read_lazily_and_again() -> None:
    class Counting:
        made = 0

        def __iter__(self) -> Iterator[dict[str, Any]]:
            for i in range(100):
                Counting.made += 1
                yield {"x": values(1, 3, seed=i)}

    feeds = open_feeds(Counting(), [X], limit=2)
    assert len(feeds) == 2 and Counting.made <= 4
    assert all(same(a, b) for a, b in zip(list(feeds), list(feeds), strict=True))


def test_a_generator_is_kept_up_to_the_limit() -> None:
    taken = []

    def samples() -> Iterator[dict[str, Any]]:
        for i in range(100):
            taken.append(i)
            yield {"x": values(1, 3, seed=i)}

    feeds = open_feeds(samples(), [X], limit=3)
    assert len(taken) == 3 and len(list(feeds)) == len(list(feeds)) == 3
    again = open_feeds(samples, [X], limit=5)  # the callable: asked each time
    assert same(list(again)[4], list(again)[4])


def test_a_function_may_return_a_mapping_of_arrays() -> None:
    assert len(open_feeds(lambda: {"x": values(4, 3)}, [X])) == 4
    assert next(iter(open_feeds(lambda: [values(1, 3)], [X])))["x"].shape == (1, 3)


def test_a_source_that_shrinks_is_refused() -> None:
    runs: list[int] = []

    def samples() -> Iterator[dict[str, Any]]:
        runs.append(1)
        yield from [{"x": values(1, 3)}] * (5 if len(runs) < 4 else 2)

    feeds = open_feeds(samples, [X])
    with pytest.raises(FeedError, match="gave 2 samples, expected 5"):
        [list(feeds) for _ in range(3)]


MODULE = """
import numpy as np
def samples():
    for i in range(3):
        yield {"x": np.full((1, 3), i, np.float32)}
listed = [{"x": np.zeros((1, 3), np.float32)}]
number = 3
def fails():
    raise KeyError("gone")
def late():
    yield {"x": np.zeros((1, 3), np.float32)}
    raise RuntimeError("half way")
def nonsense():
    return 7
class Inner:
    @staticmethod
    def samples():
        return listed
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"samples_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import no_such_module_at_all")
    monkeypatch.chdir(tmp_path)
    return name


def test_module_and_function_name_samples(module: str) -> None:
    import sys

    before = list(sys.path)
    feeds = open_feeds(f"{module}:samples", [X])
    assert [float(f["x"][0, 0]) for f in feeds] == [0, 1, 2]
    assert feeds.origin == SampleOrigin(source=f"{module}:samples", samples=3)
    assert len(open_feeds(f"{module}:listed", [X])) == len(open_feeds(f"{module}:Inner.samples", [X])) == 1
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{}:sample", "has no 'sample'; did you mean 'samples'"),
        ("{}:number", "is int, expected a function that gives samples"),
        ("{}:fails", "fails with KeyError: 'gone'"),
        ("{}:late", "fails with RuntimeError: half way"),
        ("{}:nonsense", "gives int, expected samples to go through; the model takes x"),
        ("{}_gone:samples", "no module '.*_gone' .*expected module:function"),
        ("{}_broken:samples", "importing it fails with ModuleNotFoundError: No module named 'no_such_module_at_all'"),
    ],
)
def test_bad_references_to_functions_are_refused(module: str, name: str, says: str) -> None:
    with pytest.raises(FeedError, match=says):
        read(name.format(module), [X], None)


# ---- synthetic ----


# ---- groups and splits ----


def numbers(feeds: Any) -> list[int]:
    return [int(f["x"].flat[0]) for f in feeds]


@pytest.mark.parametrize(
    ("count", "asked", "judged"),
    [
        (64, 4, range(48, 64)),
        (20, 4, range(15, 20)),
        (8, 1, range(6, 8)),
        (12, 5, range(7, 12)),
        (600, 32, range(568, 600)),
    ],
)
def test_of_samples_without_names_the_last_part_is_held_out(count: int, asked: int, judged: Any) -> None:
    feeds = open_feeds({"x": np.repeat(np.arange(count, dtype=np.float32), 3).reshape(count, 3)}, [X])
    halves = split(feeds, asked, 512)
    assert halves.apart
    assert numbers(halves.judging) == numbers(halves.judging) == list(judged)
    assert max(numbers(halves.calibrating)) < min(judged)
    assert halves.calibrating.origin.samples == len(halves.calibrating) == len(numbers(halves.calibrating))


def test_few_samples_are_not_divided_and_that_is_known() -> None:
    feeds = open_feeds({"x": values(7, 3)}, [X])
    assert split(feeds, 4, 512) == Split(feeds, feeds, apart=False, whole=feeds)


def files(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, np.full((1, 3), number, np.float32))
    return folder


@pytest.mark.parametrize(
    ("names", "source"),
    [
        ([f"{photo}_crop{i:02}.npy" for photo in ("astronaut", "cat", "coffee", "rocket") for i in range(10)], 10),
        ([f"photo{photo}_{i:02}.npy" for photo in range(5) for i in range(13)], 13),
        ([f"speaker-{speaker}-utterance-{i}.npy" for speaker in range(4) for i in range(6)], 6),
        ([f"84-12{chapter}-00{i:02}.npy" for chapter in (13, 14, 17, 19) for i in range(9)], 9),
    ],
)
def test_crops_of_one_photograph_are_not_held_out_from_each_other(
    names: list[str], source: int, tmp_path: Path
) -> None:
    halves = split(open_feeds(files(tmp_path, names), [X]), 4, 512)
    calibrating, judging = ({n // source for n in numbers(part)} for part in (halves.calibrating, halves.judging))
    assert halves.apart and judging and not calibrating & judging
    assert len(calibrating) >= 3


@pytest.mark.parametrize(("photos", "least"), [(12, 3), (8, 2), (20, 3)])
def test_more_than_one_source_judges_where_there_are_many(photos: int, least: int, tmp_path: Path) -> None:
    names = [f"photo{photo:02}_crop{i:02}.npy" for photo in range(photos) for i in range(10)]
    halves = split(open_feeds(files(tmp_path, names), [X]), 4, 512)
    sources = {n // 10 for n in numbers(halves.judging)}
    assert len(sources) >= least
    assert len({n // 10 for n in numbers(halves.calibrating)}) == photos - len(sources)


def test_files_with_names_of_their_own_are_held_out_one_by_one(tmp_path: Path) -> None:
    words = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "lion")
    names = [f"{word}.npy" for word in words]
    halves = split(open_feeds(files(tmp_path, names), [X]), 4, 512)
    assert numbers(halves.judging) == [2, 5, 8, 11]


def test_frames_of_a_film_are_held_out_as_one_part(tmp_path: Path) -> None:
    halves = split(open_feeds(files(tmp_path, [f"frame_{i:04}.npy" for i in range(40)]), [X]), 4, 512)
    assert numbers(halves.judging) == list(range(30, 40))


def test_samples_that_judge_come_from_every_source_held_out(tmp_path: Path) -> None:
    names = [
        f"{word}_{i:02}.npy" for word in ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen") for i in range(20)
    ]
    feeds = open_feeds(files(tmp_path, names), [X])
    halves = split(feeds, 40, 512)
    assert {n // 20 for n in numbers(halves.judging)} == {3, 7}
    assert {n // 20 for n in numbers(spread(halves.judging, 4))} == {3, 7}
    assert numbers(spread(feeds, 8)) == [20 * i for i in range(8)]


def test_synthetic_feeds_follow_the_inputs() -> None:
    inputs = [X, IDS, RATE, Input("sr", "tensor(int64)", ()), Input("text", "tensor(string)", ("n",))]
    feeds = Synthetic(inputs, {"ids": 50}, Guess({"length": 9}, 4, 4), 3, seed=7)
    first, second = list(feeds), list(feeds)
    assert len(feeds) == len(first) == 3 and all(same(a, b) for a, b in zip(first, second, strict=True))
    assert first[0]["ids"].shape == (1, 9) and 2 < first[0]["ids"].max() < 50
    assert first[0]["sr"] == 16000 and first[0]["x"].shape == (1, 3)
    assert feeds.origin.is_synthetic and feeds.origin.shapes["ids"] == (1, 9)
    assert not same(first[0], next(iter(Synthetic(inputs, {"ids": 50}, Guess({"length": 9}, 4, 4), 3, seed=8))))


def test_a_solved_file_says_which_samples_were_held_out(tmp_path: Path) -> None:
    proto = graphs.matmul(64, 32)
    data = {"x": values(16, 3, 64)}
    report = onnxquant.quantize(proto, tmp_path / "q.onnx", bits=4, data=data, samples=4, threads=1)
    metadata = Metadata.read(onnx.load(tmp_path / "q.onnx"))
    assert metadata and metadata.sample_use == SampleUse(12, 4, apart=True)
    again = onnxquant.validate(proto, tmp_path / "q.onnx", data, samples=4, threads=1)
    assert report.proof and again.proof and report.proof.feeds and again.proof.feeds
    assert report.proof.feeds.apart is again.proof.feeds.apart is True


def test_what_does_not_fit_is_compared_with_the_inputs_in_a_table() -> None:
    inputs = [Input("x", "tensor(float)", (1, 3, 224, 224)), Input("mask", "tensor(int64)", ("n",))]
    with pytest.raises(FeedError, match=r"input 'mask' is missing; .*; found x float64 \[1, 3, 224, 224\]") as caught:
        open_feeds([{"x": np.zeros((1, 3, 224, 224))}], inputs, facts=ModelFacts(outputs={"y": 1000}))
    assert caught.value.table == (
        "  input  the model takes                 the sample has",
        "  x      tensor(float) [1, 3, 224, 224]  float64 [1, 3, 224, 224]",
        "  mask   tensor(int64) ['n']             -",
        "  A folder of images becomes such inputs with --preprocess imagenet.",
    )
