"""The goals: how many times faster than a baseline a kernel has to be, and what this machine allows at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import geometric_mean, median

from kernel_bench.models import FLOAT

READ = "read"
NB4, NB8, DYNAMIC = "MatMulNBits 4 bits", "MatMulNBits 8 bits", "DynamicQuantizeMatMul"


@dataclass(frozen=True)
class Case:
    """The shape, state and number of threads of one measurement; ``state`` is ``cache`` or ``memory``."""

    k: int
    n: int
    state: str
    threads: int
    m: int


@dataclass(frozen=True)
class Cell:
    """One measurement: seconds per product of each round, in the order of rounds."""

    rounds: tuple[float, ...]
    nbytes: int
    copies: int
    foreign: float

    @property
    def seconds(self) -> float:
        """Median over rounds."""
        return median(self.rounds)


Cells = Mapping[tuple[str, Case], Cell]


@dataclass(frozen=True)
class Goal:
    """A kernel against the fastest of some baselines (prefixes of their names) at one M.

    Attributes:
        kernel: ours.
        baselines: prefixes; of those that were measured, the fastest counts.
        m: rows of X.
        target: least ratio.
        amx: whether it holds with AMX only (True), without (False), or always (None).
    """

    kernel: str
    baselines: tuple[str, ...]
    m: int
    target: float
    amx: bool | None = None


@dataclass(frozen=True)
class Outcome:
    """A goal with what was reached at a number of threads; geometric means over shapes and states.

    Attributes:
        goal: goal that was set.
        threads: number of threads.
        by_state: the mean over shapes alone.
        reached: the mean.
        worst: the least ratio of a case.
        bound: the mean at which our kernel reads or computes as fast as this machine can.
        cases: number of cases.
        foreign: CPUs that others used meanwhile, in the worst case.
    """

    goal: Goal
    threads: int
    by_state: dict[str, float]
    reached: float
    worst: float
    bound: float
    cases: int
    foreign: float

    @property
    def met(self) -> bool:
        """Whether the mean over all shapes, in and beyond the cache, reaches the goal."""
        return self.reached >= self.goal.target


GOALS = [
    Goal("q4_0", (NB4,), 1, 1.4),
    Goal("q4_0", (READ,), 1, 0.85),
    Goal("q4_0", (NB4,), 8, 3.5),
    Goal("q4_0", (NB4,), 128, 3, amx=False),
    Goal("q4_0", (NB4,), 128, 9, amx=True),
    Goal("q4_0", ("ggml q4_0 ",), 1, 1.05),
    Goal("q4_0", ("ggml q4_0 ",), 8, 2),
    Goal("q4_0", ("ggml q4_0 ",), 128, 4.5),
    Goal("i2_s", (NB4,), 1, 3.5),
    Goal("i2_s", (NB4,), 8, 5),
    Goal("i2_s", (NB4,), 128, 4.5, amx=False),
    Goal("i2_s", (NB4,), 128, 22, amx=True),
    Goal("q8_0", (NB8,), 1, 1.35),
    Goal("q8_0", (DYNAMIC,), 128, 1),
    *(Goal(name, (f"ggml {name} ",), 1, 2) for name in ("q4_1", "q5_0", "q5_1")),
    *(Goal(f"q{bits}_k", (f"ggml q{bits}_K ",), 1, 1) for bits in (4, 5, 6)),
    *(Goal(name, (f"MatMulBnb4 {name.upper()}",), 1, 10) for name in ("nf4", "fp4")),
    *(Goal(name, (FLOAT,), 1, 1) for name in ("nf4", "fp4")),
]


def avx2_goals(kernels: Iterable[str]) -> list[Goal]:
    """Goals of our kernels capped to AVX2, whatever their format."""
    return [Goal(name, (NB4,), 1, 1) for name in kernels]


def judge(
    goal: Goal,
    threads: int,
    cells: Cells,
    reading: Callable[[str, Case], float],
    computing: Callable[[str, Case], float],
) -> Outcome | None:
    """The outcome of a goal; None where nothing was measured.

    Args:
        goal: goal to judge.
        threads: number of threads.
        cells: measurements by kernel and case.
        reading: seconds below which a kernel cannot get on this machine, by its bytes.
        computing: the same by its multiply-accumulates.
    """
    ratios: dict[Case, float] = {}
    bounds: list[float] = []
    foreign = 0.0
    for (name, case), cell in cells.items():
        if name != goal.kernel or (case.m, case.threads) != (goal.m, threads):
            continue
        foreign = max(foreign, cell.foreign)
        read, compute = reading(name, case), computing(name, case)
        if goal.baselines == (READ,):
            ratios[case] = read / cell.seconds
            bounds.append(min(1.0, read / compute))
            continue
        rivals = [c for (n, w), c in cells.items() if w == case and n.startswith(goal.baselines)]
        if rivals:
            best = min(rivals, key=lambda c: c.seconds)
            ratios[case] = paired_ratio(best.rounds, cell.rounds)
            bounds.append(best.seconds / max(read, compute))
    if not ratios:
        return None
    states = {s: geometric_mean([r for c, r in ratios.items() if c.state == s]) for s in {c.state for c in ratios}}
    mean = geometric_mean(ratios.values())
    return Outcome(goal, threads, states, mean, min(ratios.values()), geometric_mean(bounds), len(ratios), foreign)


def paired_ratio(theirs: Iterable[float], mine: Iterable[float]) -> float:
    """Median over rounds of the ratio within a round: load that comes and goes hits both sides of it.

    >>> paired_ratio([2.0, 8.0, 2.0], [1.0, 4.0, 1.0])
    2.0
    """
    return median(a / b for a, b in zip(theirs, mine, strict=True))
