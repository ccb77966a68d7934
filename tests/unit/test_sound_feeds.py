"""Feeds from sounds, against sines whose samples are known and a spectrogram of another implementation."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import stft

from onnxquant.calibration.feeds import Assumption, Input, ModelFacts, open_feeds
from onnxquant.calibration.feeds.mel import filters, log_mel
from onnxquant.calibration.feeds.prepared import preparation
from onnxquant.errors import FeedError

WAVE = Input("input", "tensor(float)", ("batch", "samples"))


def sine(path: Path, seconds: float = 0.5, rate: int = 16000, hertz: float = 440.0, channels: int = 1) -> NDArray[Any]:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    both = np.stack([wave, np.zeros_like(wave)], 1) if channels == 2 else wave
    wavfile.write(path, rate, np.rint(both * 32767).astype(np.int16))
    return wave


def fed(data: Path, spec: Input, preprocess: Any = None, **more: Any) -> NDArray[Any]:
    return next(iter(open_feeds(data, [spec], preprocess=preprocess, **more)))[spec.name]


def test_waveforms_are_mono_from_minus_one_to_one(tmp_path: Path) -> None:
    wave = sine(tmp_path / "a.wav")
    got = fed(tmp_path / "a.wav", WAVE)
    assert got.shape == (1, 8000) and got.dtype == np.float32 and np.abs(got[0] - wave).max() < 1e-4
    sine(tmp_path / "b.wav", channels=2)
    assert np.abs(fed(tmp_path / "b.wav", WAVE)[0] - wave / 2).max() < 1e-4
    origin = open_feeds(tmp_path / "a.wav", [WAVE]).origin
    assert origin.assumption == Assumption("sounds of 16000 Hz", "--preprocess rate=16000")
    named = open_feeds(tmp_path / "a.wav", [WAVE], preprocess="rate=16000").origin
    assert named.assumption is None and preparation(named) == "wave of mono at 16000 Hz"
    said = preparation(origin)
    assert said == "wave of mono at 16000 Hz; ASSUMED rate of 16000: give --preprocess rate=N where it is another"


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_waveforms_are_resampled(rate: int, tmp_path: Path) -> None:
    sine(tmp_path / "a.wav", rate=rate)
    got = fed(tmp_path / "a.wav", WAVE, "rate=16000")[0]
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(got)) / 16000)
    assert abs(len(got) - 8000) <= 1 and np.abs(got - wave)[400:-400].max() < 0.01


@pytest.mark.parametrize(
    ("shape", "rates", "rate", "confirmed"),
    [
        (("batch", 1, 4000), (8000, 8000), 8000, True),  # as long as the input: nothing to guess
        (("batch", "samples"), (8000, 8000), 8000, False),
        (("batch", 3000), (8000, 8000), 8000, False),
        (("batch", 8000), (8000, 8000), 16000, False),  # as long as the input at the usual rate
        (("batch", "samples"), (8000, 11025), 16000, False),  # files that do not agree
    ],
)
def test_the_rate_is_that_of_the_files_unless_something_says_otherwise(
    shape: tuple[int | str, ...], rates: tuple[int, int], rate: int, *, confirmed: bool, tmp_path: Path
) -> None:
    for i, own in enumerate(rates):
        wave = sine(tmp_path / f"word{i}" / f"{i}.wav", rate=own)
    spec = Input("audio", "tensor(float)", shape)
    origin = open_feeds(tmp_path, [spec]).origin
    assert (origin.preprocess or {})["rate"] == rate and (origin.assumption is None) == confirmed
    if origin.assumption is not None:
        assert origin.assumption.option == f"--preprocess rate={rate}" and f"rate of {rate}" in str(origin.reason)
    else:
        assert str(origin.reason).startswith("the files' own rate of 8000: their 4000 samples")
        assert np.abs(fed(tmp_path, spec)[0, 0] - wave).max() < 1e-4
    told = open_feeds(tmp_path, [spec], preprocess="rate=22050").origin
    assert (told.preprocess or {})["rate"] == 22050 and told.assumption is None
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "preprocessor_config.json").write_text('{"sampling_rate": 44100}')
    configured = ModelFacts(folder=tmp_path / "config")
    assert (open_feeds(tmp_path, [spec], facts=configured).origin.preprocess or {})["rate"] == 44100


def test_fixed_lengths_take_the_middle_or_are_filled(tmp_path: Path) -> None:
    wave = sine(tmp_path / "a.wav")
    middle = fed(tmp_path / "a.wav", Input("x", "tensor(float)", (1, 512)))[0]
    assert np.abs(middle - wave[3744 : 3744 + 512]).max() < 1e-4
    longer = fed(tmp_path / "a.wav", Input("x", "tensor(float)", (1, 1, 9000)))[0, 0]
    assert np.abs(longer[:8000] - wave).max() < 1e-4 and not longer[8000:].any()
    normal = fed(tmp_path / "a.wav", WAVE, "wav2vec2")
    assert abs(normal.mean()) < 1e-5 and abs(normal.var() - 1) < 1e-4


def test_inputs_beside_a_sound_are_made(tmp_path: Path) -> None:
    sine(tmp_path / "a.wav")
    inputs = [WAVE, Input("state", "tensor(float)", (2, "batch", 128)), Input("sr", "tensor(int64)", ())]
    feeds = open_feeds(tmp_path / "a.wav", inputs)
    (feed,) = feeds
    assert feed["sr"] == 16000 and feed["state"].shape == (2, 1, 128) and not feed["state"].any()
    assert "state, sr: rate, length, mask or zeros" in (feeds.origin.assumed or ())


def spectrogram(wave: NDArray[Any], bands: int) -> NDArray[Any]:
    """Whisper's, on scipy's Fourier transform and a loop over triangles."""
    _, _, transform = stft(wave, 16000, "hann", 400, 240, padded=False, boundary="even")
    power = np.abs(transform * 200)[:, :-1] ** 2  # scipy divides by the sum of the window

    def hertz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    edges = [hertz(m) for m in np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), bands + 2)]
    rows = np.zeros((bands, power.shape[1]))
    for band in range(bands):
        low, centre, high = edges[band : band + 3]
        for k in range(201):
            f = 40.0 * k
            part = min((f - low) / (centre - low), (high - f) / (high - centre))
            rows[band] += max(0.0, part) * 2 / (high - low) * power[k]
    levels = np.log10(np.maximum(rows, 1e-10))
    return (np.maximum(levels, levels.max() - 8) + 4) / 4


def test_log_mel_is_whispers(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 16000)
    for bands in (80, 128):
        got = log_mel(wave, 16000, bands)
        assert got.shape == (bands, 100)
        assert np.abs(got - spectrogram(wave, bands))[:, 2:-2].max() < 1e-9  # scipy repeats the edge, Whisper does not
    librosa = [[0, 0.02486259, 0], [0, 0.00199082, 0.02287177]]  # the first of those that Whisper ships
    assert np.allclose(filters(16000, 80)[:2, :3], librosa, atol=1e-7)


def test_log_mel_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    wave = np.random.default_rng(0).normal(0, 0.1, 480000).astype(np.float32)
    oracle = transformers.WhisperFeatureExtractor()(wave, sampling_rate=16000, return_tensors="np")["input_features"][0]
    assert np.abs(log_mel(wave.astype(np.float64), 16000, 80) - oracle).max() < 1e-3


def test_inputs_of_bands_take_spectrograms(tmp_path: Path) -> None:
    sine(tmp_path / "a.wav")
    spec = Input("input_features", "tensor(float)", ("batch", 80, 3000))
    feeds = open_feeds(tmp_path / "a.wav", [spec])
    (feed,) = feeds
    assert feed["input_features"].shape == (1, 80, 3000)
    assert "guessed (--preprocess whisper): 80 bands are Whisper's" in (preparation(feeds.origin) or "")
    assert feeds.origin.assumption == Assumption("Whisper's spectrograms", "--preprocess whisper", is_guess=True)
    assert open_feeds(tmp_path / "a.wav", [spec], preprocess="whisper").origin.assumption is None
    named = fed(tmp_path / "a.wav", spec, "whisper", facts=ModelFacts())
    assert np.array_equal(named, feed["input_features"])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x", (1, "frames", 80)), ("x", (1, "frames", 400)), ("x", (1, 40, "frames")), ("x", (1, 100, 400)),
        ("x", ("batch", 40)), ("x", ("frames", 257)), ("log_mels", (1, "frames", "bands")), ("x", (1, 1, "frames", 64)),
    ],
)  # fmt: skip
def test_a_wave_is_no_frame_of_features(name: str, shape: tuple[Any, ...], tmp_path: Path) -> None:
    sine(tmp_path / "a.wav")
    spec = Input(name, "tensor(float)", shape)
    with pytest.raises(FeedError, match=r"a\.wav: input .* takes features of sounds, no waveform: give .*\.npy"):
        fed(tmp_path / "a.wav", spec)
    config = {"preprocessor_config.json": '{"sampling_rate": 16000, "feature_extractor_type": "ASTFeatureExtractor"}'}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / next(iter(config))).write_text(config["preprocessor_config.json"])
    with pytest.raises(FeedError, match="no waveform"):  # a configuration of the rate alone
        fed(tmp_path / "a.wav", spec, facts=ModelFacts(folder=tmp_path / "model"))


@pytest.mark.parametrize(
    ("shape", "fed_shape"),
    [
        (("n",), (8000,)), ((1, 512), (1, 512)), (("batch", 1, "n"), (1, 1, 8000)), ((1, "n", 1), (1, 8000, 1)),
        (("batch", 4800, 1), (1, 4800, 1)), (("b", "c", "n"), (1, 1, 8000)),
    ],
)  # fmt: skip
def test_waves_stand_along_the_axis_of_samples(
    shape: tuple[Any, ...], fed_shape: tuple[int, ...], tmp_path: Path
) -> None:
    wave = sine(tmp_path / "a.wav")
    got = fed(tmp_path / "a.wav", Input("x", "tensor(float)", shape))
    start = (8000 - got.size) // 2
    assert got.shape == fed_shape and np.abs(got.reshape(-1) - wave[start : start + got.size]).max() < 1e-4


@pytest.mark.parametrize(
    ("shape", "fed_shape"),
    [
        ((1, "n", 40), (1, 50, 40)), ((1, 1, "n", 64), (1, 1, 50, 64)), ((1, 1024, 128), (1, 1024, 128)),
        ((1, 64, 96), (1, 64, 96)),
    ],
)  # fmt: skip
def test_named_spectrograms_stand_as_the_input_has_its_bands(
    shape: tuple[Any, ...], fed_shape: tuple[int, ...], tmp_path: Path
) -> None:
    wave = sine(tmp_path / "a.wav")
    inputs = [Input("x", "tensor(float)", shape), Input("x_lengths", "tensor(int64)", (1,))]
    (feed,) = open_feeds(tmp_path / "a.wav", inputs, preprocess="features=log-mel")
    assert feed["x"].shape == fed_shape
    has_bands_last = fed_shape[-1] in (40, 64, 128)
    frames, bands = fed_shape[-2:] if has_bands_last else fed_shape[:-3:-1]
    assert feed["x_lengths"] == [frames]
    got = feed["x"].reshape(fed_shape[-2:])
    filled = np.pad(wave, (0, max(0, 160 * frames - 8000)))
    start = (len(filled) - 160 * frames) // 2
    if frames <= 50:
        mel = log_mel(filled[start:][: 160 * frames], 16000, bands)
        assert np.abs((got.T if has_bands_last else got) - mel).max() < 1e-2


def test_a_named_wave_is_fed_as_it_is_named(tmp_path: Path) -> None:
    sine(tmp_path / "a.wav")
    assert fed(tmp_path / "a.wav", Input("x", "tensor(float)", (1, "n", 400)), "features=wave").shape == (1, 1, 400)


def test_folders_of_sounds_have_labels_and_bad_ones_are_refused(tmp_path: Path) -> None:
    for name in ("yes", "no"):
        sine(tmp_path / "words" / name / "0.wav")
    feeds = open_feeds(tmp_path / "words", [WAVE])
    assert [label for _, label in feeds.labelled()] == [["no"], ["yes"]] and feeds.classes == ["no", "yes"]
    (tmp_path / "words" / "no" / "0.wav").write_bytes(b"RIFF")
    with pytest.raises(FeedError, match=r"0\.wav: cannot be read as a sound"):
        open_feeds(tmp_path / "words", [WAVE])
    with pytest.raises(FeedError, match="no input is a sound"):
        open_feeds(tmp_path / "words", [Input("ids", "tensor(int64)", ("n",))])


def test_other_sounds_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "soundfile" else find(name))
    with pytest.raises(FeedError, match=r"needs soundfile: pip install 'onnxquant\[sound\]'"):
        open_feeds(tmp_path / "a.flac", [WAVE])
