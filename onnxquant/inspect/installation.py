"""Contents of this installation: formats, targets, solvers, passes, calibration methods, recipes, instruction sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxquant import observers, passes, registry
from onnxquant.clients import Client, Source, clients
from onnxquant.errors import NativeLibraryError
from onnxquant.formats import formats
from onnxquant.native import library as native
from onnxquant.native.kernels import formats as kernel_formats
from onnxquant.recipe.files import shipped
from onnxquant.solvers import solvers
from onnxquant.targets import targets, weight_targets
from onnxquant.targets.bodies import GATHER, MATMUL, custom_op_name


@dataclass(frozen=True)
class FormatInfo:
    """One format.

    Attributes:
        name: its name
        summary: description in one line
        source: origin of its definition
        bits_per_weight: bits per weight, scales included
        parameters: names of its parameters
        targets: names of the targets that hold it
        kernels: names of our operators for it, where the compiled library has them
    """

    name: str
    summary: str
    source: str
    bits_per_weight: float
    parameters: list[str]
    targets: list[str]
    kernels: list[str]


@dataclass(frozen=True)
class SolverInfo:
    """One solver.

    Attributes:
        summary: description in one line
        needs_data: whether it needs samples
        refuses: formats that it cannot solve, with the reasons
    """

    summary: str
    needs_data: bool
    refuses: dict[str, str]


@dataclass(frozen=True)
class PassInfo:
    """One pass.

    Attributes:
        summary: description in one line
        needs_settings: whether options run it; others may be asked for by name
    """

    summary: str
    needs_settings: bool


@dataclass(frozen=True)
class InstructionSets:
    """Instruction sets of the compiled library.

    Attributes:
        compiled: those that it has kernels for
        usable: those of them that this machine has
    """

    compiled: list[str]
    usable: list[str]


@dataclass(frozen=True)
class Installation:
    """Everything that a recipe or an option can name, packages outside included.

    Attributes:
        formats: formats in the order of their bits
        targets: summaries of targets by name
        solvers: solvers by name
        passes: passes by name
        calibration_methods: summaries of calibration methods by name
        recipes: summaries of recipes that come with the package, by name
        clients: summaries of the programs that files can be made for, by name
        instruction_sets: instruction sets of the compiled library
    """

    formats: list[FormatInfo]
    targets: dict[str, str]
    solvers: dict[str, SolverInfo]
    passes: dict[str, PassInfo]
    calibration_methods: dict[str, str]
    recipes: dict[str, str]
    clients: dict[str, str]
    instruction_sets: InstructionSets


def installation() -> Installation:
    """The contents of this installation."""
    methods = observers.registry()
    return Installation(
        formats=_formats(),
        targets={target.name: target.summary for target in targets() if target.name in weight_targets()},
        solvers={
            solver.name: SolverInfo(
                solver.summary,
                solver.needs_inputs,
                {f.name: reason for f in formats() if (reason := solver.refusal(f))},
            )
            for solver in solvers()
        },
        passes={name: PassInfo(cls.summary, cls.needs_settings()) for name, cls in passes.registry().items()},
        calibration_methods={name: registry.summary(methods[name]) for name in observers.ranging()},
        recipes={name: _first_comment(path) for name, path in shipped().items()},
        clients={name: _client(client) for name, client in clients().items()},
        instruction_sets=_instruction_sets(),
    )


def _client(client: Client) -> str:
    """The summary of a client, and the origin of what is known of it."""
    known = client.origin.replace(Source.DOCUMENTATION, "by its documentation")
    return f"{client.summary} ({known})"


def _formats() -> list[FormatInfo]:
    """The registered formats, with the targets that hold them and the operators that compute with them."""
    try:
        compiled = kernel_formats()
    except NativeLibraryError:
        compiled = []
    return [
        FormatInfo(
            name=form.name,
            summary=form.summary(),
            source=form.source,
            bits_per_weight=form.bits_per_weight,
            parameters=form.parameters(),
            targets=[target.name for target in targets() if target.holds(form)],
            kernels=[custom_op_name(op, form) for op in (MATMUL, GATHER)] if form.name in compiled else [],
        )
        for form in formats()
    ]


def _instruction_sets() -> InstructionSets:
    try:
        return InstructionSets(list(native.compiled_isas()), list(native.isas()))
    except NativeLibraryError:
        return InstructionSets([], [])


def _first_comment(recipe: Path) -> str:
    return recipe.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
