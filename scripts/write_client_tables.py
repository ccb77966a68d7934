"""Write the tables of what each release of onnxruntime runs: onnxquant/clients/onnxruntime.json.

    python scripts/write_client_tables.py

Every release is installed into an environment of its own and asked for its kernels and operators; small models find
what it refuses beyond them (opsets, versions of the file format, bits of codes). The file has one line per operator.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from pathlib import Path
from typing import Any

from client_tables.probes import write

RELEASES = [
    "1.18.1", "1.19.2", "1.20.1", "1.21.1", "1.22.1", "1.23.2", "1.24.4", "1.25.1", "1.26.0", "1.27.0", "1.28.0", "1.29.0",
    "1.30.0", "1.31.1", "1.32.0",
]  # fmt: skip
RUNNER = Path(__file__).parent / "client_tables" / "runner.py"
TABLE = Path(__file__).parents[1] / "onnxquant" / "clients" / "onnxruntime.json"
# Releases before this one were built for numpy 1.
NUMPY_2 = "1.19.2"
OPEN = 2**31 - 1
# Operators that onnxruntime's optimizer alone makes.
HIDDEN = {"com.microsoft.nchwc", "com.ms.internal.nhwc"}


def ask(release: str, probes: Path) -> dict[str, Any]:
    """The answers of one release."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        numpy = "numpy<2" if RELEASES.index(release) < RELEASES.index(NUMPY_2) else "numpy"
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, f"onnxruntime=={release}", numpy], check=True, cwd=folder)
        done = subprocess.run([python, RUNNER, probes], check=True, cwd=folder, capture_output=True, text=True)
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers


def table(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The answers of all releases, oldest first, as one table."""
    return {
        "releases": [a["release"] for a in answers],
        "opset": [_highest(a["probes"], "opset") for a in answers],
        "ir": [_highest(a["probes"], "ir") for a in answers],
        "limits": _limits(answers),
        "kernels": _kernels(answers),
        "operators": _operators(answers[-1]),
    }


def _highest(probes: dict[str, str | None], kind: str) -> int:
    return max(
        int(name.split("+")[1]) for name, error in probes.items() if name.startswith(f"{kind}+") and error is None
    )


def _limits(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Values of attributes that releases take only from one on: the first that takes every probe with them."""
    firsts: dict[tuple[str, ...], int] = {}
    for name in answers[-1]["probes"]:
        if "=" in name:
            key = tuple(name.split("+")[:4])
            takes = [a["probes"][name] is None for a in answers]
            firsts[key] = max(len(takes) - takes[::-1].index(False) if False in takes else 0, firsts.get(key, 0))
    limits = []
    for (domain, operator, setting, kind), first in firsts.items():
        pairs = [pair.partition("=") for pair in setting.split(",")]
        values = {attribute: int(value) for attribute, _, value in pairs}
        general = firsts.get((domain, operator, setting.split(",")[0], kind))
        entry = {"domain": domain, "operator": operator, "attributes": values, "element_type": kind, "first": first}
        limits += [entry] if first != (general if len(pairs) > 1 else 0) else []
    return limits


def _kernels(answers: list[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """By domain and operator: [first release, last release, since, until, types by constraint]."""
    places: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, answer in enumerate(answers):
        for domain, operator, since, until, types in answer["kernels"]:
            if domain not in HIDDEN:
                short = {name: [_short(t) for t in kinds] for name, kinds in types.items()}
                entry = json.dumps([since, None if until == OPEN else until, short])
                places[domain, operator, entry].append(place)
    out: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for (domain, operator, entry), present in sorted(places.items()):
        for first, last in _runs(sorted(set(present))):
            out[domain][operator].append([first, last, *json.loads(entry)])
    return out


def _runs(places: list[int]) -> list[tuple[int, int]]:
    """Runs of places that follow each other."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and runs[-1][1] == place - 1:
            runs[-1] = (runs[-1][0], place)
        else:
            runs.append((place, place))
    return runs


def _short(kind: str) -> str:
    return kind.removeprefix("tensor(").removesuffix(")") if kind.startswith("tensor(") else kind


def _operators(answer: dict[str, Any]) -> dict[str, dict[str, list[list[str]]]]:
    """Type constraints of the inputs and outputs of the operators that onnx does not define, by domain and name."""
    out: dict[str, dict[str, list[list[str]]]] = defaultdict(dict)
    for domain, name, _, inputs, outputs in sorted(answer["operators"]):
        if domain.startswith("com.microsoft") and domain not in HIDDEN:
            out[domain][name] = [inputs, outputs]
    return out


def text(entries: dict[str, Any]) -> str:
    """JSON with a line per operator; lists of types stand once, in ``types``."""
    types: dict[str, int] = {}
    for operators in entries["kernels"].values():
        for kernels in operators.values():
            for kernel in kernels:
                kernel[4] = {n: types.setdefault(" ".join(kinds), len(types)) for n, kinds in kernel[4].items()}
    head = [f'"{key}": {json.dumps(entries[key])}' for key in ("releases", "opset", "ir")]
    limits = ",\n".join(map(json.dumps, entries["limits"]))
    parts = [*head, f'"limits": [\n{limits}\n]', '"types": [\n' + ",\n".join(map(json.dumps, types)) + "\n]"]
    for key in ("kernels", "operators"):
        domains = []
        for domain, operators in entries[key].items():
            lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(v, separators=(',', ':'))}" for n, v in operators.items())
            domains.append(f"{json.dumps(domain)}: {{\n{lines}\n}}")
        parts.append(f'"{key}": {{\n' + ",\n".join(domains) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, help="folder that keeps the answers of releases asked before")
    arguments = parser.parse_args()
    answers = []
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        for release in RELEASES:
            saved = arguments.answers / f"{release}.json" if arguments.answers else None
            if saved is None or not saved.exists():
                print(release, file=sys.stderr)
                answer = ask(release, Path(name))
                if saved:
                    saved.write_text(json.dumps(answer))
            else:
                answer = json.loads(saved.read_text())
            answers.append(answer)
    TABLE.write_text(text(table(answers)))


if __name__ == "__main__":
    main()
