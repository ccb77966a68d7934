"""Compares graph representations: the parts of a model that survive a round trip, and the cost of loading one.

Prints a table of small models, each with one rarely used part of ONNX, and what differs after a round trip; then the
seconds and the anonymous memory of loading two large models, one with its weights inside and one with external data.
Needs the extra ``bench`` (onnx_ir).
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
from bench_memory import make_model
from editor_bench.models import MODELS, model, relu
from google.protobuf.message import Message
from onnx import ModelProto

from onnxquant.graph.io import load

EDITORS = ("protobuf", "onnx_ir", "onnx_graphsurgeon")
# Repeated fields whose order says nothing.
UNORDERED = {"metadata_props", "opset_import", "value_info", "quantization_annotation", "functions", "external_data"}


def through(editor: str, proto: ModelProto) -> ModelProto:
    """The model after a round trip."""
    if editor == "protobuf":
        return load(proto).proto
    if editor == "onnx_ir":
        import onnx_ir

        back: ModelProto = onnx_ir.to_proto(onnx_ir.from_proto(proto))
        return back
    import onnx_graphsurgeon as gs

    gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.CRITICAL
    exported: ModelProto = gs.export_onnx(gs.import_onnx(proto))
    return exported


def differences(before: Message, after: Message, place: str) -> Iterator[str]:
    """The fields of two messages that are not equal; the order of some repeated ones does not matter."""
    for field in before.DESCRIPTOR.fields:
        name, old, new = f"{place}.{field.name}", getattr(before, field.name), getattr(after, field.name)
        if not field.is_repeated:
            if field.type != field.TYPE_MESSAGE:
                if old != new or before.HasField(field.name) != after.HasField(field.name):
                    yield name
            elif before.HasField(field.name) != after.HasField(field.name):
                yield name
            elif before.HasField(field.name):
                yield from differences(old, new, name)
            continue
        if len(old) != len(new):
            yield f"{name} ({len(old)} -> {len(new)})"
        elif field.type != field.TYPE_MESSAGE:
            if repr(list(old)) != repr(list(new)):
                yield name
        else:
            if field.name in UNORDERED:
                old, new = (
                    sorted(entries, key=lambda e: e.SerializeToString(deterministic=True)) for entries in (old, new)
                )
            for one, other in zip(old, new, strict=True):
                yield from differences(one, other, name)


def outcome(editor: str, proto: ModelProto) -> str:
    """The changes of a round trip, in words."""
    original = ModelProto()
    original.CopyFrom(proto)
    try:
        after = through(editor, proto)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return f"fails: {type(cause).__name__}: {str(cause).splitlines()[0][:90]}"
    changed = list(dict.fromkeys(d.removeprefix("model.") for d in differences(original, after, "model")))
    return "equal" if not changed else "differs: " + ", ".join(changed)


def anonymous_memory() -> int:
    """Bytes of this process that are not mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def measure(editor: str, path: str) -> None:
    """Print seconds and memory of loading one model, as JSON; runs in a process of its own."""
    loaders: dict[str, Callable[[str], object]] = {
        "protobuf": load,
        "onnx_ir": load_ir,
        "onnx_graphsurgeon": load_graphsurgeon,
    }
    loader = loaders[editor]
    loader(save_small(Path(path).parent))  # imports are no part of the figures
    before, begin = anonymous_memory(), time.perf_counter()
    loaded = loader(path)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "bytes": anonymous_memory() - before, "kind": type(loaded).__name__}))


def save_small(folder: Path) -> str:
    """The path of a model of one node."""
    onnx.save(model([relu()]), folder / "small.onnx")
    return str(folder / "small.onnx")


def load_ir(path: str) -> object:
    """A model as onnx_ir loads it."""
    import onnx_ir

    return onnx_ir.load(path)


def load_graphsurgeon(path: str) -> object:
    """A model as onnx-graphsurgeon imports it."""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(onnx.load(path))


def inlined(path: Path, total: int) -> Path:
    """A model with ``total`` bytes of weights inside the file."""
    folder = path / "inline"
    folder.mkdir()
    proto = onnx.load(make_model(folder, total))
    onnx.save(proto, folder / "inside.onnx")
    return folder / "inside.onnx"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=3, help="loads per figure, of which the fastest counts")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    logging.disable(logging.CRITICAL)
    for build in MODELS:
        print(build.__name__.replace("_", " "))
        for editor in EDITORS:
            print(f"    {editor:18}{outcome(editor, build())}")
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as name:
        folder = Path(name)
        (folder / "outside").mkdir()
        paths = {"128 MiB inside": inlined(folder, 128 << 20), "1 GiB outside": make_model(folder / "outside", 1 << 30)}
        for title, path in paths.items():
            for editor in EDITORS:
                runs = []
                for _ in range(arguments.runs):
                    command = [sys.executable, __file__, "--measure", editor, str(path)]
                    runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
                best = min(runs, key=lambda run: float(run["seconds"]))
                print(f"{title}   {editor:18}{best['seconds'] * 1e3:9.1f} ms{best['bytes'] / 2**20:9.1f} MiB")


if __name__ == "__main__":
    main()
