"""Networks of the benchmark, with samples that calibrate and samples that judge."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from fetch_models import CATALOGUE, FETCHED, read_catalogue
from numpy.typing import NDArray

from . import photographs
from .photographs import Pixels, Split

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from zoo.catalogue import models as generated_models  # noqa: E402

LIST = Path(__file__).with_name("bench.toml")
# Samples of generated networks: as many calibrate as in the zoo.
GENERATED, GENERATED_UNSEEN = 8, 104
Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Samples:
    """Samples by name that calibrate, and those that judge."""

    calibrating: Mapping[str, Feed]
    unseen: Sequence[Feed]


@dataclass(frozen=True)
class Network:
    """A network that takes photographs.

    Attributes:
        name: name in the table.
        model: entry of a catalogue of models, or a file.
        depthwise: whether it has depthwise convolutions.
        size: height and width of its input.
        mean, std: taken off pixels from 0 to 1, and what they are divided by.
        channels: order of channels: RGB, BGR, or L for grey.
        last: whether channels are the last axis.
    """

    name: str
    model: str
    depthwise: bool = False
    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: str = "RGB"
    last: bool = False

    def path(self) -> Path:
        """The model's file."""
        entries = {**read_catalogue(CATALOGUE), **read_catalogue(ROOT / "models" / "zoo.toml")}
        if self.model in entries:
            return FETCHED / self.model / entries[self.model].model
        return Path(self.model)

    def samples(self, path: Path, split: Split, number: int, seed: int) -> Samples:
        """Samples of so many photographs, and those that judge."""
        graph = onnx.load(path, load_external_data=False).graph
        constants = {t.name for t in graph.initializer}
        name = next(i.name for i in graph.input if i.name not in constants)
        calibrating = photographs.calibrating(split.calibrating, number, self.size, seed)
        return Samples(
            {k: {name: self._input(pixels)} for k, pixels in calibrating.items()},
            [{name: self._input(pixels)} for pixels in photographs.unseen(split.unseen, self.size, seed)],
        )

    def _input(self, pixels: Pixels) -> NDArray[Any]:
        if self.channels == "BGR":
            pixels = pixels[..., ::-1]
        elif self.channels == "L":
            pixels = pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)
        scaled = ((pixels - np.array(self.mean)) / np.array(self.std)).astype(np.float32)
        return np.ascontiguousarray(scaled if self.last else scaled.transpose(2, 0, 1))[None]


def read_list(path: Path) -> tuple[list[Network], dict[str, list[str]]]:
    """Networks, and the photographs of packages."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    networks = []
    for name, fields in entries["networks"].items():
        frozen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        networks.append(Network(name, **frozen))
    return networks, entries["photographs"]


def generated(name: str, width: int, path: Path, seed: int) -> Samples:
    """Write a generated network of the zoo; its samples, of which eight calibrate."""
    case = next(m for m in generated_models(width) if m.name == name).build()
    onnx.save(case.proto, path)
    samples = case.samples(GENERATED * (seed + 1) + GENERATED_UNSEEN)
    calibrating = samples[GENERATED_UNSEEN + GENERATED * seed :]
    return Samples({f"sample{i}": s for i, s in enumerate(calibrating)}, samples[:GENERATED_UNSEEN])
