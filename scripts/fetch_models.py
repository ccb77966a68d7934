"""Fetch the models of models/catalogue.toml out of the packages that carry them.

    python scripts/fetch_models.py --list
    python scripts/fetch_models.py minilm_l6 ppocr_rec

Each file is checked against its SHA-256; what is already there and right is left alone. Models of which a
package has only the weights are built, and some get real inputs (feeds.npz) and labels (labels.npy).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "models" / "catalogue.toml"
FETCHED = ROOT / "models" / "fetched"

# Photographs whose names end in their ImageNet class (hashed together), and news, one document a line.
PHOTOS = (
    "foolbox",
    "3.3.4",
    "foolbox/data/imagenet_",
    "d625818dacf79cc40ced71ff12f1d4955c3d2655ae4b047b3c93b1819cb8f3fe",
)
NEWS = (
    "gensim",
    "4.4.0",
    "gensim/test/test_data/lee_background.cor",
    "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
)
DOCUMENTS = 16
MAX_TOKENS = 128
# Of news for language models: how many, and tokens in each.
WINDOWS = 4
WINDOW = 256


class FetchError(Exception):
    """Something that keeps a model from being fetched; the message says which and why."""


@dataclass(frozen=True)
class File:
    """A file inside a wheel.

    Attributes:
        path: path in the wheel, or in the archive.
        sha256: its hash.
        archive: path of a tar archive in the wheel that holds it; empty: the wheel holds it.
    """

    path: str
    sha256: str
    archive: str = ""

    def read(self, wheel: zipfile.ZipFile) -> bytes:
        """Contents of the file."""
        if not self.archive:
            return wheel.read(self.path)
        with tarfile.open(fileobj=BytesIO(wheel.read(self.archive))) as archive:
            member = archive.extractfile(self.path)
            return member.read() if member else b""

    @property
    def name(self) -> str:
        """Name of the unpacked file."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Model:
    """An entry of the catalogue."""

    id: str
    package: str
    version: str
    files: tuple[File, ...]
    model: str
    kind: str
    licence: str
    build: str = ""
    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    ranges: Mapping[str, Sequence[float]] = field(default_factory=dict)
    feeds: Mapping[str, Any] = field(default_factory=dict)


def read_catalogue(path: Path = CATALOGUE) -> dict[str, Model]:
    """The models by id."""
    models = {}
    for model_id, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        try:
            files = tuple(File(**file) for file in entry.pop("files"))
            models[model_id] = Model(id=model_id, files=files, **entry)
        except (TypeError, KeyError) as error:
            raise FetchError(f"{path}: [{model_id}]: {error}") from error
    return models


class Wheels:
    """Downloaded wheels, each fetched once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[tuple[str, str], Path] = {}

    def open(self, package: str, version: str) -> zipfile.ZipFile:
        """The wheel of a package, opened."""
        key = (package, version)
        if key not in self._paths:
            self._paths[key] = self._download(package, version)
        return zipfile.ZipFile(self._paths[key])

    def _download(self, package: str, version: str) -> Path:
        # A folder for each, because a wheel's name is not the package's; only wheels, because pip would run
        # the build script of anything else.
        folder = self._folder / f"{package}-{version}"
        folder.mkdir(parents=True, exist_ok=True)
        wheels = sorted(folder.glob("*.whl"))
        if not wheels:
            print(f"downloading {package}=={version}", flush=True)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += ["--disable-pip-version-check", "--dest", str(folder), f"{package}=={version}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            wheels = sorted(folder.glob("*.whl"))
            if done.returncode or not wheels:
                raise FetchError(f"pip could not download {package}=={version}:\n{done.stderr.strip()}")
        return wheels[0]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex; empty when there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def unpack(model: Model, folder: Path, wheels: Wheels) -> bool:
    """Put the model's files into ``folder``; answers whether any was missing or wrong there."""
    missing = [file for file in model.files if sha256_of(folder / file.name) != file.sha256]
    if not missing:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with wheels.open(model.package, model.version) as wheel:
        for file in missing:
            try:
                data = file.read(wheel)
            except KeyError:
                raise FetchError(f"{model.package}=={model.version} has no {file.path}") from None
            digest = hashlib.sha256(data).hexdigest()
            if digest != file.sha256:
                raise FetchError(f"{file.path} has SHA-256 {digest}, expected {file.sha256}")
            publish(folder / file.name, data)
    return True


def build(model: Model, folder: Path) -> None:
    """Build the ONNX graph from the unpacked weights."""
    # Imported here, because only these models need the onnx package.
    from build_imagenet_models import BUILDERS, read_checkpoint

    weights = folder / model.files[0].name
    if model.build == "llama":
        from build_language_model import build as build_llama

        build_llama(weights, folder / model.model)
        return
    if model.build not in BUILDERS:
        raise FetchError(f"no builder is called {model.build!r} (there are: llama, {', '.join(sorted(BUILDERS))})")
    graph = BUILDERS[model.build](read_checkpoint(weights))
    publish(folder / model.model, graph.SerializeToString())


def save_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a compressed npz file."""
    buffer = BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]  # names of inputs, not of parameters
    publish(path, buffer.getvalue())


def write_photos(model: Model, folder: Path, wheels: Wheels) -> None:
    """Feeds of an image classifier: photographs, scaled and cropped as it expects them, and labels."""
    try:
        from PIL import Image  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise FetchError("its feeds are photographs, which need Pillow: pip install pillow") from None
    package, version, prefix, digest = PHOTOS
    with wheels.open(package, version) as wheel:
        names = sorted(name for name in wheel.namelist() if name.startswith(prefix))
        photos = [wheel.read(name) for name in names]
    if hashlib.sha256(b"".join(photos)).hexdigest() != digest:
        raise FetchError(f"the photographs of {package}=={version} have changed")

    resample = Image.Resampling[model.feeds["resample"].upper()]
    mean, std = (np.array(model.feeds[key], np.float32) for key in ("mean", "std"))
    images = []
    for photo in photos:
        image = Image.open(BytesIO(photo)).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), resample)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
        images.append(((pixels - mean) / std).transpose(2, 0, 1))
    save_npz(folder / "feeds.npz", {"input": np.stack(images)})
    labels = BytesIO()
    np.save(labels, np.array([int(PurePosixPath(name).stem.rpartition("_")[2]) for name in names]))
    publish(folder / "labels.npy", labels.getvalue())


class WordPiece:
    """BERT's uncased tokenizer: words and punctuation, cut into the longest pieces that the vocabulary has.

    Chinese characters are not split from each other, as BERT does: the texts here are English.
    """

    def __init__(self, tokenizer: Path) -> None:
        self._vocabulary: dict[str, int] = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]

    def encode(self, text: str, limit: int) -> list[int]:
        """Ids of a text, between [CLS] and [SEP], at most ``limit`` in all."""
        ids = [i for word in self._words(text) for i in self._pieces(word)]
        return [self._vocabulary["[CLS]"], *ids[: limit - 2], self._vocabulary["[SEP]"]]

    def _words(self, text: str) -> Iterator[str]:
        letters = (c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
        return iter("".join(f" {c} " if self._is_punctuation(c) else c for c in letters).split())

    @staticmethod
    def _is_punctuation(char: str) -> bool:
        # Of ASCII, BERT counts every symbol as punctuation, also those that Unicode does not ($, +, ^ ...).
        return unicodedata.category(char).startswith("P") or ("!" <= char <= "~" and not char.isalnum())

    def _pieces(self, word: str) -> list[int]:
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = (e for e in range(len(word), start, -1) if prefix + word[start:e] in self._vocabulary)
            end = next(ends, None)
            if end is None:
                return [self._vocabulary["[UNK]"]]
            pieces.append(self._vocabulary[prefix + word[start:end]])
            start = end
        return pieces


def read_file(wheels: Wheels, source: tuple[str, str, str, str]) -> bytes:
    """A file out of a wheel: package, version, path, and the SHA-256 that it must have."""
    package, version, path, sha256 = source
    with wheels.open(package, version) as wheel:
        data = wheel.read(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FetchError(f"{path} of {package}=={version} has changed")
    return data


def write_sentences(model: Model, folder: Path, wheels: Wheels) -> None:
    """Feeds of a sentence encoder: tokenized news, padded to one length."""
    lines = read_file(wheels, NEWS).decode("ascii").splitlines()
    documents = lines[:: len(lines) // DOCUMENTS][:DOCUMENTS]
    tokenizer = WordPiece(folder / str(model.feeds["tokenizer"]))
    tokens = [tokenizer.encode(document, MAX_TOKENS) for document in documents]

    ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
    mask = np.zeros_like(ids)
    for row, document in enumerate(tokens):
        ids[row, : len(document)] = document
        mask[row, : len(document)] = 1
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    save_npz(folder / "feeds.npz", arrays)


def write_windows(model: Model, folder: Path, wheels: Wheels) -> None:
    """Feeds of a language model: windows of the tokens of news."""
    from build_language_model import Gguf

    tokenizer = Gguf(folder / model.files[0].name).tokenizer()
    tokens = tokenizer.encode(read_file(wheels, NEWS).decode("ascii")).ids
    windows = np.array(tokens[: WINDOWS * WINDOW], np.int64).reshape(WINDOWS, WINDOW)
    save_npz(folder / "feeds.npz", {"input_ids": windows})


FEEDS = {"imagenet": write_photos, "sentences": write_sentences, "windows": write_windows}


def fetch(model: Model, out: Path, wheels: Wheels) -> str:
    """Bring one model's folder up to date; answers what was done."""
    folder = out / model.id
    done = ["unpacked"] if unpack(model, folder, wheels) else []
    if model.build and (done or not (folder / model.model).is_file()):
        build(model, folder)
        done.append("built")
    if model.feeds and (done or not (folder / "feeds.npz").is_file()):
        source = model.feeds["source"]
        if source not in FEEDS:
            raise FetchError(f"no feeds are called {source!r} (there are: {', '.join(sorted(FEEDS))})")
        FEEDS[source](model, folder, wheels)
        done.append("feeds written")
    return ", ".join(done) or "already there"


def list_models(models: Mapping[str, Model]) -> None:
    """Print the catalogue."""
    width = max(map(len, models))
    for model in models.values():
        print(f"{model.id:{width}}  {model.package}=={model.version}, {model.licence}: {model.kind}")


def fetch_all(models: Sequence[Model], out: Path, wheels: Wheels) -> int:
    """Fetch each model; one that fails does not keep the others from it. Answers how many failed."""
    failed = 0
    for model in models:
        try:
            print(f"{model.id}: {fetch(model, out, wheels)}", flush=True)
        except (FetchError, ImportError, OSError, ValueError, zipfile.BadZipFile) as error:
            failed += 1
            print(f"{model.id}: error: {error}", file=sys.stderr, flush=True)
    return failed


def main() -> int:
    """Command line; answers the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("ids", nargs="*", metavar="ID", help="models to fetch (default: all)")
    parser.add_argument("--list", action="store_true", help="print the catalogue and stop")
    parser.add_argument("--out", type=Path, default=FETCHED, help="default: models/fetched")
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help="default: models/catalogue.toml")
    parser.add_argument("--wheels", type=Path, help="folder in which to keep downloaded wheels")
    arguments = parser.parse_args()
    models = read_catalogue(arguments.catalogue)
    if arguments.list:
        list_models(models)
        return 0
    unknown = sorted(set(arguments.ids) - set(models))
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)} (there are: {', '.join(models)})")
    chosen = [models[i] for i in arguments.ids or models]
    with tempfile.TemporaryDirectory() as scratch:
        return 1 if fetch_all(chosen, arguments.out, Wheels(arguments.wheels or Path(scratch))) else 0


if __name__ == "__main__":
    sys.exit(main())
