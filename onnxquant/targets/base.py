"""What a target is: which nodes an encoded weight becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import onnx
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.native_job import ZeroPoint
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.needs import UseKind
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.targets.kinds import Activations
from onnxquant.targets.layouts import Layout

F16, F32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Result:
    """A tensor that lowering makes from the weight W [rows, cols].

    ``y = x @ W.T`` (+ ``bias``) for a product, ``y = W[x]`` for a lookup, ``y`` = the decoded weight itself for dense.
    """

    kind: UseKind
    x: str
    y: str
    bias: str = ""


@dataclass
class Lowered:
    """What the lowering of one site left in the model: enough to read the weight again and to undo it.

    Attributes:
        planes: per layout, the names of its planes.
        results: the tensors made from the weight.
    """

    planes: dict[str, dict[str, str]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)


class Target(ABC):
    """Turns encoded weights into nodes. Chooses no codes and no sites."""

    name: ClassVar[str]
    summary: ClassVar[str]
    activations: ClassVar[Activations] = Activations.NONE
    """The activations that its products take. A rule can only name targets whose products take floats."""

    def rank(self, form: Format, *, folded: bool) -> int | None:
        """Place in the order in which target ``auto`` tries targets, lowest first; None: it never tries this one.

        The targets here have the ranks 10, 20 and 30.

        Args:
            form: format of the weight.
            folded: whether the weight is decoded when a session is created.
        """
        return None

    @abstractmethod
    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:
        """None when this target can hold the site in the format, else why not."""

    @abstractmethod
    def holds(self, form: Format) -> bool:
        """Whether this target can hold the format in a product or a lookup."""

    @abstractmethod
    def layouts(self, site: Site, form: Format, opset: int) -> dict[str, Layout]:
        """The layouts that the site's planes will be stored in."""

    @abstractmethod
    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:
        """Emit planes and nodes; ``encoded`` is None when only sizes are wanted."""

    def finish(self, editor: ModelEditor, lowered: Sequence[tuple[Site, Format]]) -> None:  # noqa: B027  optional
        """Add what the sites lowered by this target share; called once, after the edits are applied."""


def holds_codes(form: Format) -> bool:
    """Whether the layouts here can store a format's codes."""
    plain = isinstance(form, ScaledCodes) and not (form.zero_type is ZeroPoint.FLOAT16 or form.permuted)
    return plain and form.bits in (2, 4, 8)


def add_planes(editor: ModelEditor, site: Site, layout: Layout, encoded: Encoded | None) -> dict[str, str]:
    """Add a layout's planes to the graph that holds the weight; names by plane."""

    def make(plane: str) -> NDArray[Any]:
        assert encoded is not None
        return layout.pack(plane, encoded)

    return {
        plane: editor.plane(site.graph, f"{site.tensor.name}/{plane}", stored, partial(make, plane))
        for plane, stored in layout.stored().items()
    }


def float_scales(editor: ModelEditor, site: Site, name: str, elem_type: int, to: int = F32) -> str:
    """The scales as ``to``: a Cast that folds when a session is created, so that they are stored in 16 bits."""
    if elem_type == to:
        return name
    cast = editor.node(site, "Cast", [name], to=to)
    editor.first(site.graph, [cast])
    return str(cast.output[0])


Planes = Mapping[str, str]
