"""Photographs out of packages and folders, their division by source, and crops of them in another light."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Photographs that judge, and crops of each: the first in its own light.
UNSEEN, CROPS = 26, 4
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_LARGEST, _LEAST = 1200, 160
Pixels = NDArray[Any]


@dataclass(frozen=True)
class Photograph:
    """One photograph: its name and its picture."""

    name: str
    picture: Image.Image


@dataclass(frozen=True)
class Split:
    """Photographs that may calibrate, and those that judge."""

    calibrating: Sequence[Photograph]
    unseen: Sequence[Photograph]


def read(folder: Path, packages: Mapping[str, Sequence[str]]) -> list[Photograph]:
    """All photographs of a folder: those of the packages in it, and image files of its subfolders.

    Args:
        folder: wheels, source archives, and folders of images.
        packages: regular expressions of the photographs inside of packages.
    """
    photographs = []
    for package, patterns in packages.items():
        names = re.compile("|".join(patterns))
        for archive in sorted(_archives(folder, package))[:1]:
            photographs += [
                _photograph(package, name, data) for name, data in _files(archive) if names.fullmatch(name)
            ]
    for path in sorted(p for p in folder.glob("*/**/*") if p.suffix.lower() in _ENDINGS):
        photographs.append(_photograph(path.parent.name, path.name, path.read_bytes()))
    return [p for p in photographs if min(p.picture.size) >= _LEAST]


def _archives(folder: Path, package: str) -> Iterator[Path]:
    start = package.replace("-", "_").lower()
    for path in folder.iterdir():
        if path.name.lower().replace("-", "_").startswith(start + "_") and path.suffix in (".whl", ".gz"):
            yield path


def _files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the image files of an archive, in order of their names."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(n for n in wheel.namelist() if n.lower().endswith(_ENDINGS)):
                yield name, wheel.read(name)
        return
    with tarfile.open(archive) as source:
        for member in sorted(source.getmembers(), key=lambda m: m.name):
            if member.isfile() and member.name.lower().endswith(_ENDINGS) and (file := source.extractfile(member)):
                yield member.name, file.read()


def _photograph(package: str, name: str, data: bytes) -> Photograph:
    picture = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    picture.thumbnail((_LARGEST, _LARGEST))
    return Photograph(f"{package} {name}", picture)


def split(photographs: Sequence[Photograph], seed: int) -> Split:
    """The division of photographs: 26 of them judge."""
    order = [photographs[i] for i in np.random.default_rng(seed).permutation(len(photographs))]
    return Split(order[UNSEEN:], order[:UNSEEN])


def unseen(photographs: Sequence[Photograph], size: tuple[int, int], seed: int) -> list[Pixels]:
    """Crops that judge: of each photograph one in its own light, and others in strongly changed light."""
    random = np.random.default_rng([seed, 1])
    return [crop(p.picture, size, random, changed=turn > 0) for turn in range(CROPS) for p in photographs]


def calibrating(photographs: Sequence[Photograph], number: int, size: tuple[int, int], seed: int) -> dict[str, Pixels]:
    """Samples by name: four crops of each photograph, two where there are twenty or more, one of a hundred.

    Where there are fewer photographs, more come from crops of the same ones in another light.
    """
    random = np.random.default_rng([seed, 2, number])
    crops = 4 if number < 20 else 2 if number < 100 else 1
    samples: dict[str, Pixels] = {}
    for place in range(number * crops):
        turn, index = divmod(place, min(number, len(photographs)))
        picture = photographs[index].picture
        samples[f"photo{index:03d}_crop{turn}"] = crop(picture, size, random, changed=turn % 4 > 0)
    return dict(sorted(samples.items()))


def crop(picture: Image.Image, size: tuple[int, int], random: np.random.Generator, *, changed: bool) -> Pixels:
    """A random crop, from 0 to 1; changed: of any scale, perhaps mirrored, with other light and contrast."""
    height, width = size
    aspect = width / height
    most = min(picture.width / aspect, picture.height)
    tall = most * random.uniform(0.35 if changed else 0.8, 1)
    left = random.uniform(0, picture.width - tall * aspect)
    top = random.uniform(0, picture.height - tall)
    box = (left, top, left + tall * aspect, top + tall)
    pixels: Pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box), np.float32) / 255
    if not changed:
        return pixels
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    pixels = np.power(pixels, np.float32(random.uniform(0.5, 2.0)))
    middle = pixels.mean()
    pixels = np.clip((pixels - middle) * random.uniform(0.5, 1.5) + middle, 0, 1) * random.uniform(0.6, 1.0)
    return pixels.astype(np.float32)
