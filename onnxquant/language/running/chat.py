"""The chat template of a model: a jinja2 template from its folder, which runs in a sandbox."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import NoReturn, cast

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from onnxquant.errors import ModelError
from onnxquant.json_data import JsonObject
from onnxquant.language.running.folder import read_json

_CONFIG, _FILE, _KEY, _DEFAULT = "tokenizer_config.json", "chat_template.jinja", "chat_template", "default"


def chat_prompt(folder: Path, message: str) -> str:
    """The prompt of a message of a user, up to where the model answers.

    Args:
        folder: folder with ``chat_template.jinja``, or with ``tokenizer_config.json`` that holds the template.
        message: the message.

    Raises:
        ModelError: there is no template, or it fails.
    """
    path = folder / _CONFIG
    config = cast(JsonObject, read_json(path)) if path.is_file() else {}
    if not isinstance(config, dict):
        raise ModelError(f"{path}: expected an object")
    source, place = _template(folder, config)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_refuse, strftime_now=_now)
    tokens = {name: _word(config[name]) for name in config if name.endswith("_token")}
    messages = [{"role": "user", "content": message}]
    try:
        return environment.from_string(source).render(messages=messages, add_generation_prompt=True, **tokens)
    except Exception as error:  # a template may fail in any way
        raise ModelError(f"{place}: the chat template fails: {error}") from None


def _template(folder: Path, config: JsonObject) -> tuple[str, Path]:
    """The template and its file."""
    file = folder / _FILE
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8"), file
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{file}: cannot be read as text: {error}") from None
    value = config.get(_KEY)
    if isinstance(value, list):  # several of them, by name
        templates = {str(e.get("name")): e.get("template") for e in value if isinstance(e, dict)}
        value = templates.get(_DEFAULT, next(iter(templates.values()), None))
    if not isinstance(value, str):
        raise ModelError(
            f"{folder}: has no chat template, in {_FILE} or as {_KEY} of {_CONFIG}: leave out --chat (chat=True)"
        )
    return value, folder / _CONFIG


def _word(value: object) -> str:
    """A special token, which may be a text or an object."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
