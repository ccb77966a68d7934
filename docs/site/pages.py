"""What the site adds to the folder docs: pages that lie elsewhere in the repository, and links as they are written there.

A link in a page is the path in the repository, so that it works where the repository is read. Here it becomes the page
made of that file; a file that is there and is no page is named without a link; what is not there is left for
``--strict`` to complain of.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "custom_ops/README.md": "custom_ops.md",
    "models/README.md": "models.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^()#\s:]+)(#[^()\s]+)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository as links between pages."""
    sources = {page: source for source, page in ELSEWHERE.items()}
    folder = posixpath.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def linked(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        name = ELSEWHERE.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(name):
            return f"[{text}]({name}{anchor})"
        return text if (ROOT / path).exists() else match[0]

    return _LINK.sub(linked, markdown)
