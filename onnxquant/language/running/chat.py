"""The prompt of a conversation: the chat template of a folder is a jinja2 template, which runs in a sandbox."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from onnxquant.errors import ModelError
from onnxquant.language.chat_template import KEY, chat_template
from onnxquant.language.fields import JsonFiles
from onnxquant.language.folder_names import CHAT_TEMPLATE, TOKENIZER_CONFIG


def chat_prompt(folder: Path, message: str) -> str:
    """The prompt of a message of a user, up to where the model answers.

    Args:
        folder: folder with ``chat_template.jinja``, or with ``tokenizer_config.json`` that holds the template.
        message: the message.

    Raises:
        ModelError: there is no template, or it fails.
    """
    files = JsonFiles(folder, ModelError)
    template = chat_template(files)
    if template is None:
        raise ModelError(
            f"{folder}: has no chat template, in {CHAT_TEMPLATE} or as {KEY} of {TOKENIZER_CONFIG}: leave out --chat "
            "(chat=True)"
        )
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_refuse, strftime_now=_now)
    config = files.fields(TOKENIZER_CONFIG)
    tokens = {name: _word(config.get(name)) for name in config.entries if name.endswith("_token")}
    messages = [{"role": "user", "content": message}]
    try:
        return environment.from_string(template.text).render(messages=messages, add_generation_prompt=True, **tokens)
    except Exception as error:  # a template may fail in any way
        raise ModelError(f"{template.place}: the chat template fails: {error}") from None


def _word(value: object) -> str:
    """A special token, which may be a text or an object."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
