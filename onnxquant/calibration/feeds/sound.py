"""Samples from sound files: waveforms at one rate, or the log-mel spectrograms of Whisper."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds import presets
from onnxquant.calibration.feeds.base import DTYPES, Assumption, Input, Raw, SampleOrigin, expected
from onnxquant.calibration.feeds.facts import ModelFacts
from onnxquant.calibration.feeds.labelled_files import LabelledFiles
from onnxquant.calibration.feeds.mel import log_mel
from onnxquant.calibration.feeds.settings import described, entries_without, one_of, option_of
from onnxquant.errors import FeedError, nearest

_WAV = (".wav",)
ENDINGS = (*_WAV, ".flac", ".ogg", ".mp3")
WAVE, LOG_MEL = "wave", "log-mel"
_RECORDED = "as the file records"
_RATES = ("sr", "sample_rate", "sampling_rate")
# Numbers of bands of Whisper, the samples between two frames, and its number of frames.
_BANDS, _HOP, _FRAMES = (80, 128), 160, 3000
_EPSILON = 1e-7
# Words in the names of inputs that are sounds, and of those that are no waveforms.
_NAMES = ("audio", "wav", "speech", "signal", "input", "feature", "mel")
_FEATURES = ("mel", "fbank", "mfcc", "spec", "feat")
# Samples of the shortest waveform (10 ms), and of the longest that may be the bins of a spectrum: those are odd in number.
_SHORTEST, _LONGEST_SPECTRUM = 160, 2049
# Axes of an input that is a sound, at most: two of a spectrogram, a channel and a batch.
_MOST_AXES = 4
# Files whose headings tell the rate, and rates that are named where they differ.
_HEADINGS, _NAMED = 50, 3


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
class _Guess:
    """Steps that a model seems to expect.

    Attributes:
        steps: the steps.
        reason: facts that they follow from.
        assumption: part of them that the user has to confirm.
        is_rate_open: whether nothing says which rate the model takes.
    """

    steps: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    assumption: Assumption | None = None
    is_rate_open: bool = False


@dataclass(frozen=True)
class SoundInputs:
    """Makes the inputs of a model of sounds.

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
        values, length = wave, len(wave)
        if steps.features == LOG_MEL:
            axis = _band_axis(spec)
            values = log_mel(wave, steps.rate, _fixed(spec, axis) or _BANDS[0])
            values, length = (values.T if axis == -1 else values), values.shape[-1]
        elif _is_last_a_channel(spec):
            values = wave[:, None]
        dtype = DTYPES[spec.element]
        tensors = {spec.name: values.astype(dtype).reshape((1,) * (len(spec.shape) - values.ndim) + values.shape)}
        return {**tensors, **{i.name: _beside(i, length, steps.rate) for i in self.inputs if i.name != spec.name}}


def _fixed(spec: Input, axis: int) -> int | None:
    """The length of an axis, counted from the end; None where it is open, or there is none."""
    length = spec.shape[axis] if len(spec.shape) >= -axis else None
    return length if isinstance(length, int) and length > 0 else None


def _is_last_a_channel(spec: Input) -> bool:
    """Whether the samples of a waveform stand before an axis of one channel."""
    return len(spec.shape) == 3 and _fixed(spec, -1) == 1 and _fixed(spec, -2) != 1


def _band_axis(spec: Input) -> int:
    """The axis of the bands of a spectrogram, counted from the end."""
    before, last = _fixed(spec, -2), _fixed(spec, -1)
    if last is None or before in _BANDS:
        return -2
    return -1 if before is None or last in _BANDS or last < before else -2


def _takes_waves(spec: Input) -> bool:
    """Whether an input may be a waveform, by its name and its shape: one long or open axis, beside a batch and a channel."""
    if not 1 <= len(spec.shape) <= 3 or any(word in spec.name.lower() for word in _FEATURES):
        return False
    axis = -2 if _is_last_a_channel(spec) else -1
    length = _fixed(spec, axis)
    if length is not None and (length < _SHORTEST or (length % 2 and length <= _LONGEST_SPECTRUM)):
        return False
    if len(spec.shape) < 3 or axis == -2 or _fixed(spec, -2) == 1:
        return True
    return length is None and _fixed(spec, -2) is None


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
        FeedError: no input is a sound, the only one is features that nobody named, or a package is missing that reads the
            files.
    """
    if any(file.suffix.lower() not in _WAV for file in files) and importlib.util.find_spec("soundfile") is None:
        raise FeedError(f"{path}: reading sounds other than .wav needs soundfile: pip install 'onnxquant[sound]'")
    spec = _sound_input(path, inputs, values)
    guessed = _guess(spec, inputs, values, facts)
    if guessed.is_rate_open:
        guessed = _rate_of_files(files, spec, values)
    preset = presets.preset_named(values["preset"], presets.SOUND).steps if "preset" in values else {}
    steps = described(SoundSteps, {**guessed.steps, **preset, **entries_without(values, "preset")}, presets.SOUND)
    features = steps.features or WAVE
    is_named = guessed.reason == _RECORDED or bool({"features", "preset"} & values.keys())
    if features == WAVE and not is_named and not _takes_waves(spec):
        raise FeedError(_no_wave(path, spec))
    length = steps.length or _length(spec, features)
    steps = described(SoundSteps, {**asdict(steps), "features": features, "length": length}, presets.SOUND)
    others = [i.name for i in inputs if i.name != spec.name]
    assumed = [f"{', '.join(others)}: rate, length, mask or zeros"] if others else []
    assumed += [f"the middle {length} samples of longer sounds, zeros behind shorter ones"] if length else []
    preprocess = {k: v for k, v in asdict(steps).items() if v is not None}
    origin = SampleOrigin(
        kind=presets.SOUND, preprocess=preprocess, assumed=tuple(assumed) or None, reason=guessed.reason,
        assumption=guessed.assumption,
    )  # fmt: skip
    make = SoundInputs(inputs, spec, steps)
    return LabelledFiles(path, files, origin, lambda file: make(read(file, steps.rate)))


def _length(spec: Input, features: str) -> int | None:
    """Samples that an input takes; None: as many as a sound has."""
    if features == WAVE:
        return _fixed(spec, -2 if _is_last_a_channel(spec) else -1)
    axis = _band_axis(spec)
    frames = _fixed(spec, -1 if axis == -2 else -2)
    if frames is None and axis == -2:
        frames = _FRAMES
    return None if frames is None else frames * _HOP


def _no_wave(path: Path, spec: Input) -> str:
    """The error of sounds for an input that is no waveform, with what to do."""
    frames = ", ".join("frames" if n is None or isinstance(n, str) else str(n) for n in spec.shape[-2:])
    named = "whisper" if set(spec.shape[-2:]) & set(_BANDS) else f"features={LOG_MEL}"
    return (
        f"{path}: input {spec} takes features of sounds, no waveform: give them as a folder of .npy files, a sound in each "
        f"([{frames}]); or --preprocess {named}, if the model takes Whisper's log-mel spectrograms; --preprocess "
        f"features=wave feeds the waveform all the same"
    )


def _sound_input(path: Path, inputs: Sequence[Input], values: Mapping[str, Any]) -> Input:
    name, names = values.get("input"), [i.name for i in inputs]
    if name is not None and name not in names:
        raise FeedError(f"preprocess: the model has no input {name!r}{nearest(str(name), names)}")
    fitting = [
        i for i in inputs if 1 <= len(i.shape) <= _MOST_AXES and np.dtype(DTYPES.get(i.element, np.str_)).kind == "f"
    ]
    chosen = [i for i in fitting if (i.name == name if name is not None else not _is_state(i))]
    chosen = [i for i in chosen if any(word in i.name.lower() for word in _NAMES)] if len(chosen) > 1 else chosen
    if len(chosen) != 1:
        none = f"no input is a sound (1 to {_MOST_AXES} axes of floats)"
        which = "several inputs may be sounds: give input=NAME" if chosen else none
        raise FeedError(f"{path}: {which}; {expected(inputs)}")
    return chosen[0]


def _is_state(spec: Input) -> bool:
    """Whether an input is a state of a recurrent model by its name."""
    name = spec.name.lower()
    return name in ("h", "c", "h0", "c0", "hn", "cn", "context") or "state" in name or "cache" in name


def _guess(spec: Input, inputs: Sequence[Input], values: Mapping[str, Any], facts: ModelFacts) -> _Guess:
    """The steps that the record, a configuration or the shape tell, where the description leaves them open."""
    record = facts.recorded
    if "preset" in values:
        return _Guess()
    if record is not None and record.kind == presets.SOUND and record.preprocess:
        return _Guess(record.preprocess, _RECORDED, record.assumption)
    table = facts.table("preprocessor_config.json")
    if table and isinstance(table[0].get("sampling_rate"), int):
        is_mel = "Whisper" in str(table[0].get("feature_extractor_type", ""))
        steps = {"rate": table[0]["sampling_rate"], "features": LOG_MEL if is_mel else WAVE}
        steps["normalize"] = bool(table[0].get("do_normalize")) and not is_mel
        return _Guess(steps, f"{table[1]} says so")
    if len(spec.shape) == 3 and spec.shape[-2] in _BANDS and "features" not in values:
        assumption = Assumption("Whisper's spectrograms", option_of({"preset": "whisper", **values}), is_guess=True)
        reason = f"guessed (--preprocess whisper): {spec.shape[-2]} bands are Whisper's"
        return _Guess({"features": LOG_MEL}, reason, assumption)
    if "rate" in values or any(i.name.lower() in _RATES for i in inputs):
        return _Guess()
    return _Guess(is_rate_open=True)


@dataclass(frozen=True)
class _Heading:
    """The heading of a file of sound: samples per second, and samples of each channel."""

    rate: int
    length: int


def _rate_of_files(files: Sequence[Path], spec: Input, values: Mapping[str, Any]) -> _Guess:
    """The rate that files have in common, unless their lengths show that the model takes the usual one.

    Args:
        files: the files.
        spec: the input that is a sound.
        values: values of the description.
    """
    usual = SoundSteps.rate
    headings = [heading for file in files[:_HEADINGS] if (heading := _heading(file)) is not None]
    rates = sorted({heading.rate for heading in headings})
    features = values.get("features", WAVE)
    length = values.get("length") or _length(spec, features)
    if len(rates) == 1 and features == WAVE:
        own, lengths = rates[0], {heading.length for heading in headings}
        if lengths == {length}:  # whatever the rate is called, the model gets the sounds as they are
            return _Guess(
                {"rate": own}, f"the files' own rate of {own}: their {length} samples are what the input takes"
            )
        if own != usual and {n * usual // own for n in lengths} != {length}:
            assumption = Assumption(f"sounds of {own} Hz", option_of({**values, "rate": own}), is_guess=True)
            reason = f"the files' own rate of {own}, guessed: give --preprocess rate=N where the model takes another"
            return _Guess({"rate": own}, reason, assumption)
    several = f", as the files have {' and '.join(map(str, rates[:_NAMED]))}" if len(rates) > 1 else ""
    assumption = Assumption(f"sounds of {usual} Hz", option_of({**values, "rate": usual}))
    return _Guess({}, f"ASSUMED rate of {usual}{several}: give --preprocess rate=N where it is another", assumption)


def _heading(file: Path) -> _Heading | None:
    """The heading of a file; None where it cannot be read, which is an error when its sound is."""
    try:
        if importlib.util.find_spec("soundfile"):
            info = importlib.import_module("soundfile").info(str(file))
            return _Heading(int(info.samplerate), int(info.frames))
        wave, rate = _with_scipy(file)
    except Exception:  # any kind of damage
        return None
    return _Heading(rate, len(wave))


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
