"""Damage files of tensors in every container and scheme, and count what reading them gives: tensors, or one clear error.

Anything else is a failure, and its file is kept: another exception, the end of the process, more than five seconds, or more
memory than twice the file and 64 MiB. ``--truncations`` cuts the files at every byte instead.

    python scripts/fuzz_checkpoints.py --mutations 50000 --kind gguf --kind axqt
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checkpoint_fuzz.damage import damaged
from checkpoint_fuzz.outcomes import outcome_of
from checkpoint_fuzz.seeds import COUNTS, KINDS

# Mutations of one file, before another of its kind is written.
_OF_ONE_FILE = 500
# One of so many files that can be read is converted, too.
_CONVERTED = 16


@dataclass(frozen=True)
class Run:
    """The cases of one kind.

    Attributes:
        kind: name of the kind.
        folder: empty folder for its files.
        keep: folder for copies of files that failed.
        mutations: number of damaged files; 0: each file is cut at every byte instead.
        seed: seed of the damage.
    """

    kind: str
    folder: Path
    keep: Path
    mutations: int
    seed: int

    def outcomes(self) -> Iterator[tuple[Path, str]]:
        """Each case's file or folder, which lies there until the next, and its outcome."""
        return self._of_mutations() if self.mutations else self._of_truncations()

    def _seed(self, number: int) -> tuple[Path, dict[Path, bytes]]:
        """A whole file or folder, and the bytes of its files."""
        for file in self.folder.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        source = KINDS[self.kind](self.folder, number)
        files = sorted(source.iterdir()) if source.is_dir() else sorted(self.folder.iterdir())
        return source, {file: file.read_bytes() for file in files}

    def _of_mutations(self) -> Iterator[tuple[Path, str]]:
        rng = random.Random(self.seed)
        for number in range(self.mutations):
            if number % _OF_ONE_FILE == 0:
                source, originals = self._seed(number // _OF_ONE_FILE)
                files = sorted(originals)
            file = rng.choice(files)
            file.write_bytes(damaged(file, originals[file], rng))
            yield source, outcome_of(source, converts=number % _CONVERTED == 0)
            file.write_bytes(originals[file])

    def _of_truncations(self) -> Iterator[tuple[Path, str]]:
        for number in range(COUNTS.get(self.kind, 1)):
            source, originals = self._seed(number)
            for file, raw in originals.items():
                for length in range(len(raw)):
                    file.write_bytes(raw[:length])
                    yield source, outcome_of(source)
                file.write_bytes(raw)

    def __call__(self) -> None:
        """Count the outcomes, and keep files that failed.

        Raises:
            SystemExit: some failed.
        """
        counts: collections.Counter[str] = collections.Counter()
        begin = time.perf_counter()
        for source, outcome in self.outcomes():
            if outcome.startswith("FAILED") and not counts[outcome]:
                print(f"{self.kind}: {outcome}: {self.kept(source, len(counts))}", flush=True)
            counts[outcome] += 1
        seconds = time.perf_counter() - begin
        print(f"{self.kind}: {counts.total()} files, {dict(counts)}, {seconds:.0f} s", flush=True)
        sys.exit(any(outcome.startswith("FAILED") for outcome in counts))

    def kept(self, source: Path, number: int) -> Path:
        """A copy of a folder, for whoever looks at the failure."""
        copy = self.keep / f"{self.kind}-{number}"
        shutil.copytree(self.folder, copy, dirs_exist_ok=True)
        return copy / source.relative_to(self.folder)


def main() -> None:
    """Run the mutations or the truncations of the kinds, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--truncations", action="store_true")
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_checkpoints")
    options = parser.parse_args()
    options.keep.mkdir(exist_ok=True)
    failed = False
    for kind in options.kind or KINDS:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
            run = Run(kind, Path(name), options.keep, 0 if options.truncations else options.mutations, options.seed)
            process = multiprocessing.get_context("fork").Process(target=run)
            process.start()
            process.join()
            if process.exitcode not in (0, 1):
                print(f"{kind}: FAILED with exit code {process.exitcode}: {run.kept(run.folder, 0)}", flush=True)
            failed |= process.exitcode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
