"""Samples from sound files: waveforms at one rate, or the log-mel spectrograms of Whisper."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds import presets
from onnxquant.calibration.feeds.base import DTYPES, Input, Raw, SampleOrigin, expected
from onnxquant.calibration.feeds.facts import ModelFacts
from onnxquant.calibration.feeds.labelled_files import LabelledFiles
from onnxquant.calibration.feeds.mel import log_mel
from onnxquant.calibration.feeds.settings import described, entries_without, one_of
from onnxquant.errors import FeedError, nearest

_WAV = (".wav",)
ENDINGS = (*_WAV, ".flac", ".ogg", ".mp3")
WAVE, LOG_MEL = "wave", "log-mel"
_RATES = ("sr", "sample_rate", "sampling_rate")
# Numbers of bands of Whisper, and the samples between two frames.
_BANDS, _HOP = (80, 128), 160
_EPSILON = 1e-7
# Words in the names of inputs that are sounds.
_NAMES = ("audio", "wav", "speech", "signal", "input", "feature", "mel")


@dataclass(frozen=True)
class SoundSteps:
    """The steps from a sound to an input; those that are None follow from the input.

    Attributes:
        input: name of the input; needed where several may be sounds.
        rate: samples per second that sounds are brought to.
        features: ``wave`` or ``log-mel``.
        length: samples that each sound is cut or filled to; None: as many as the input takes, or all.
        normalize: bring each sound to a mean of 0 and a variance of 1.
    """

    input: str | None = None
    rate: int = 16000
    features: str | None = None
    length: int | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        """Check the values that are wrong for any model.

        Raises:
            FeedError: a value of the wrong type or out of range.
        """
        for key in ("rate", "length"):
            value = getattr(self, key)
            if value is not None and (type(value) is not int or value < 1):
                raise FeedError(f"preprocess: {key} is {value!r}, expected a number of samples")
        if self.features is not None:
            one_of("features", self.features, [WAVE, LOG_MEL])


@dataclass(frozen=True)
class SoundInputs:
    """Makes the inputs of a model of a waveform.

    Attributes:
        inputs: inputs of the model.
        spec: the input that is a sound.
        steps: complete steps.
    """

    inputs: Sequence[Input]
    spec: Input
    steps: SoundSteps

    def __call__(self, wave: NDArray[np.float64]) -> Raw:
        """The sound, and what belongs to it."""
        steps, spec = self.steps, self.spec
        if steps.length is not None:
            wave = fitted(wave, steps.length)
        if steps.normalize:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + _EPSILON)
        values = wave
        if steps.features == LOG_MEL:
            values = log_mel(wave, steps.rate, int(spec.shape[-2] or _BANDS[0]))
        dtype = DTYPES[spec.element]
        tensors = {spec.name: values.astype(dtype).reshape((1,) * (len(spec.shape) - values.ndim) + values.shape)}
        return {**tensors, **{i.name: _beside(i, len(wave), steps.rate) for i in self.inputs if i.name != spec.name}}


def _beside(spec: Input, length: int, rate: int) -> NDArray[Any]:
    """The value of an input beside a sound: its rate, its length, a mask, or an empty state."""
    shape = tuple(n if isinstance(n, int) and n > 0 else 1 for n in spec.shape)
    name, dtype = spec.name.lower(), DTYPES.get(spec.element, np.float32)
    if name in _RATES:
        return np.full(shape, rate, dtype)
    if name.endswith(("length", "lengths", "lens", "len")):
        return np.full(shape, length, dtype)
    if "mask" in name:
        return np.ones((*shape[:-1], length), dtype)
    return np.zeros(shape, dtype)


def sounds(
    path: Path, files: Sequence[Path], inputs: Sequence[Input], values: Mapping[str, Any], facts: ModelFacts
) -> LabelledFiles:
    """Sound files as samples; steps that the description leaves open follow from the model.

    Args:
        path: the file or the folder.
        files: the files.
        inputs: inputs of the model.
        values: values of the description.
        facts: facts about the model.

    Raises:
        FeedError: no input is a sound, or a package is missing that reads the files.
    """
    if any(file.suffix.lower() not in _WAV for file in files) and importlib.util.find_spec("soundfile") is None:
        raise FeedError(f"{path}: reading sounds other than .wav needs soundfile: pip install 'onnxquant[sound]'")
    spec = _sound_input(path, inputs, values)
    guessed, reason = _guessed(spec, facts) if "preset" not in values else ({}, None)
    preset = presets.preset_named(values["preset"], presets.SOUND).steps if "preset" in values else {}
    steps = described(SoundSteps, {**guessed, **preset, **entries_without(values, "preset")}, presets.SOUND)
    features = steps.features or WAVE
    last = spec.shape[-1] if spec.shape else None
    length = steps.length or (last if isinstance(last, int) and last > 0 else None)
    if features == LOG_MEL and not steps.length:
        length = (length or 3000) * _HOP
    steps = described(SoundSteps, {**asdict(steps), "features": features, "length": length}, presets.SOUND)
    others = [i.name for i in inputs if i.name != spec.name]
    assumed = [f"{', '.join(others)}: rate, length, mask or zeros"] if others else []
    assumed += [f"the middle {length} samples of longer sounds, zeros behind shorter ones"] if length else []
    preprocess = {k: v for k, v in asdict(steps).items() if v is not None}
    origin = SampleOrigin(kind=presets.SOUND, preprocess=preprocess, assumed=tuple(assumed) or None, reason=reason)
    make = SoundInputs(inputs, spec, steps)
    return LabelledFiles(path, files, origin, lambda file: make(read(file, steps.rate)))


def _sound_input(path: Path, inputs: Sequence[Input], values: Mapping[str, Any]) -> Input:
    name, names = values.get("input"), [i.name for i in inputs]
    if name is not None and name not in names:
        raise FeedError(f"preprocess: the model has no input {name!r}{nearest(str(name), names)}")
    fitting = [i for i in inputs if 1 <= len(i.shape) <= 3 and np.dtype(DTYPES.get(i.element, np.str_)).kind == "f"]
    chosen = [i for i in fitting if (i.name == name if name is not None else not _is_state(i))]
    chosen = [i for i in chosen if any(word in i.name.lower() for word in _NAMES)] if len(chosen) > 1 else chosen
    if len(chosen) != 1:
        which = "several inputs may be sounds: give input=NAME" if chosen else "no input is a sound (1 to 3 axes of floats)"
        raise FeedError(f"{path}: {which}; {expected(inputs)}")
    return chosen[0]


def _is_state(spec: Input) -> bool:
    """Whether an input is a state of a recurrent model by its name."""
    name = spec.name.lower()
    return name in ("h", "c", "h0", "c0", "hn", "cn", "context") or "state" in name or "cache" in name


def _guessed(spec: Input, facts: ModelFacts) -> tuple[dict[str, Any], str | None]:
    """Steps that the record, a configuration or the shape tell, and which of them did."""
    record = facts.recorded
    if record is not None and record.kind == presets.SOUND and record.preprocess:
        return dict(record.preprocess), "as the file records"
    table = facts.table("preprocessor_config.json")
    steps: dict[str, Any] = {}
    if table and isinstance(table[0].get("sampling_rate"), int):
        is_mel = "Whisper" in str(table[0].get("feature_extractor_type", ""))
        steps = {"rate": table[0]["sampling_rate"], "features": LOG_MEL if is_mel else WAVE}
        return {**steps, "normalize": bool(table[0].get("do_normalize")) and not is_mel}, f"{table[1]} says so"
    if len(spec.shape) == 3 and spec.shape[-2] in _BANDS:
        return {"features": LOG_MEL}, f"guessed (--preprocess whisper): {spec.shape[-2]} bands are Whisper's"
    return {}, "ASSUMED rate of 16000: give --preprocess rate=N where it is another"


def read(file: Path, rate: int) -> NDArray[np.float64]:
    """The waveform of a file, its channels averaged, from -1 to 1, at a rate.

    Raises:
        FeedError: the file is damaged or empty.
    """
    try:
        wave, own = _with_soundfile(file) if importlib.util.find_spec("soundfile") else _with_scipy(file)
    except Exception as error:  # any kind of damage
        raise FeedError(f"{file}: cannot be read as a sound: {error}") from None
    mono = wave.mean(1) if wave.ndim == 2 else wave
    if not mono.size:
        raise FeedError(f"{file}: holds no samples of sound")
    if own == rate:
        return mono
    from scipy.signal import resample_poly  # here, because loading it doubles the time a command needs to start

    divisor = math.gcd(rate, own)
    return np.asarray(resample_poly(mono, rate // divisor, own // divisor), np.float64)


def _with_soundfile(file: Path) -> tuple[NDArray[np.float64], int]:
    soundfile = importlib.import_module("soundfile")
    wave, rate = soundfile.read(str(file), dtype="float64")
    return wave, int(rate)


def _with_scipy(file: Path) -> tuple[NDArray[np.float64], int]:
    from scipy.io import wavfile  # here, because of the time a command needs to start

    rate, wave = wavfile.read(file)
    if wave.dtype.kind == "f":
        return wave.astype(np.float64), int(rate)
    if wave.dtype == np.uint8:
        return (wave.astype(np.float64) - 128) / 128, int(rate)
    return wave.astype(np.float64) / -float(np.iinfo(wave.dtype).min), int(rate)


def fitted(wave: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The middle of a longer waveform, or a shorter one with zeros behind it."""
    start = max(0, (len(wave) - length) // 2)
    part = wave[start : start + length]
    return np.pad(part, (0, length - len(part)))
