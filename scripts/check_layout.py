"""Print what exceeds the house's sizes: modules over 400 lines, functions over 60, more than 6 parameters.

Guides to think with, not a gate: it always exits 0.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 6


def findings(path: Path) -> list[str]:
    """What one module exceeds."""
    text = path.read_text()
    where = path.relative_to(ROOT)
    out = []
    if (lines := len(text.splitlines())) > MODULE_LINES:
        out.append(f"{where}: {lines} lines, the guide is {MODULE_LINES}")
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        arguments = [a for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
        if length > FUNCTION_LINES:
            out.append(f"{where}:{node.lineno}: {node.name} has {length} lines, the guide is {FUNCTION_LINES}")
        if len(arguments) > PARAMETERS:
            out.append(f"{where}:{node.lineno}: {node.name} has {len(arguments)} parameters, the guide is {PARAMETERS}")
    return out


def main() -> None:
    """Check the package and the scripts."""
    found = [
        line
        for folder in ("onnxquant", "scripts")
        for p in sorted((ROOT / folder).rglob("*.py"))
        for line in findings(p)
    ]
    print("\n".join(found) if found else "nothing exceeds the guides")


if __name__ == "__main__":
    main()
