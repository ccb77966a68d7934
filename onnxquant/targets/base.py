"""The base class of targets, and the records of the tensors and nodes that they add to a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.native_job import ZeroPoint
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.needs import UseKind
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.json_data import OPTIONAL
from onnxquant.targets.kinds import Activations
from onnxquant.targets.layouts.base import Layout


@dataclass(frozen=True)
class Result:
    """A tensor that the lowered model computes from a weight W [rows, cols].

    ``y = x @ W.T`` (+ ``bias``) for a product, ``y = W[x]`` for a lookup, ``y`` = the decoded weight itself for dense.
    """

    kind: UseKind
    x: str
    y: str
    bias: str = ""
    half: bool | None = field(default=None, metadata=OPTIONAL)
    """True where it is computed in float16 though the weight is float32."""


@dataclass
class Lowered:
    """The tensors that lowering one site added to the model: enough to read the weight again, and to undo it.

    Attributes:
        planes: tensor of each plane, by layout.
        results: the tensors that the model computes from the weight.
    """

    planes: dict[str, dict[str, str]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def add(self, other: Lowered) -> None:
        """Add the tensors of another part of the same site."""
        self.planes |= other.planes
        self.results += other.results


class Target(ABC):
    """A way to turn encoded weights into nodes. It chooses no codes and no sites."""

    name: ClassVar[str]
    summary: ClassVar[str]
    layout_types: ClassVar[tuple[type[Layout], ...]]
    """The layouts that it stores planes in: readers of files find them here."""
    activations: ClassVar[Activations] = Activations.NONE
    """The activations that its products take. A rule can only name targets whose products take floats."""
    takes_experts: ClassVar[bool] = False
    """Whether it has an operator that reads the codes of layers of experts; other targets decode them at load."""
    role: ClassVar[str] = ""
    """The role of the weights that it is for, among targets of integer activations; empty: all others."""

    def rank(self, form: Format, *, folded: bool) -> int | None:
        """Place in the order in which target ``auto`` tries targets, lowest first; None: it never tries this one.

        The targets here have the ranks 10, 20 and 30.

        Args:
            form: format of the weight.
            folded: whether the weight is decoded when a session is created.
        """
        return None

    def takes_float16(self, form: Format) -> bool:
        """Whether its kernels take float16 activations beside codes of a format; target ``auto`` prefers it for float16."""
        return False

    def wanted_opset(self, site: Site, form: Format) -> int:
        """The opset from which this target holds the site best, to which older models are converted; 0: any."""
        return 0

    @abstractmethod
    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:
        """The reason why this target cannot hold the site in the format; None when it can."""

    @abstractmethod
    def holds(self, form: Format) -> bool:
        """Whether this target can hold the format in a product or a lookup."""

    @abstractmethod
    def layouts(self, site: Site, form: Format, opset: int) -> Sequence[Layout]:
        """The layouts of the planes that a site is stored as."""

    @abstractmethod
    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:
        """Add planes and nodes to the model.

        Args:
            editor: editor of the model.
            site: the weight.
            form: its format.
            encoded: the encoded weight; None: sizes only.
        """

    def finish(self, editor: ModelEditor, lowered: Sequence[tuple[Site, Format]]) -> None:  # noqa: B027  optional
        """Add the parts of the model that all sites of this target share; called once, after the edits are applied."""


def holds_codes(form: Format) -> bool:
    """Whether the layouts here can store a format's codes."""
    plain = isinstance(form, ScaledCodes) and not (form.zero_type is ZeroPoint.FLOAT16 or form.permuted)
    return plain and form.bits in (2, 4, 8)


def add_planes(editor: ModelEditor, site: Site, layout: Layout, encoded: Encoded | None) -> dict[str, str]:
    """Add a layout's planes to the graph that holds the weight.

    Args:
        editor: editor of the model.
        site: the weight.
        layout: its layout.
        encoded: the encoded weight; None: sizes only, no sink asks for values.

    Returns:
        the tensor of each plane.
    """
    arrays = layout.pack(encoded) if encoded else {}
    return {
        plane: editor.plane(site.graph, f"{site.tensor.name}/{plane}", spec, partial(arrays.__getitem__, plane))
        for plane, spec in layout.specs().items()
    }
