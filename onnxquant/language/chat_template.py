"""The choice of the template of a conversation among the files of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxquant.json_data import JsonValue
from onnxquant.language.fields import JsonFiles
from onnxquant.language.folder_names import CHAT_TEMPLATE, OLD_CHAT_TEMPLATE, TOKENIZER_CONFIG

KEY = "chat_template"
"""The entry of a file of JSON that is the template, or a list of several."""
_DEFAULT = "default"
_LONGEST = 1 << 22


@dataclass(frozen=True)
class ChatTemplate:
    """A template.

    Attributes:
        text: the template.
        place: its file.
    """

    text: str
    place: Path


def chat_template(files: JsonFiles) -> ChatTemplate | None:
    """The template of a folder: the file of its own before an entry of another; None where there is none.

    Raises:
        OnnxQuantError: a file is damaged, or the template is too long.
    """
    if files.has(CHAT_TEMPLATE):
        return ChatTemplate(_text(files), files.folder / CHAT_TEMPLATE)
    for name in (TOKENIZER_CONFIG, OLD_CHAT_TEMPLATE):
        value = _one(files.fields(name).get(KEY))
        if isinstance(value, str):
            return ChatTemplate(value, files.folder / name)
    return None


def _text(files: JsonFiles) -> str:
    """The text of the file of the template."""
    path = files.folder / CHAT_TEMPLATE
    try:
        if path.stat().st_size > _LONGEST:
            raise files.error(CHAT_TEMPLATE, f"has more than {_LONGEST} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise files.error(CHAT_TEMPLATE, "is not UTF-8") from None
    except OSError as error:
        raise files.error(CHAT_TEMPLATE, f"cannot be read: {error.strerror or error}") from None


def _one(value: JsonValue) -> JsonValue:
    """One template of a list of several by name: the default one, or the first."""
    if not isinstance(value, list):
        return value
    named = [entry for entry in value if isinstance(entry, dict) and isinstance(entry.get("template"), str)]
    default = next((entry for entry in named if entry.get("name") == _DEFAULT), next(iter(named), None))
    return None if default is None else default["template"]
