"""Models and their samples as files: generated ones, and those that packages carry."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from fetch_models import CATALOGUE, FETCHED, Model, read_catalogue
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from zoo import net  # noqa: E402
from zoo.catalogue import Model as Generated  # noqa: E402
from zoo.catalogue import models as generated_models  # noqa: E402

ZOO = ROOT / "models" / "zoo.toml"
CALIBRATION, TEST = 8, 6
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Files:
    """A model on disk and its samples: archives whose first axis counts samples."""

    model: Path
    calibration: Path
    test: Path


@dataclass(frozen=True)
class Source:
    """A model of the zoo.

    Attributes:
        name: name in the table.
        is_real: whether a package carries it.
        prepare: writes its files into a folder.
    """

    name: str
    is_real: bool
    prepare: Callable[[Path], Files]


def real() -> list[Source]:
    """The models of packages that scripts/fetch_models.py has fetched, small ones first."""
    entries = {**read_catalogue(CATALOGUE), **read_catalogue(ZOO)}
    fetched = [m for m in entries.values() if (FETCHED / m.id / m.model).exists()]
    fetched.sort(key=lambda m: sum(p.stat().st_size for p in (FETCHED / m.id).iterdir()))
    return [Source(m.id, True, partial(_prepare_real, m)) for m in fetched]


def missing() -> list[str]:
    """Names of catalogued models that are not there."""
    entries = {**read_catalogue(CATALOGUE), **read_catalogue(ZOO)}
    return [m.id for m in entries.values() if not (FETCHED / m.id / m.model).exists()]


def generated(width: int) -> list[Source]:
    """The generated models, with this many channels."""
    return [Source(m.name, False, partial(_prepare, m)) for m in generated_models(width)]


def _prepare(model: Generated, folder: Path) -> Files:
    case = model.build()
    path = folder / "model.onnx"
    onnx.save(case.proto, path)
    samples = case.samples(CALIBRATION + TEST)
    return _write(path, folder, {k: np.stack([s[k] for s in samples]) for k in case.inputs})


def _write(path: Path, folder: Path, arrays: Arrays) -> Files:
    files = Files(path, folder / "calibration.npz", folder / "test.npz")
    np.savez(files.calibration, **{k: v[:CALIBRATION] for k, v in arrays.items()})  # type: ignore[arg-type]
    np.savez(files.test, **{k: v[CALIBRATION:] for k, v in arrays.items()})  # type: ignore[arg-type]
    return files


def _prepare_real(model: Model, folder: Path) -> Files:
    """Real samples where the catalogue has them, else drawn ones within the model's ranges."""
    path = FETCHED / model.id / model.model
    stored = path.parent / "feeds.npz"
    inputs = _inputs(path)
    if stored.exists():
        with np.load(stored) as data:
            count = len(next(iter(data.values())))
            taken = np.resize(np.arange(count), CALIBRATION + TEST)
            return _write(path, folder, {k: data[k][taken][:, None] for k in data.files})
    random = np.random.default_rng(1)
    draws = [{entry.name: _draw(model, entry, random) for entry in inputs} for _ in range(CALIBRATION + TEST)]
    return _write(path, folder, {entry.name: np.stack([d[entry.name] for d in draws]) for entry in inputs})


def _inputs(path: Path) -> list[onnx.ValueInfoProto]:
    """Inputs that have no initializer. No session: its threads would not survive the forks of this process."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {t.name for t in graph.initializer}
    return [entry for entry in graph.input if entry.name not in constants]


def _draw(model: Model, entry: onnx.ValueInfoProto, random: np.random.Generator) -> NDArray[Any]:
    """A value of an input: pictures, sounds, ids or plain numbers, by its shape and type."""
    tensor = entry.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    dims = model.shapes.get(entry.name) or [d.dim_value or model.dims[d.dim_param] for d in tensor.shape.dim]
    shape = tuple(dims)
    low, high = model.ranges.get(entry.name, (-1, 1))
    if dtype.kind in "iu":
        return random.integers(int(low), int(high) + 1, shape).astype(dtype)
    if dtype.kind == "b":
        return np.ones(shape, bool)
    middle, half = (low + high) / 2, (high - low) / 2
    if len(shape) == 4 and shape[1] in (1, 3):
        return np.asarray(middle + half * _pictures(random, shape), "float32")
    if len(shape) == 4 and shape[3] in (1, 3):
        batch, height, width, channels = shape
        return np.asarray(
            middle + half * _pictures(random, (batch, channels, height, width)).transpose(0, 2, 3, 1), "float32"
        )
    if shape and shape[-1] >= 500:
        return np.asarray(net.sounds(random, shape))
    return np.asarray(random.uniform(low, high, shape), "float32")


def _pictures(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
    """Lines of letters over smooth fields, from -1 to 1."""
    _, channels, height, width = shape
    fields: NDArray[Any] = 0.6 + 0.4 * np.tanh(net.images(random, shape))
    for field in fields:
        page = Image.new("L", (width, height), 0)
        draw, y = ImageDraw.Draw(page), 4
        while y < height - 12:
            size = int(random.integers(12, 40)) if height > 64 else height - 14
            words = " ".join("".join(random.choice(LETTERS, random.integers(2, 9))) for _ in range(8))
            draw.text((int(random.integers(2, 24)), y), words, fill=255, font=ImageFont.load_default(size))
            y += int(size * random.uniform(1.3, 3))
        field -= np.asarray(page, np.float32) / 255 * random.uniform(0.8, 1.6, (channels, 1, 1)).astype(np.float32)
    return np.asarray(np.clip(fields, -1, 1))
