"""Patterns that cut a text into words before byte pair encoding, by the name that GGUF has for them.

They are the regular expressions of the models' own tokenizers. Each pattern cuts every piece that the one before left: at
what it matches, and at what is between. ``(?i:'s)`` is spelled out, because the engines differ about letters outside ASCII.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxquant.errors import nearest

_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
DIGIT, GPT2 = (
    r"\p{N}",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
)
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}|{_SIGNS}|{_SPACES}"
# onnxruntime-genai knows the contractions of this one only in this spelling.
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = rf"{_BEFORE}{_UPPER}*{_LOWER}+{_SUFFIX}|{_BEFORE}{_UPPER}+{_LOWER}*{_SUFFIX}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
_THREE_DIGITS = "[0-9][0-9][0-9]"


@dataclass(frozen=True)
class Words:
    """The rule by which a text is cut into words.

    Attributes:
        patterns: regular expressions, each for the pieces that the one before left.
        keeps_tokens: whether a word that is a token is not built of merges.
        adds_bos: whether the token that begins a text is added where a file does not say so.
        portable: whether onnxruntime-genai knows the patterns.
    """

    patterns: tuple[str, ...]
    keeps_tokens: bool = False
    adds_bos: bool = False
    portable: bool = True


_KINDS = {
    "gpt-2": Words((GPT2,)),
    "smollm": Words((DIGIT, GPT2)),
    "llama-bpe": Words((_LLAMA3,), keeps_tokens=True, adds_bos=True),
    "dbrx": Words((_LLAMA3,)),
    "glm4": Words((_LLAMA3,), keeps_tokens=True),
    "qwen2": Words((_QWEN2,)),
    "qwen35": Words((_QWEN35,)),
    "tekken": Words((_TEKKEN,), keeps_tokens=True, adds_bos=True),
    "gpt-4o": Words((_GPT4O,)),
    "falcon": Words((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, _THREE_DIGITS), portable=False),
    "default": Words((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", _THREE_DIGITS), portable=False),
}
# Other names of the same.
_ALIASES = {
    "gpt-2": "phi-2 mpt olmo jais exaone4 gigachat a.x-4.0 mellum trillion granite-docling",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    "dbrx": "smaug-bpe chatglm-bpe",
    "glm4": "glm5",
    "qwen2": "deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
    "gpt-4o": "llama4 kanana2 talkie minimax-m2",
}
WORDS = _KINDS | {alias: _KINDS[name] for name, aliases in _ALIASES.items() for alias in aliases.split()}


def unknown_words(name: str) -> str:
    """The words for a name of which no pattern is known."""
    return f"cuts words by the pattern {name!r}, which onnxquant does not know{nearest(name, sorted(WORDS))}"
