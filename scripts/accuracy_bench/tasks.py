"""Tasks of models, measured on an onnxruntime session. Calibration samples are of other texts and photographs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort
from fetch_models import NEWS, Model, WordPiece, read_file
from numpy.typing import NDArray
from peer_bench.data import CALIBRATION_SEED, TEST_SEED, Arrays, Line, Photos, Source, normalized, recognizable, render

import onnxquant
from onnxquant.numerics.difference import Difference

from .metrics import cosines, edit_distance, greedy_text, log_likelihoods, perplexity, spearman

Array = NDArray[Any]
Scores = dict[str, float]

# The documents that people compared with each other, and the means of what they said.
COMPARED = (
    *NEWS[:2],
    "gensim/test/test_data/lee.cor",
    "a878f9a58f6743c32985c56c2f2f75988386216b38a4023a01fd3bcf7884d93e",
)
SIMILARITIES = (
    *NEWS[:2],
    "gensim/test/test_data/similarities0-1.txt",
    "23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79",
)


@dataclass(frozen=True)
class Amount:
    """Numbers of samples of the whole benchmark, and of a quick one."""

    full: int
    quick: int


class Task(ABC):
    """One model and what it is for.

    Args:
        model: entry of the catalogue.
        source: source of texts and photographs.
        quick: fewer samples.

    Attributes:
        main: the score that decides.
        higher: whether more of it is better.
    """

    main: ClassVar[str]
    higher: ClassVar[bool] = True
    scored: ClassVar[Amount]
    calibrated: ClassVar[Amount]

    def __init__(self, model: Model, source: Source, *, quick: bool = False) -> None:
        self.model, self.source = model, source
        self._scored, self._calibrated = (a.quick if quick else a.full for a in (self.scored, self.calibrated))

    @property
    def path(self) -> Path:
        """The float model."""
        return self.source.fetched / self.model.id / self.model.model

    def float_session(self) -> ort.InferenceSession:
        """A session of the float model."""
        return onnxquant.load(self.path, log_severity_level=4)

    @property
    @abstractmethod
    def about(self) -> str:
        """The score and its samples in words, for people."""

    @abstractmethod
    def score(self, session: ort.InferenceSession) -> Scores:
        """Figures of a session of any form of the model."""

    @abstractmethod
    def calibration(self) -> Arrays:
        """Samples by input name, along the first axis; none of them is scored."""


class LanguageModel(Task):
    """Perplexity on news."""

    main, higher = "perplexity", False
    scored, calibrated = Amount(200, 16), Amount(64, 16)
    window: ClassVar[int] = 256

    @cached_property
    def _tokens(self) -> tuple[Array, Array]:
        """Windows [count, window] of the first documents, and of those after them."""
        from build_language_model import Gguf

        tokenizer = Gguf(self.source.fetched / self.model.id / self.model.files[0].name).tokenizer()
        text = read_file(self.source.wheels, NEWS).decode("ascii")
        whole = tokenizer.encode(text)
        # Of the whole benchmark, also in a quick one: what is calibrated with is the same then.
        last = whole.offsets[self.scored.full * self.window - 1][1]
        # Some documents are there twice.
        rest = [d for d in text[text.index("\n", last) + 1 :].splitlines() if d not in text[:last]]
        after = tokenizer.encode("\n".join(rest)).ids
        return self._windows(whole.ids, self._scored), self._windows(after, self._calibrated)

    def _windows(self, tokens: list[int], count: int) -> Array:
        assert len(tokens) >= count * self.window
        return np.array(tokens[: count * self.window], np.int64).reshape(count, self.window)

    @property
    def about(self) -> str:
        """Which tokens."""
        return f"perplexity on {self._scored * self.window} tokens of news in windows of {self.window}"

    def score(self, session: ort.InferenceSession) -> Scores:
        """Key: perplexity, over all windows; the first token of each is given."""
        likelihoods = []
        for window in self._tokens[0]:
            logits = session.run(["logits"], {"input_ids": window[None]})[0][0, :-1]
            likelihoods.append(log_likelihoods(logits, window[1:]))
        return {"perplexity": perplexity(np.concatenate(likelihoods))}

    def calibration(self) -> Arrays:
        """Windows of documents after those that are scored."""
        return {"input_ids": self._tokens[1][:, None]}


class SentenceEncoder(Task):
    """Similarity of the embeddings of documents, compared with what people say and with the float model."""

    main = "cosine"
    scored, calibrated = Amount(50, 50), Amount(64, 16)
    longest: ClassVar[int] = 256

    def _feed(self, text: str, limit: int) -> Arrays:
        ids = np.array([self._tokenizer.encode(text, limit)], np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    @cached_property
    def _tokenizer(self) -> WordPiece:
        return WordPiece(self.source.fetched / self.model.id / str(self.model.feeds["tokenizer"]))

    @cached_property
    def _documents(self) -> list[str]:
        return read_file(self.source.wheels, COMPARED).decode("latin-1").splitlines()

    @cached_property
    def _people(self) -> Array:
        """Similarities of documents with each other [50, 50]; the upper triangle says all."""
        lines = read_file(self.source.wheels, SIMILARITIES).decode("ascii").splitlines()
        return np.array([[float(v) for v in line.split()] for line in lines])

    def _embeddings(self, session: ort.InferenceSession) -> Array:
        """Means over tokens [documents, channels]; each document runs by itself, unpadded."""
        return np.stack([session.run(None, self._feed(text, self.longest))[0][0].mean(0) for text in self._documents])

    @cached_property
    def _float(self) -> Array:
        return self._embeddings(self.float_session())

    @property
    def about(self) -> str:
        """Which documents."""
        return (
            f"embeddings of {len(self._documents)} documents: mean cosine to the float model's, and Spearman's correlation "
            "of their cosines with people's judgements"
        )

    def score(self, session: ort.InferenceSession) -> Scores:
        """Keys: mean and least cosine to the float model's embeddings, and Spearman with people's judgements of pairs."""
        embeddings = self._embeddings(session)
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        pairs = np.triu_indices(len(unit), 1)
        to_float = cosines(self._float, embeddings)
        return {
            "cosine": float(to_float.mean()),
            "least cosine": float(to_float.min()),
            "Spearman": spearman((unit @ unit.T)[pairs], self._people[pairs]),
        }

    def calibration(self) -> Arrays:
        """Beginnings of other documents, all of one length."""
        length = 64
        feeds = [self._feed(text, length) for text in self.source.documents()]
        long = [feed for feed in feeds if feed["input_ids"].shape[1] == length][: self._calibrated]
        return {name: np.stack([feed[name] for feed in long]) for name in long[0]}


class Classifier(Task):
    """Classes of photographs."""

    main = "same class"
    scored, calibrated = Amount(512, 64), Amount(64, 16)

    def _crops(self, photos: Photos, count: int, seed: int) -> Array:
        """[count, 1, 3, 224, 224]."""
        random = np.random.default_rng(seed)
        return np.stack([normalized(self.model, photos.crop(random, 224, 224))[None] for _ in range(count)])

    @cached_property
    def _samples(self) -> Array:
        return self._crops(self.source.parts[0], self._scored, TEST_SEED)

    @cached_property
    def _labelled(self) -> tuple[Array, Array]:
        folder = self.path.parent
        with np.load(folder / "feeds.npz") as feeds:
            return feeds["input"][:, None], np.load(folder / "labels.npy")

    @cached_property
    def _float(self) -> Array:
        return self._logits(self.float_session(), self._samples)

    def _logits(self, session: ort.InferenceSession, samples: Array) -> Array:
        return np.concatenate([session.run(None, {"input": sample})[0] for sample in samples])

    @property
    def about(self) -> str:
        """Which photographs."""
        photos, labels = len(self.source.parts[0].images), len(self._labelled[1])
        return (
            f"class and logits of the float model on {self._scored} crops of {photos} photographs; right class on "
            f"{labels} whole ones"
        )

    def score(self, session: ort.InferenceSession) -> Scores:
        """Keys: share of crops of the float model's class, SQNR of their logits, share of labelled photographs right."""
        logits = self._logits(session, self._samples)
        difference = Difference()
        difference.add(self._float, logits)
        images, labels = self._labelled
        return {
            "same class": float((logits.argmax(1) == self._float.argmax(1)).mean()),
            "SQNR dB": difference.sqnr_db,
            "right class": float((self._logits(session, images).argmax(1) == labels).mean()),
        }

    def calibration(self) -> Arrays:
        """Crops of other photographs."""
        return {"input": self._crops(self.source.parts[1], self._calibrated, CALIBRATION_SEED)}


class Recognizer(Task):
    """Characters of rendered lines."""

    main = "characters"
    scored, calibrated = Amount(256, 32), Amount(64, 16)

    def _lines(self, *, scored: bool) -> Iterator[Line]:
        """Lines whose whole text is in the picture, of one half of the news over one part of the photographs."""
        words = " ".join(self.source.documents()).split()
        words = words[len(words) // 2 :] if scored else words[: len(words) // 2]
        random = np.random.default_rng(TEST_SEED if scored else CALIBRATION_SEED)
        left = self._scored if scored else self._calibrated
        while left:
            line = render(random, words, (320, 48), self.source.parts[0 if scored else 1])
            if line.fits:
                left -= 1
                yield line

    @cached_property
    def _samples(self) -> list[Line]:
        return list(self._lines(scored=True))

    def _outputs(self, session: ort.InferenceSession) -> list[Array]:
        return [session.run(None, {"x": recognizable(line)[None]})[0][0] for line in self._samples]

    @cached_property
    def _characters(self) -> list[str]:
        """The float model's own: other tools lose what says them."""
        listed = self.float_session().get_modelmeta().custom_metadata_map["character"]
        return [*listed.splitlines(), " "]

    @cached_property
    def _float(self) -> list[Array]:
        return self._outputs(self.float_session())

    @property
    def about(self) -> str:
        """Which lines."""
        return f"characters read right of {self._scored} rendered lines, and lines, but for spaces; the float model's outputs"

    def score(self, session: ort.InferenceSession) -> Scores:
        """Keys: 1 less the character error rate, share of lines without error, SQNR of the probabilities."""
        difference, errors, right = Difference(), 0, 0
        for line, exact, outputs in zip(self._samples, self._float, self._outputs(session), strict=True):
            difference.add(exact, outputs)
            distance = edit_distance(_spaceless(greedy_text(outputs, self._characters)), _spaceless(line.text))
            errors, right = errors + distance, right + (distance == 0)
        characters = sum(len(_spaceless(line.text)) for line in self._samples)
        return {
            "characters": 1 - errors / characters,
            "lines": right / len(self._samples),
            "SQNR dB": difference.sqnr_db,
        }

    def calibration(self) -> Arrays:
        """Lines of other words over other photographs."""
        return {"x": np.stack([recognizable(line)[None] for line in self._lines(scored=False)])}


def _spaceless(text: str) -> str:
    """Without spaces, which Chinese recognisers put and leave out as they please."""
    return text.replace(" ", "")


TASKS: dict[str, type[Task]] = {
    "smollm2": LanguageModel,
    "minilm_l6": SentenceEncoder,
    "mobilenet_v2": Classifier,
    "efficientnet_lite0": Classifier,
    "ppocr_rec": Recognizer,
}
