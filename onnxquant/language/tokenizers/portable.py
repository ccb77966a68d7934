"""A tokenizer in the form that onnxruntime-genai knows, too: it cuts a text by patterns, and passes over other steps."""

from __future__ import annotations

from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.language.tokenizers.patterns import DIGIT, GPT2


def split(pattern: str) -> JsonValue:
    """The step that cuts a text at what a pattern matches, and at what is between."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_level() -> JsonValue:
    """The step that takes a text as bytes, and cuts nothing."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def portable(data: JsonObject) -> JsonObject:
    """The entries of a tokenizer.json, with steps and merges in the form that both readers know."""
    model = data.get("model")
    merges = model.get("merges") if isinstance(model, dict) else None
    if isinstance(model, dict) and isinstance(merges, list):
        model = {**model, "merges": _merges(merges)}
    return {**data, "pre_tokenizer": _steps(data.get("pre_tokenizer")), "model": model}


def _merges(merges: list[JsonValue]) -> list[JsonValue]:
    """Merges as pairs where one has a carriage return, which onnxruntime-genai would take out of a line."""
    if not any(isinstance(merge, str) and "\r" in merge for merge in merges):
        return merges
    return [[*merge.split(" ")] if isinstance(merge, str) and merge.count(" ") == 1 else merge for merge in merges]


def _steps(step: JsonValue) -> JsonValue:
    """The same steps, with a pattern for each that has one: single digits, and the words of GPT-2.

    Steps of other kinds stay; a step alone stays, too, because GPT-2's words are what is cut without a pattern.
    """
    steps = step.get("pretokenizers") if isinstance(step, dict) else None
    if not isinstance(step, dict) or not isinstance(steps, list):
        return step
    return {**step, "pretokenizers": [other for entry in steps for other in _patterns(entry)]}


def _patterns(step: JsonValue) -> list[JsonValue]:
    """A step as patterns, or as it is."""
    if not isinstance(step, dict):
        return [step]
    if step.get("type") == "Digits" and step.get("individual_digits") is True:
        return [split(DIGIT)]
    if step.get("type") == "ByteLevel" and step.get("use_regex", True) is True and not step.get("add_prefix_space"):
        return [split(GPT2), {**step, "use_regex": False}]
    return [step]
