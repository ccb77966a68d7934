"""Feeds: samples for a model, from arrays, images, texts, Python or synthetic; read one at a time.

They may import what calibration may; calibration and the rooms above it may import them.

>>> feeds = open_feeds("feeds.npz", [Input("x", "tensor(float)", ("batch", 3))])   # doctest: +SKIP
>>> for feed in feeds: ...                                                         # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxquant.calibration.feeds import arrays, image_guess, images, python, sound, tables, text
from onnxquant.calibration.feeds.base import (
    Assumption,
    Checked,
    Chosen,
    Feed,
    Feeds,
    Input,
    SampleOrigin,
    Source,
    batch_size,
    check,
    expected,
)
from onnxquant.calibration.feeds.batches import in_batches
from onnxquant.calibration.feeds.empty_caches import WithCache, empty_cache
from onnxquant.calibration.feeds.facts import NO_FACTS, ModelFacts, facts_of
from onnxquant.calibration.feeds.labels import Label, LabelFile
from onnxquant.calibration.feeds.preparation import Preparation, ranges_of, unscaled_pixels
from onnxquant.calibration.feeds.settings import Description, entries
from onnxquant.calibration.feeds.split import JUDGED, MANY_JUDGED, Split, split, spread, spread_places
from onnxquant.calibration.feeds.synthetic import Guess, Synthetic, guesses, vocabulary
from onnxquant.calibration.feeds.windows import in_windows
from onnxquant.errors import FeedError
from onnxquant.system.files import is_special

__all__ = [
    "JUDGED",
    "MANY_JUDGED",
    "NO_FACTS",
    "Assumption",
    "Checked",
    "Chosen",
    "Data",
    "Description",
    "Feed",
    "Feeds",
    "Guess",
    "Input",
    "Label",
    "LabelFile",
    "ModelFacts",
    "Preparation",
    "SampleOrigin",
    "Split",
    "Synthetic",
    "check",
    "entries",
    "facts_of",
    "guesses",
    "in_windows",
    "open_feeds",
    "ranges_of",
    "refuse_missing",
    "split",
    "spread",
    "spread_places",
    "unscaled_pixels",
    "vocabulary",
]

Sample = Mapping[str, Any]
Data = str | Path | Sample | Iterable[Any] | Callable[[], Any]


def open_feeds(
    data: Data,
    inputs: Sequence[Input],
    *,
    limit: int | None = None,
    preprocess: Description | None = None,
    least: int = 1,
    facts: ModelFacts = NO_FACTS,
) -> Checked:
    """Open samples for a model; they are read when they are iterated over.

    Args:
        data: a ``.npz`` with an array per input, samples along the first axis; a ``.npy`` of the only input; a folder of
            such files with one sample (or batch) each; a folder of images; a ``.txt`` with a sample per line;
            ``module:function``; a mapping of arrays; an iterable of ``{input name: array}``; or a function that returns one.
        inputs: inputs of the model.
        limit: largest number of samples; None: all.
        preprocess: steps from images or texts to inputs: a preset, a mapping, a TOML or YAML file, or ``key=value,...``.
        least: smallest number of samples; fewer are an error.
        facts: facts about the model, from which open steps follow.

    Raises:
        FeedError: unreadable, empty, too few, or of other inputs than the model's, which the message lists.
    """
    name = str(data) if isinstance(data, (str, Path)) else "data"
    size = batch_size(inputs)
    cache = empty_cache(inputs, facts)
    needed = [replace(i, default=True) if cache and i.name in cache.names else i for i in inputs]
    source = _source(data, needed, None if limit is None else limit * size, entries(preprocess), facts)
    source = WithCache(source, cache) if cache else source
    are_classes = len(source.classes) > 1 and len(source.classes) in facts.outputs.values()
    feeds = Checked(name, in_batches(source, inputs, size), inputs, limit, are_classes=are_classes)
    if facts.recorded and (remarks := facts.recorded.differences(feeds.origin)):
        feeds.origin = replace(feeds.origin, remarks=(*(feeds.origin.remarks or ()), *remarks))
    if not len(feeds):
        raise FeedError(f"{name}: holds no samples; {expected(inputs)}")
    if len(feeds) < least:
        raise FeedError(f"{name}: holds {len(feeds)} samples, expected at least {least}")
    try:
        next(iter(feeds))  # samples that do not fit at all are refused now
    except FeedError as error:
        raise FeedError(str(error), (*error.table, *_advice(error, inputs, facts))) from None
    return feeds


def _advice(error: FeedError, inputs: Sequence[Input], facts: ModelFacts) -> list[str]:
    """The preset that makes the inputs of images, where arrays do not fit and one seems to."""
    guesses = [image_guess.guess(spec, facts) for spec in inputs if len(spec.shape) == 4]
    preset = next((guess.preset for guess in guesses if guess and guess.preset), None)
    return [f"  A folder of images becomes such inputs with --preprocess {preset}."] if preset and error.table else []


def refuse_missing(data: Data | None) -> None:
    """Refuse the name of a file or folder that is not there, before any work is done.

    Raises:
        FeedError: it is not there.
    """
    is_name = isinstance(data, (str, Path)) and not (isinstance(data, str) and python.is_reference(data))
    if is_name and not Path(str(data)).exists():
        raise FeedError(f"{data}: no such file or folder")


def _source(
    data: Data, inputs: Sequence[Input], limit: int | None, steps: Mapping[str, Any], facts: ModelFacts
) -> Source:
    if isinstance(data, (str, Path)):
        path = Path(data)
        if is_special(path):
            raise FeedError(f"{path}: is a device, a FIFO or a socket; expected a file or a folder")
        if path.is_dir():
            return _folder(path, inputs, steps, facts)
        if path.suffix.lower() in images.endings():
            return images.images(path, [path], inputs, steps, facts)
        if path.suffix.lower() in sound.ENDINGS:
            return sound.sounds(path, [path], inputs, steps, facts)
        if path.suffix.lower() in text.ENDINGS:
            return text.lines(path, inputs, steps, facts)
        if path.suffix.lower() in tables.ENDINGS:
            return tables.Table(path, inputs, steps, facts)
        if isinstance(data, str) and python.is_reference(data):
            return python.from_python(python.samples_named(data), data, limit, python.Target(inputs, steps, facts))
        if steps:
            raise FeedError(f"{data}: preprocess is for folders of images and for texts; {expected(inputs)}")
        if not path.exists() and not path.suffix:
            raise FeedError(f"{data}: no such file or folder; {expected(inputs)}")
        if path.suffix.lower() not in arrays.ENDINGS:
            raise FeedError(
                f"{path}: expected a .npz file, a .npy file, a .txt file, a .csv or .jsonl table, an image, a sound, a "
                f"folder of arrays, images or sounds, or module:function; {expected(inputs)}"
            )
        return arrays.stacked(path, inputs)
    return python.from_python(data, "data", limit, python.Target(inputs, steps, facts))


def _files(path: Path, *, in_turn: bool) -> list[Path]:
    """Files of a folder by name; where it has no samples, those of its subfolders.

    Args:
        path: the folder.
        in_turn: take one file of each subfolder, then the next of each, so that a few show all classes.
    """
    endings = (*arrays.ENDINGS, *images.endings(), *sound.ENDINGS)
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    if any(f.suffix.lower() in endings for f in files):
        return files
    places: dict[Path, int] = {}
    inner = []
    for file in sorted(path.rglob("*")):
        is_shown = not any(part.startswith(".") for part in file.relative_to(path).parts)
        if is_shown and file.suffix.lower() in endings and file.is_file():
            places[file.parent] = places.get(file.parent, -1) + 1
            inner.append((places[file.parent] if in_turn else 0, file))
    return [file for _, file in sorted(inner)]


def _folder(path: Path, inputs: Sequence[Input], steps: Mapping[str, Any], facts: ModelFacts) -> Source:
    """The samples of a folder of arrays or images."""
    files = _files(path, in_turn=batch_size(inputs) == 1)
    array_files = [f for f in files if f.suffix.lower() in arrays.ENDINGS]
    image_files = [f for f in files if f.suffix.lower() in images.endings()]
    sound_files = [f for f in files if f.suffix.lower() in sound.ENDINGS]
    kinds = {"arrays": array_files, "images": image_files, "sounds": sound_files}
    if len(several := [f"{kind} ({group[0].name})" for kind, group in kinds.items() if group]) > 1:
        raise FeedError(f"{path}: holds both {' and '.join(several)}; expected one kind")
    if sound_files:
        return sound.sounds(path, sound_files, inputs, steps, facts)
    if image_files:
        return images.images(path, image_files, inputs, steps, facts)
    if not array_files:
        raise FeedError(
            f"{path}: no .npz files in this folder or its subfolders, nor .npy files or images; {expected(inputs)}"
        )
    if steps:
        raise FeedError(f"{path}: preprocess is for folders of images and for texts; {expected(inputs)}")
    return arrays.folder(path, array_files, inputs)
