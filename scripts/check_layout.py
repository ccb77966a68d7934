"""Checks of the house rules that no linter has: sizes, names and docstrings.

Sizes are guides to think with and are only printed. Names and docstrings are a gate: with ``--gate`` the exit code is 1
when one of them breaks a rule. Paths may follow; the default is the package and the scripts.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 6
# Participles say that something happened to a thing, not what the thing is.
BANNED_NAMES = {"found", "made", "kept", "told", "given", "wanted", "seen"}
# A docstring begins with a noun or a verb.
BANNED_OPENINGS = re.compile(r"(What|Of|As|How|Where|Who)\b")
# An entry under "Args:" or "Attributes:" begins with a noun, too.
BANNED_ENTRIES = re.compile(
    r"^ +(\w+): (of|as|what|how|for|by|in|on|with|to|from|at|so many|told|given|where|whose)\b", re.IGNORECASE
)
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule.

    Attributes:
        place: path and line.
        rule: the rule, and how the place breaks it.
        gate: True where the rule is more than a guide.
    """

    place: str
    rule: str
    gate: bool


def findings(path: Path) -> Iterator[Finding]:
    """The places of one module that break a rule."""
    text = path.read_text()
    place = path.relative_to(ROOT)
    if (lines := len(text.splitlines())) > MODULE_LINES:
        yield Finding(f"{place}:1", f"{lines} lines, the guide is {MODULE_LINES}", gate=False)
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            yield from _sizes(place, node)
        yield from _names(place, node)
        yield from _docstring(place, node)


def _sizes(place: Path, node: Definition) -> Iterator[Finding]:
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    arguments = [a for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
    where = f"{place}:{node.lineno}"
    if length > FUNCTION_LINES:
        yield Finding(where, f"{node.name} has {length} lines, the guide is {FUNCTION_LINES}", gate=False)
    if len(arguments) > PARAMETERS:
        yield Finding(where, f"{node.name} has {len(arguments)} parameters, the guide is {PARAMETERS}", gate=False)
    for argument in arguments:
        if argument.annotation is not None and _is_bag(argument.annotation):
            rule = f"{node.name}: {argument.arg} is a tuple that stands for several parameters"
            yield Finding(where, rule, gate=True)


def _is_bag(annotation: ast.expr) -> bool:
    """Whether an annotation is a tuple of several types."""
    if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.value, ast.Name):
        return False
    entries = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    types = {ast.unparse(entry) for entry in entries} - {"..."}
    return annotation.value.id == "tuple" and len(types) > 1


def _names(place: Path, node: ast.AST) -> Iterator[Finding]:
    names: list[tuple[str, int]] = []
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        names = [(node.id, node.lineno)]
    elif isinstance(node, ast.arg):
        names = [(node.arg, node.lineno)]
    for name, line in names:
        if name in BANNED_NAMES:
            yield Finding(f"{place}:{line}", f"{name!r} is no name: say what the thing is", gate=True)


def _docstring(place: Path, node: ast.AST) -> Iterator[Finding]:
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    text = ast.get_docstring(node, clean=False)
    if text is None:
        return
    line = node.body[0].lineno
    if match := BANNED_OPENINGS.match(text):
        yield Finding(f"{place}:{line}", f"a docstring begins with {match[1]!r}: begin with a noun or a verb", gate=True)
    for i, entry in enumerate(text.splitlines()):
        if match := BANNED_ENTRIES.match(entry):
            rule = f"{match[1]}: its description begins with {match[2]!r}: begin with a noun"
            yield Finding(f"{place}:{line + i}", rule, gate=True)


def main() -> None:
    """Print the findings; with ``--gate``, fail where a gate is broken."""
    gate = "--gate" in sys.argv[1:]
    paths = [Path(a).resolve() for a in sys.argv[1:] if not a.startswith("-")] or [ROOT / "onnxquant", ROOT / "scripts"]
    modules = sorted(m for p in paths for m in (p.rglob("*.py") if p.is_dir() else [p]))
    everything = [f for module in modules for f in findings(module)]
    for finding in everything:
        if finding.gate or not gate:
            print(f"{finding.place}: {finding.rule}")
    broken = sum(f.gate for f in everything)
    print(f"{broken} broken rules, {len(everything) - broken} guides exceeded")
    sys.exit(1 if gate and broken else 0)


if __name__ == "__main__":
    main()
