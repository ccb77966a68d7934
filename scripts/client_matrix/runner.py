"""Runs files on one client: python runner.py SPEC.json [PROVIDER|openvino|reference]; needs nothing but the client and numpy.

SPEC is a list of files, each with key, path, inputs and, where its speed is asked for, original. Prints lines of JSON: the
version of the client, then for each file its key and the error, or the speed as a multiple of the original's with the bounds
of its 95% interval (null where it is not asked for). A twin, which computes what its original computes, has its load time as
a part of the original's, too, and the largest difference of outputs. A client that crashes leaves out the rest.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Of a pair of sessions: seconds, and the least and largest number of ratios.
SECONDS, LEAST, MOST = 1.0, 4, 101
# Pairs of sessions, at least; more are made until the interval is on one side of this speed, or these seconds are over.
ROUNDS, ENOUGH, LONGEST = 3, 0.97, 15.0
# Processor seconds that one measurement takes, at least.
LONG_ENOUGH = 0.005
# Sessions of each file whose load times are compared.
LOADS = 11
Model = Callable[[dict[str, Any]], object]


def with_onnxruntime(provider: str) -> tuple[str, Callable[[str], Model]]:
    import onnxruntime as ort

    def load(path: str) -> Model:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=[provider])
        return lambda feed: session.run(None, feed)

    return str(ort.__version__), load


def with_openvino() -> tuple[str, Callable[[str], Model]]:
    import openvino  # type: ignore[import-not-found]

    core = openvino.Core()

    def load(path: str) -> Model:
        model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
        return lambda feed: model(feed)

    return str(openvino.__version__).partition("-")[0], load


def with_reference() -> tuple[str, Callable[[str], Model]]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    def load(path: str) -> Model:
        evaluator = ReferenceEvaluator(onnx.load(path))
        return lambda feed: evaluator.run(None, feed)

    return str(onnx.__version__), load


def values(entry: dict[str, Any]) -> Any:  # noqa: ANN401 - an array; runner.mjs makes the same values
    places = np.arange(int(np.prod(entry["shape"])))
    numbers = np.sin(places) if entry["type"] == "float32" else places % 2
    return numbers.astype(entry["type"]).reshape(entry["shape"])


def seconds(model: Model, feed: dict[str, Any], calls: int) -> float:
    """Processor time of some calls."""
    begin = time.process_time()
    for _ in range(calls):
        model(feed)
    return time.process_time() - begin


def speed(load: Callable[[str], Model], path: str, original: str, feed: dict[str, Any]) -> list[float]:
    """The speed as a multiple of the original's, with the bounds of its 95% interval: medians of runs that alternate.

    Sessions are made anew for each part of the runs, as where their memory lies decides a few percent.
    """
    ratios: list[float] = []
    begin, rounds = time.perf_counter(), 0
    while True:
        models = {name: load(name) for name in ((path, original) if rounds % 2 else (original, path))}
        ratios += part(models[path], models[original], feed)
        rounds += 1
        low, middle, high = interval(ratios)
        if rounds >= ROUNDS and (not low <= ENOUGH <= high or time.perf_counter() - begin > LONGEST):
            return [middle, low, high]


def load_time(load: Callable[[str], Model], path: str, original: str) -> float:
    """Processor time that a session takes to be made, as a part of the original's: the median of sessions made in turn."""
    ratios = []
    for _ in range(LOADS):
        spent = []
        for name in (path, original):
            begin = time.process_time()
            load(name)
            spent.append(time.process_time() - begin)
        ratios.append(spent[0] / spent[1])
    return statistics.median(ratios)


def difference(load: Callable[[str], Model], path: str, original: str, feed: dict[str, Any]) -> float:
    """The largest absolute difference of outputs; 0 where they are the same bits."""
    both: Any = [load(name)(feed) for name in (path, original)]
    pairs = zip(*([np.asarray(value) for value in outputs] for outputs in both), strict=True)
    return max(0.0 if np.array_equal(a, b) else float(np.abs(a - b.astype(np.float64)).max()) for a, b in pairs)


def part(model: Model, original: Model, feed: dict[str, Any]) -> list[float]:
    """Ratios of one pair of sessions; who runs first alternates."""
    ratios: list[float] = []
    calls = 1
    while seconds(original, feed, calls) < LONG_ENOUGH:
        calls *= 2
    seconds(model, feed, calls)
    begin = time.perf_counter()
    while len(ratios) < LEAST or (len(ratios) < MOST and time.perf_counter() - begin < SECONDS):
        first = seconds(original, feed, calls)
        ours = seconds(model, feed, calls) + seconds(model, feed, calls)
        ratios.append((first + seconds(original, feed, calls)) / ours)
    return ratios


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The 95% interval of a median, and the median between its bounds."""
    ordered, half = sorted(ratios), 0.98 * len(ratios) ** 0.5
    middle = len(ordered) / 2
    bounds = ordered[max(0, int(middle - half))], ordered[min(len(ordered) - 1, int(middle + half))]
    return bounds[0], statistics.median(ordered), bounds[1]


def main() -> None:
    kind = sys.argv[2] if len(sys.argv) > 2 else "CPUExecutionProvider"
    openers = {"openvino": with_openvino, "reference": with_reference}
    version, load = openers[kind]() if kind in openers else with_onnxruntime(kind)
    print(json.dumps({"version": version}), flush=True)
    for file in json.loads(Path(sys.argv[1]).read_text()):
        feed = {entry["name"]: values(entry) for entry in file["inputs"]}
        try:
            path, original = file["path"], file["original"]
            load(path)(feed)
            result: dict[str, Any] = {"speed": speed(load, path, original, feed) if original else None}
            if file["is_twin"]:
                result["load"] = load_time(load, path, original)
                result["difference"] = difference(load, path, original, feed)
        except Exception as error:  # clients' exceptions share no base class
            result = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0][:300]}
        print(json.dumps({"key": file["key"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
