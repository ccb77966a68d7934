"""Files of formats, targets and activations in four models on the real clients that run them, beside what ``info`` says.

Files are loaded and run by each client that is named. With --speed, networks are made for each client and run there
instead, interleaved with the float model. With --network, static files with our operators between integer activations
(``IntegerNetwork``, ``MapCodes``) are run on clients without our library beside the same files with the operators' bodies
written out: they must give the same numbers, and be as fast. Exit code 1 where a client runs what ``info`` says it does not,
or the other way round, or a network is worse than its twin. Each of the tables has a place of its own on the page.

    python scripts/bench_clients.py --npm FOLDER --chromium chromium --write
    python scripts/bench_clients.py --releases FOLDER_OF_UNPACKED_WHEELS --openvino FOLDER --write
    python scripts/bench_clients.py --npm FOLDER --speed mobilenet_v2/model.onnx --speed-on "ort.wasm in Node" --write
    python scripts/bench_clients.py --npm FOLDER --network static.onnx --network ocr.static.onnx=1x3x48x320 --write

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from client_matrix.clients import RealClient, chromium, node, packages, reference, releases
from client_matrix.files import FORMATS, File, files, files_for, in_one_file, narrow_networks
from client_matrix.networks import network_files, network_table

from onnxquant.clients import Support, check, client_named

HOME = Path(__file__).resolve().parents[1]
PAGE = HOME / "docs" / "compatibility.md"
VERSIONS = ("1.18.1", "1.20.1", "1.22.1", "1.23.2", "1.27.0", "1.32.0")
CLIENTS, SPEEDS, NETWORKS = "clients", "speeds", "networks"
# The speed below which something has to be said before a file is written.
ENOUGH = 0.97
Answers = dict[str, dict[str, Any]]  # by client: version, results by file
_CELLS = {Support.YES: "yes", Support.SLOW: "slow", Support.NO: "no"}


def ran(client: RealClient, selected: Sequence[File], folder: Path, saved: Path | None = None) -> dict[str, Any]:
    """The answers of a client; those that a folder has are of an earlier run, which this one continues."""
    place = saved / f"{client.name}.json" if saved else None
    if place is not None and place.exists():
        answers: dict[str, Any] = json.loads(place.read_text())
        return answers
    print(f"{client.name}: {len(selected)} files ...", file=sys.stderr)
    spec = folder / "spec.json"
    spec.write_text(json.dumps([file.spec() for file in selected]))
    answers = client.run(spec)
    if not answers["results"]:
        sys.exit(f"{client.name}: no answer of any file in time; --patience S gives it more")
    if place is not None:
        place.write_text(json.dumps(answers))
    return answers


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
            result, word = answer["results"].get(file.key), says[file.key].get(name)
            if result is None:
                cells.append("not run")
                continue
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


def speeds(answers: Answers) -> str:
    """The table of speeds, as multiples of float's: a row for each network in each client."""
    ways = list(dict.fromkeys(way for answer in answers.values() for by_way in answer["speeds"].values() for way in by_way))
    lines = ["| client | network | " + " | ".join(ways) + " |", "|---" * (len(ways) + 2) + "|"]
    for client, answer in answers.items():
        for network, cells in answer["speeds"].items():
            lines.append(f"| {client} | {network} | {' | '.join(cells.get(way, 'refused') for way in ways)} |")
    return "\n".join(lines)


def measured(client: RealClient, networks: Mapping[str, Path], folder: Path, saved: Path | None) -> dict[str, Any]:
    """The version of a client, and the cells of the table by network and way."""
    place = saved / f"{client.name}.speeds.json" if saved else None
    if place is not None and place.exists():
        earlier: dict[str, Any] = json.loads(place.read_text())
        return earlier
    selected = list(files_for(client.entry, networks, folder))
    answer = ran(client, selected, folder)
    cells: dict[str, dict[str, str]] = {network: {} for network in networks}
    for file in selected:
        cells[file.model][file.way] = _cell(file, answer["results"][file.key])
    out = {"version": answer["version"], "speeds": cells}
    if place is not None:
        place.write_text(json.dumps(out))
    return out


def _cell(file: File, result: dict[str, Any]) -> str:
    """A cell of the table of speeds."""
    if "error" in result:
        return f"fails: {result['error'][:60]}"
    middle, low, high = result["speed"]
    bounds = f" [{low:.2f}, {high:.2f}]" if low <= ENOUGH <= high else ""
    return f"{middle:.2f}{bounds}{' (said)' * file.is_said_slow}"


def versions_of(answers: Answers) -> str:
    """The clients with their versions, and the day."""
    versions = ", ".join(f"{n} {a['version']}" if a["version"] not in n else n for n, a in answers.items())
    return f"{datetime.datetime.now(tz=datetime.UTC).date()}: {versions}"


def write(part: str, text: str) -> None:
    """Put a table between its markers."""
    begin, end = f"<!-- {part}: written by scripts/bench_clients.py -->", f"<!-- end of {part} -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def named_clients(arguments: argparse.Namespace) -> list[RealClient]:
    """The clients that the command line names."""
    clients = releases(arguments.releases, arguments.versions)
    if arguments.npm:
        clients += node(arguments.npm)
    if arguments.npm and arguments.chromium:
        clients += chromium(arguments.npm, arguments.chromium, arguments.patience)
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
    parser.add_argument("--patience", type=float, default=300.0, help="seconds that a browser has for its files [300]")
    parser.add_argument("--openvino", type=Path, help="folder of the package")
    parser.add_argument("--onnxruntime-openvino", type=Path, help="folder of the package")
    parser.add_argument(
        "--format", dest="formats", action="append", help=f"format; several times [{', '.join(FORMATS)}]"
    )
    parser.add_argument(
        "--speed", type=Path, action="append", default=[],
        help="float model whose speed is measured in place of the other table, beside the digit model and narrow networks; "
        "its folder is its name",
    )  # fmt: skip
    parser.add_argument("--speed-on", action="append", default=[], help="client whose speed is measured [all]")
    parser.add_argument(
        "--network", action="append", default=[], metavar="FILE[=SHAPE]",
        help="static file with our operators that is compared to the nodes they stand for, in place of the other tables",
    )  # fmt: skip
    parser.add_argument("--answers", type=Path, help="folder that keeps the answers of clients asked before")
    parser.add_argument("--write", action="store_true", help="into docs/compatibility.md")
    return parser.parse_args()


def compared(
    clients: Sequence[RealClient], selected: Sequence[File], folder: Path, saved: Path | None
) -> tuple[str, list[str]]:
    """The table of clients with a sentence in front, and the answers that ``info`` contradicts."""
    answers = {client.name: ran(client, selected, folder, saved) for client in clients}
    table, faults = matrix(selected, answers, expected(selected, clients))
    counts = f"{len(selected)} files, {len(faults)} answers that `info` contradicts"
    return f"{counts}; {versions_of(answers)}.\n\n{table}", faults


def main() -> None:
    """Print the tables, or write them into docs/compatibility.md."""
    arguments = parsed()
    clients, faults = named_clients(arguments), list[str]()
    with tempfile.TemporaryDirectory() as name:
        folder, parts = Path(name), dict[str, str]()
        if arguments.network:
            selected = list(network_files(arguments.network, folder))
            known = [client for client in clients if client.entry]
            answers = {client.name: ran(client, selected, folder, arguments.answers) for client in known}
            table, faults = network_table(selected, answers, expected(selected, known))
            parts[NETWORKS] = f"{versions_of(answers)}.\n\n{table}"
        elif arguments.speed:
            fast = [c for c in clients if c.name in arguments.speed_on or (not arguments.speed_on and c.entry)]
            networks = {"digits": HOME / "models" / "default.onnx", **narrow_networks(folder)}
            networks |= {path.parent.name: in_one_file(path, folder) for path in arguments.speed}
            answers = {client.name: measured(client, networks, folder, arguments.answers) for client in fast}
            parts[SPEEDS] = f"{REMARK.format(cpus=os.cpu_count())}\n{versions_of(answers)}.\n\n{speeds(answers)}"
        else:
            selected = list(files(folder, arguments.formats or FORMATS))
            parts[CLIENTS], faults = compared(clients, selected, folder, arguments.answers)
    for part, text in parts.items():
        write(part, text) if arguments.write else print(text)
    if faults:
        sys.exit("\n".join(faults))


REMARK = (
    "Speed of files made `--for` that client, as a multiple of float's in that client (one thread, processor time of runs\n"
    "that alternate in several pairs of sessions, on a shared machine with {cpus} CPUs; dynamic and static activations\n"
    "after one quick try; in brackets the 95% interval of the median where 0.97 is in it after 15 seconds); (said): a line\n"
    "before the file is written says that it is or may be slower than float."
)

if __name__ == "__main__":
    main()
