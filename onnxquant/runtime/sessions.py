"""Sessions of ONNX Runtime: their options, opening and running them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxquant.arguments import checked
from onnxquant.errors import ExternalDataError, ModelError
from onnxquant.graph.io import load as load_document
from onnxquant.graph.io import outlined
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.random_draws import add_seeds, unseeded
from onnxquant.graph.traverse import nodes
from onnxquant.native import library as native
from onnxquant.runtime.libraries import custom_op_libraries, libraries_for, without_library

Session: TypeAlias = ort.InferenceSession
SessionOptions: TypeAlias = ort.SessionOptions
# Keys of ONNX Runtime's session configuration.
_NO_PREPACKING = "session.disable_prepacking"
_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
_FUSED_ACCURACY = "session.qdq_matmulnbits_accuracy_level"
# Words of onnxruntime about memory that there is not.
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation")
_SPINNING = "session.intra_op.allow_spinning"
_OPTIMIZED_DATA = "session.optimized_model_external_initializers_file_name"
_EXACT_PRODUCTS = "session.x64quantprecision"
_OPTIMIZED_MIN_BYTES = "session.optimized_model_external_initializers_min_size_in_bytes"


def version() -> str:
    """Version of the installed onnxruntime."""
    return str(ort.__version__)


def instruction_sets() -> list[str]:
    """Instruction sets that the compiled kernels can use on this machine, best last."""
    return native.isas()


def session_options(
    *,
    threads: int | None = None,
    float_compute: bool = False,
    exact_products: bool = False,
    mapped: bool = False,
    optimize: bool = True,
    spinning: bool = True,
) -> ort.SessionOptions:
    """Options of a session.

    Args:
        threads: number of intra-op threads; None: ONNX Runtime's choice.
        float_compute: fused products compute in float32 instead of int8 activations.
        exact_products: no sum of two products of 8-bit codes saturates, as it does on x86 CPUs without VNNI.
        mapped: weights stay in the mapped file (no prepacking): slower, but they take no memory.
        optimize: ONNX Runtime may rewrite the graph.
        spinning: threads without work wait at full speed, which counts as processor time.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures come as exceptions; the log would repeat them on stderr
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    if float_compute:
        options.add_session_config_entry(_FUSED_ACCURACY, "1")
    if exact_products:
        options.add_session_config_entry(_EXACT_PRODUCTS, "1")
    if mapped:
        options.add_session_config_entry(_NO_PREPACKING, "1")
    if not spinning:
        options.add_session_config_entry(_SPINNING, "0")
    return options


def write_optimized(options: ort.SessionOptions, path: Path) -> None:
    """Let a session write the graph that it runs to a file, and its tensors to a second file next to it."""
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry(_OPTIMIZED_DATA, f"{path.stem}.weights")
    options.add_session_config_entry(_OPTIMIZED_MIN_BYTES, "1024")


def open_session(
    model: str | Path | bytes,
    options: ort.SessionOptions,
    *,
    library: bool = True,
    folder: Path | None = None,
    seeded: bool = True,
) -> ort.InferenceSession:
    """A session on a model, with the custom-op libraries that its ops need.

    Args:
        model: a file, or a serialized model.
        options: session options; libraries are registered on them.
        library: register the compiled library where the model has its ops; without it their bodies run.
        folder: folder with the external data of a serialized model.
        seeded: nodes that draw random numbers get seeds, so that sessions can be compared.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    outline = outlined(model if isinstance(model, bytes) else Path(model))
    used = {node.domain for node in nodes(outline)} - {f.domain for f in outline.functions if f.domain != DOMAIN}
    title = "the model" if isinstance(model, bytes) else str(model)
    if seeded and unseeded(outline):
        folder = folder if isinstance(model, bytes) else Path(model).parent
        model = _with_seeds(model)
    if isinstance(model, bytes) and folder is not None:
        options.add_session_config_entry(_DATA_FOLDER, str(folder.resolve()))
    libraries = libraries_for(used, ours=library)
    for path in libraries:
        options.register_custom_ops_library(path)
    try:
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        if not isinstance(model, bytes):
            _refuse_damaged_data(Path(model))
        if is_out_of_memory(error):
            raise ModelError(f"{title}: does not fit into memory: {first_line(error)}") from None
        remedy = _remedy(without_library(used, libraries))
        raise ModelError(f"{title}: onnxruntime {version()} cannot load it: {first_line(error)}{remedy}") from None


def _refuse_damaged_data(path: Path) -> None:
    """Refuse a model whose data files are missing or too short; links are onnxruntime's to follow.

    Raises:
        ExternalDataError: one is.
    """
    try:
        load_document(path, [path.resolve().anchor])
    except ExternalDataError:
        raise
    except ModelError:  # onnxruntime's words say what else is wrong
        return


def _remedy(domains: Sequence[str]) -> str:
    """The end of a message on a model with operators of domains that no library is known to bring."""
    if not domains:
        return ""
    return (
        f"; it has operators of {', '.join(domains)}: name the library that brings them with --custom-op-library "
        "(custom_op_library=...); weights alone can be quantized without it, with --no-proof"
    )


def _with_seeds(model: str | Path | bytes) -> bytes:
    proto = onnx.load_model_from_string(model if isinstance(model, bytes) else Path(model).read_bytes())
    add_seeds(proto)
    return proto.SerializeToString()


@checked
def load(
    path: str | Path, *, custom_op_library: str | Path | Sequence[str | Path] = (), **session_options: object
) -> ort.InferenceSession:
    """Open a model for inference; the custom-op libraries that it needs are registered.

    Args:
        path: an ONNX file; operators of onnxquant run on the compiled library.
        custom_op_library: further libraries of operators.
        session_options: attributes of onnxruntime.SessionOptions by name, e.g. ``intra_op_num_threads=2``.

    Raises:
        ModelError: not a model, or onnxruntime refuses it.
        TypeError: no such session option.
    """
    options = ort.SessionOptions()
    for key, value in session_options.items():
        if not hasattr(options, key):
            raise TypeError(f"onnxruntime.SessionOptions has no attribute {key!r}")
        setattr(options, key, value)
    paths = (custom_op_library,) if isinstance(custom_op_library, (str, Path)) else custom_op_library
    with custom_op_libraries(paths):
        return open_session(path, options, seeded=False)


def run(
    session: ort.InferenceSession, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
) -> dict[str, Any]:
    """Run a session on one sample; float32 arrays are cast for inputs of float16.

    Args:
        session: a session on a model.
        feed: arrays by input name.
        outputs: names of the outputs to return; None: all.

    Returns:
        outputs by name.

    Raises:
        ModelError: onnxruntime fails on this feed.
    """
    names = [o.name for o in session.get_outputs()] if outputs is None else list(outputs)
    if not names:  # onnxruntime would return all outputs for an empty list
        return {}
    try:
        halves = {i.name for i in session.get_inputs() if i.type == "tensor(float16)"}
        arrays = {n: a.astype("float16") if n in halves and a.dtype == "float32" else a for n, a in feed.items()}
        return dict(zip(names, session.run(names, arrays), strict=True))
    except Exception as error:
        raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from None


def inputs_of(session: ort.InferenceSession) -> list[tuple[str, str, list[Any]]]:
    """Name, type and shape of each input."""
    return [(i.name, i.type, list(i.shape)) for i in session.get_inputs()]


def outputs_of(session: ort.InferenceSession) -> dict[str, str]:
    """Type of each output by name."""
    return {o.name: o.type for o in session.get_outputs()}


def schema(op_type: str, domain: str, version: int) -> object | None:
    """Schema of an operator that onnxruntime knows and onnx does not; None where neither knows it."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    schemas = [s for s in state.get_all_operator_schema() if (s.name, s.domain) == (op_type, domain)]
    return max((s for s in schemas if s.since_version <= version), key=lambda s: s.since_version, default=None)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of onnxruntime says that an allocation failed."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def first_line(error: Exception) -> str:
    """The first line of an exception's words."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
