"""Files with our operators between integer activations beside their twins, the same files with the bodies written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from client_matrix.files import File, in_one_file, inputs_of
from onnxquant.clients import Support
from onnxquant.targets.integer_operators import expand_integer_operators

# A file is as good as its twin from this speed on, and up to this load time.
SPEED, LOAD = 0.97, 1.1
# Outputs in float may differ by what rounding of sums in another order does.
ROUNDING = 1e-5


def network_files(entries: Sequence[str], folder: Path) -> Iterator[File]:
    """Files beside their twins, which are put into a folder.

    Args:
        entries: paths of files; ``FILE=1x3x48x320`` says the shape of the file's input, which may leave lengths open.
        folder: folder of the twins.
    """
    for entry in entries:
        name, _, lengths = entry.partition("=")
        path = in_one_file(Path(name), folder)
        proto, twin = onnx.load(str(path)), folder / f"{path.stem}.twin.onnx"
        expand_integer_operators(proto)
        onnx.save(proto, str(twin))
        inputs = inputs_of(path)
        if lengths:
            inputs = (dataclasses.replace(inputs[0], shape=[int(n) for n in lengths.split("x")]),)
        yield File(path.stem, "our operators", str(path), inputs, str(twin), is_twin=True)


def network_table(
    selected: Sequence[File], answers: Mapping[str, Mapping[str, Any]], says: Mapping[str, Mapping[str, Support]]
) -> tuple[str, list[str]]:
    """The table, with a row for each file and a column for each client, and what is wrong.

    Wrong are files that do not load where ``info`` says they do, or load where it says they do not; outputs that differ
    from the twin's; and speeds and load times that are worse by more than is allowed, which are bold.
    """
    lines = ["| network | " + " | ".join(answers) + " |", "|---" * (len(answers) + 1) + "|"]
    faults = []
    for file in selected:
        cells = []
        for client, answer in answers.items():
            result, said = answer["results"].get(file.key), says[file.key].get(client)
            if result is None:
                cells.append("not run")
                continue
            loads = "error" not in result
            cells.append(_cell(result) if loads else "no")
            if said is not None and loads != (said is not Support.NO):
                faults.append(f"{file.model} on {client}: info says {said}; {result}")
            elif loads and (why := _worse(result)):
                faults.append(f"{file.model} on {client}: {why}")
        lines.append(f"| {file.model} | {' | '.join(cells)} |")
    return "\n".join(lines), faults


def _cell(result: Mapping[str, Any]) -> str:
    """Speed and load time, and the difference where there is one."""
    speed, load = result["speed"][0], result["load"]
    cells = [f"**{speed:.2f}**" if _is_slow(result) else f"{speed:.2f}", f"**{load:.2f}**" if load > LOAD else f"{load:.2f}"]
    return ", ".join(cells + [f"**differs by {result['difference']:.2g}**"] * (result["difference"] > ROUNDING))


def _is_slow(result: Mapping[str, Any]) -> bool:
    """Whether the speed is certainly too low: the whole interval of its median."""
    return bool(result["speed"][2] < SPEED)


def _worse(result: Mapping[str, Any]) -> str:
    """In which way a file is worse than its twin; empty where in none."""
    reasons = [f"outputs differ by {result['difference']:.2g}"] * (result["difference"] > ROUNDING)
    reasons += [f"{result['speed'][0]:.3f} of the twin's speed"] * _is_slow(result)
    reasons += [f"loads in {result['load']:.2f} of the twin's time"] * (result["load"] > LOAD)
    return ", ".join(reasons)
