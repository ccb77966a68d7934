"""Names of files as readers of a published folder know them: without the places where they lie on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from onnxquant.json_data import JsonObject, JsonValue


@dataclass(frozen=True)
class Names:
    """Replacements of paths in texts.

    Attributes:
        by_path: names by the paths that they replace, the longest paths first.
    """

    by_path: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, folders: Iterable[Path], name: str, others: Iterable[object]) -> Names:
        """Names relative to a folder.

        Args:
            folders: folders whose files get that name in front: the models' own, and those where files are made.
            name: name of the folder.
            others: values of options; absolute paths of files among them become the names of these files.
        """
        values = [value for other in others for value in (other if isinstance(other, (list, tuple)) else [other])]
        local = [Path(value) for value in values if isinstance(value, (str, Path)) and _is_local(Path(value))]
        names = {str(path): path.name for path in local}
        for folder in folders:
            names |= {f"{place}{os.sep}": f"{name}/" for place in (folder, folder.absolute(), folder.resolve())}
        return cls(tuple(sorted(names.items(), key=lambda entry: -len(entry[0]))))

    def text(self, text: str) -> str:
        """A text with names in the place of paths."""
        for path, name in self.by_path:
            if path in text:
                text = re.sub(rf"(?<![\w./\\-]){re.escape(path)}", name.replace("\\", r"\\"), text)
        return text

    def table(self, entries: JsonObject) -> JsonObject:
        """JSON data with names in the place of paths."""
        return {key: self._value(value) for key, value in entries.items()}

    def _value(self, value: JsonValue) -> JsonValue:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return self.table(value)
        return [self._value(entry) for entry in value] if isinstance(value, list) else value


def _is_local(path: Path) -> bool:
    """Whether a path says where a file lies on this machine."""
    return path.is_absolute() and bool(path.name) and os.path.lexists(path)
