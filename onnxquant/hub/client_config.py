"""The entries of config.json that a client reads: its dtype, and which files keep their tensors in data files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxquant.clients import Client
from onnxquant.errors import OutputError, RecipeError
from onnxquant.hub.config_json import parsed, with_value
from onnxquant.hub.folder import data_counts
from onnxquant.hub.variants import PREFERRED
from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.system.files import atomically

_TABLE, _DTYPE, _EXTERNAL = "transformers.js_config", "dtype", "use_external_data_format"


class ClientConfig:
    """A config.json, of which single entries change and all other bytes stay.

    Args:
        path: the file; it may be missing.
        client: the client that reads it.

    Raises:
        RecipeError: it is no JSON object, or has something else in the place of the client's table.
        OutputError: it cannot be read.
    """

    def __init__(self, path: Path, client: Client) -> None:
        self.path, self._client = path, client
        try:
            self._text = path.read_bytes().decode("utf-8") if path.exists() else None
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"{path}: cannot be read: {error}") from None
        table = {} if self._text is None else parsed(self._text, str(path)).get(_TABLE, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{path}: {_TABLE} is {table!r}, expected an object")
        self._table: JsonObject = table

    def entries(self, dtypes: Mapping[str, Sequence[str]], folder: Path) -> tuple[JsonObject, list[str]]:
        """Entries that are to be new or have another value, and sentences on them.

        Args:
            dtypes: dtypes that are there, by model.
            folder: folder of the models.
        """
        entries: JsonObject = {}
        counts, notes = data_counts(folder, self._client)
        if self._text is None:
            notes.append(f"{self.path.name} is missing: transformers.js does not load a folder without it")
        default = _default(dtypes)
        if default and _DTYPE not in self._table:
            entries[_DTYPE] = default
        elif default and self._table[_DTYPE] != default:
            notes.append(f"config.json: {_DTYPE} stays {self._table[_DTYPE]!r}, though {default!r} would do")
        files: JsonValue = dict(counts) or False
        if files != (before := self._table.get(_EXTERNAL, False)):
            entries[_EXTERNAL] = files
            if not (isinstance(before, dict) and before.items() <= counts.items()) and before:
                notes.append(f"config.json: {_EXTERNAL} was {before!r}; it names the files that have data now")
        return entries, notes

    def write(self, entries: JsonObject) -> None:
        """Write entries into the file, where it is there.

        Raises:
            OutputError: it cannot be written.
        """
        if self._text is None:
            return
        for name, value in entries.items():
            self._text = with_value(self._text, (_TABLE, name), value)
        with atomically(self.path) as stream:
            stream.write(self._text.encode())


def _default(dtypes: Mapping[str, Sequence[str]]) -> JsonValue:
    """The dtype of pages that ask for none: one for all models, or one for each; None where none is there."""
    best = {model: next((d for d in PREFERRED if d in there), "fp32") for model, there in dtypes.items()}
    if all(dtype == "fp32" for dtype in best.values()):
        return None
    return next(iter(best.values())) if len(set(best.values())) == 1 else dict(best)
