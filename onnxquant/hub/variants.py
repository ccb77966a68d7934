"""Variants: the files that a client asks for by dtype, the ways of making each, and the closeness that each has to keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from onnxquant.errors import RecipeError, nearest

Settings = Mapping[str, object]
"""Options of ``quantize``, and the entry ``rules`` of a recipe."""


@dataclass(frozen=True)
class Way:
    """A way to make a variant.

    Attributes:
        words: short description.
        settings: its options.
    """

    words: str
    settings: Settings


@dataclass(frozen=True)
class Variant:
    """A kind of file.

    Attributes:
        dtype: name by which a client asks for it.
        suffix: ending of the file's name, before ``.onnx``.
        least_cosine: lowest cosine of an output to the float model's.
        ways: the ways to make it; the next one is tried where a file is not close enough.
        with_samples: further options of every way where there are samples.
        only_named: whether it is made only where it is named: few models come close enough.
    """

    dtype: str
    suffix: str
    least_cosine: float
    ways: tuple[Way, ...]
    with_samples: Settings = field(default_factory=dict)
    only_named: bool = False

    def file_name(self, model: str) -> str:
        """Name of the file that a model becomes.

        >>> variants()["q8"].file_name("encoder_model")
        'encoder_model_quantized.onnx'
        """
        return f"{model}{self.suffix}.onnx"

    def options(self, way: int, *, has_samples: bool) -> dict[str, object]:
        """Options of a way."""
        return {**self.ways[way].settings, **(self.with_samples if has_samples else {})}


_INT8: Settings = {"format": "int8"}
# Zero points, and shifts that need no samples; with samples the solver is the format's own.
_INT4: Settings = {"format": "int4", "symmetric": False, "solver": "hqq"}
_INT2: Settings = {"format": "int2", "symmetric": False, "solver": "hqq"}
_NF4: Settings = {"format": "nf4", "block_size": 32}
# Smaller blocks, and 8 bits for embeddings and convolutions, whose kernels compute in float all the same.
_CONVOLUTIONS = ["Conv", "ConvTranspose"]
_EIGHT_BITS = ({"role": "gather", "format": "int8"}, {"op": _CONVOLUTIONS, "format": "int8"})
_FINER: Settings = {"block_size": 16, "rules": _EIGHT_BITS}
_FINER_NF4: Settings = {"solver": "mse", "rules": _EIGHT_BITS}
# Convolutions have int8's codes: zero points gain little there (1 dB), and some networks were further from float with them.
_UINT8: Settings = {**_INT8, "symmetric": False, "rules": ({"op": _CONVOLUTIONS, "format": "int8", "symmetric": True},)}
# float16 for whatever is not on codes; callers see float32.
_HALF: Settings = {"float16": True, "keep_io_types": True}
_SOLVED: Settings = {"solver": "auto"}
_ONLY_WEIGHTS = Way("8-bit weights", _INT8)


def _with_finer(settings: Settings, finer: Settings) -> tuple[Way, Way]:
    """A way, and one with 8 bits outside of products."""
    words = "4-bit weights"
    return Way(words, settings), Way(f"{words}, embeddings and convolutions in 8 bits", {**settings, **finer})


# Names and endings are those of transformers.js 4 (DEFAULT_DTYPE_SUFFIX_MAPPING).
_VARIANTS = (
    Variant("fp16", "_fp16", 0.995, (Way("float16", {"format": "f16", **_HALF}),)),
    Variant("q8", "_quantized", 0.995, (Way("dynamic activations", {"activations": "dynamic"}), _ONLY_WEIGHTS)),
    Variant("int8", "_int8", 0.995, (_ONLY_WEIGHTS,)),
    Variant("uint8", "_uint8", 0.995, (Way("zero points", _UINT8), _ONLY_WEIGHTS)),
    Variant("q4", "_q4", 0.97, _with_finer(_INT4, _FINER), _SOLVED),
    Variant("q4f16", "_q4f16", 0.97, _with_finer({**_INT4, **_HALF}, _FINER), _SOLVED),
    Variant("bnb4", "_bnb4", 0.97, _with_finer(_NF4, _FINER_NF4)),
    Variant("q2", "_q2", 0.9, (Way("2-bit weights", _INT2),), _SOLVED, only_named=True),
)
# Endings of variants that others make.
OTHER_SUFFIXES = ("_q1", "_q1f16", "_q2f16", "_O1", "_O2", "_O3", "_O4")
# The dtypes that a page should get where it asks for none, the best first.
PREFERRED = ("q8", "int8", "uint8", "fp16", "q4", "bnb4", "q4f16")


def variants() -> dict[str, Variant]:
    """Variants by dtype."""
    return {variant.dtype: variant for variant in _VARIANTS}


def variants_named(names: str | Iterable[str]) -> list[Variant]:
    """Variants by dtype, in the order of lists; where no name is given, all that most models come close enough in.

    Raises:
        RecipeError: no such variant; the nearest is named.
    """
    known, texts = variants(), (names,) if isinstance(names, str) else names
    chosen = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    for name in chosen:
        if name not in known:
            raise RecipeError(
                f"unknown variant {name!r}{nearest(name, list(known))}; expected some of {', '.join(known)}"
            )
    return [v for name, v in known.items() if name in chosen or (not chosen and not v.only_named)]
