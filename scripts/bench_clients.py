"""Files of formats, targets and activations in four models on the real clients that run them, beside what ``info`` says.

Files are loaded and run by each client that is named; with --speed, networks are made for each client and run there, too,
interleaved with the float model. Exit code 1 where a client runs what ``info`` says it does not, or the other way round.

    python scripts/bench_clients.py --npm FOLDER --chromium chromium --write
    python scripts/bench_clients.py --releases FOLDER_OF_UNPACKED_WHEELS --openvino FOLDER --speed mobilenet_v2.onnx --write

FOLDER of --npm has ``onnxruntime-node`` and ``onnxruntime-web`` in ``node_modules``; those of --openvino and
--onnxruntime-openvino are what ``pip install --target`` makes. Without --releases, pip installs each release.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from client_matrix.clients import RealClient, chromium, node, packages, reference, releases
from client_matrix.files import FORMATS, File, files, files_for

from onnxquant.clients import Support, check, client_named

PAGE = Path(__file__).resolve().parents[1] / "docs" / "compatibility.md"
VERSIONS = ("1.18.1", "1.20.1", "1.22.1", "1.23.2", "1.27.0", "1.32.0")
BEGIN, END = "<!-- clients: written by scripts/bench_clients.py -->", "<!-- end of clients -->"
Answers = dict[str, dict[str, Any]]  # by client: version, results by file
_CELLS = {Support.YES: "yes", Support.SLOW: "slow", Support.NO: "no"}


def ran(client: RealClient, selected: Sequence[File], folder: Path) -> dict[str, Any]:
    """The answers of a client."""
    print(f"{client.name}: {len(selected)} files ...", file=sys.stderr)
    spec = folder / "spec.json"
    spec.write_text(json.dumps([file.spec() for file in selected]))
    return client.run(spec)


def expected(selected: Sequence[File], clients: Sequence[RealClient]) -> dict[str, dict[str, Support]]:
    """The answers of ``info``, by file and client."""
    known = {client.name: client.entry for client in clients if client.entry}
    entries = [client_named(entry) for entry in dict.fromkeys(known.values())]
    answers = {file.key: check(onnx.load(file.path), entries) for file in selected}
    return {
        key: {name: answer[client_named(entry).name].support for name, entry in known.items()}
        for key, answer in answers.items()
    }


def matrix(selected: Sequence[File], answers: Answers, says: dict[str, dict[str, Support]]) -> tuple[str, list[str]]:
    """The table, with one row for ways that every client answers alike, and the answers that ``info`` contradicts."""
    faults, rows = [], dict[tuple[str, ...], list[str]]()
    for file in selected:
        cells = []
        for name, answer in answers.items():
            result, word = answer["results"][file.key], says[file.key].get(name)
            loads = "error" not in result
            cells.append(("yes" if loads else "no") if word is None or not loads else _CELLS[word])
            if word is not None and loads != (word is not Support.NO):
                faults.append(f"{file.key} on {name}: info says {word}; {result}")
                cells[-1] = "runs (!)" if loads else "fails (!)"
        rows.setdefault((file.model, *cells), []).append(file.way)
    heads = ["model", "format and target", *(f"{name}" for name in answers)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [f"| {model} | {', '.join(ways)} | {' | '.join(cells)} |" for (model, *cells), ways in rows.items()]
    return "\n".join(lines), faults


def speeds(results: dict[str, dict[str, Any]], files: dict[str, list[File]], says: dict[str, dict[str, Support]]) -> str:
    """The table of speeds, as multiples of float's."""
    networks = list(dict.fromkeys(file.key for selected in files.values() for file in selected))
    lines = ["| client | " + " | ".join(networks) + " |", "|---" * (len(networks) + 1) + "|"]
    for client, by_file in results.items():
        cells = []
        for key in networks:
            result = by_file.get(key)
            remark = " (said)" if says[client].get(key) is Support.SLOW else ""
            cells.append("refused" if result is None else result.get("error") or f"{result['speed']:.2f}{remark}")
        lines.append(f"| {client} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(clients: Sequence[RealClient], sources: Sequence[Path], folder: Path) -> str:
    """The table of speeds of networks made for each client, in that client."""
    results, files, says = {}, {}, {}
    for client in clients:
        if client.entry:
            files[client.name] = list(files_for(client.entry, sources, folder))
            results[client.name] = ran(client, files[client.name], folder)["results"]
            answers = expected(files[client.name], [client])
            says[client.name] = {key: answer[client.name] for key, answer in answers.items()}
    return speeds(results, files, says)


def write(text: str) -> None:
    """Put the tables between their markers."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def named_clients(arguments: argparse.Namespace) -> list[RealClient]:
    """The clients that the command line names."""
    clients = releases(arguments.releases, arguments.versions)
    if arguments.npm:
        clients += node(arguments.npm)
    if arguments.npm and arguments.chromium:
        clients += chromium(arguments.npm, arguments.chromium)
    if arguments.openvino:
        clients.append(packages(arguments.openvino, "openvino", "openvino", "OpenVINO"))
    if arguments.onnxruntime_openvino:
        provider = "OpenVINOExecutionProvider"
        clients.append(
            packages(arguments.onnxruntime_openvino, "onnxruntime-openvino", provider, "onnxruntime-openvino")
        )
    return [*clients, reference()]


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=list(VERSIONS), help="releases of onnxruntime, oldest first")
    parser.add_argument("--releases", type=Path, help="folder of unpacked wheels, each named by its version")
    parser.add_argument("--npm", type=Path, help="folder with node_modules")
    parser.add_argument("--chromium", help="program")
    parser.add_argument("--openvino", type=Path, help="folder of the package")
    parser.add_argument("--onnxruntime-openvino", type=Path, help="folder of the package")
    parser.add_argument(
        "--format", dest="formats", action="append", help=f"format; several times [{', '.join(FORMATS)}]"
    )
    parser.add_argument("--speed", type=Path, action="append", default=[], help="float model whose speed is measured")
    parser.add_argument("--write", action="store_true", help="into docs/compatibility.md")
    return parser.parse_args()


def main() -> None:
    """Print the tables, or write them into docs/compatibility.md."""
    arguments = parsed()
    clients = named_clients(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        selected = list(files(folder, arguments.formats or FORMATS))
        answers = {client.name: ran(client, selected, folder) for client in clients}
        table, faults = matrix(selected, answers, expected(selected, clients))
        versions = ", ".join(f"{n} {a['version']}" if a["version"] not in n else n for n, a in answers.items())
        day = datetime.datetime.now(tz=datetime.UTC).date()
        text = f"{len(selected)} files, {len(faults)} answers that `info` contradicts; {day}: {versions}.\n\n{table}"
        if arguments.speed:
            text += f"\n\n{SPEEDS.format(cpus=os.cpu_count())}\n\n{measured(clients, arguments.speed, folder)}"
    if arguments.write:
        write(text)
    else:
        print(text)
    if faults:
        sys.exit("\n".join(faults))


SPEEDS = (
    "Speed of files made with `--for` that client, as a multiple of float's in that client (one thread, interleaved runs, on "
    "a busy machine with {cpus} CPUs); (said): told before the file is written that it is slower."
)

if __name__ == "__main__":
    main()
