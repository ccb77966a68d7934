"""Libraries of operators that sessions register: ours, those of onnxruntime-extensions, and those that a user names."""

from __future__ import annotations

import filecmp
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import onnx
import onnxruntime as ort

from onnxquant.errors import ModelError, RecipeError
from onnxquant.graph.names import DOMAIN
from onnxquant.native import library as native
from onnxquant.system.environment import instruction_set_cap

EXTENSIONS = "ai.onnx.contrib"
# The domains of onnxruntime-extensions.
_EXTENSION_DOMAINS = frozenset({EXTENSIONS, "com.microsoft.extensions"})
# The words of onnxruntime where two libraries bring the same domain.
_CLASH = "already set"

_named: ContextVar[tuple[str, ...]] = ContextVar("custom_op_libraries", default=())


@contextmanager
def custom_op_libraries(paths: Iterable[str | Path]) -> Iterator[None]:
    """Let every session that is opened inside register libraries of operators, beside those of blocks around it.

    Args:
        paths: files of the libraries.

    Raises:
        RecipeError: a file does not exist, or onnxruntime cannot load it.
    """
    libraries = []
    for path in map(Path, paths):
        if not path.is_file():
            raise RecipeError(f"custom_op_library: {path} is no file")
        libraries.append(str(path.resolve()))
        try:
            _clash((libraries[-1],))
        except ModelError as error:
            raise RecipeError(f"custom_op_library: {error}; expected a library that exports RegisterCustomOps") from None
    token = _named.set(tuple(dict.fromkeys((*_named.get(), *libraries))))
    try:
        yield
    finally:
        _named.reset(token)


def named_libraries() -> tuple[str, ...]:
    """Libraries that the user names."""
    return _named.get()


def libraries_for(domains: Collection[str], *, ours: bool) -> tuple[str, ...]:
    """Paths of the libraries that a session on a model needs.

    A library of the user may bring a domain of ours or of onnxruntime-extensions, which onnxruntime takes only once in a
    session: the user's is registered then.

    Args:
        domains: domains of the model's operators.
        ours: whether the operators of the compiled library are wanted; without it their bodies run.

    Raises:
        ModelError: a library cannot be loaded, or two of the user's bring the same domain.
    """
    named = named_libraries()
    own = []
    if not _EXTENSION_DOMAINS.isdisjoint(domains):
        import onnxruntime_extensions

        own.append(str(onnxruntime_extensions.get_library_path()))
    if ours and DOMAIN in domains:
        if cap := instruction_set_cap():
            native.set_isa(cap)
        own.append(str(native.library_path()))
    if not named:
        return tuple(own)
    registered = named
    for library in own:
        together = (*registered, library)
        if not any(_is_build_of(library, other) for other in named) and not _clash(together):
            registered = together
    if _clash(registered):
        raise ModelError(
            f"{' and '.join(named)} bring operators of the same domain, which onnxruntime takes only once: leave one out"
        )
    return registered


def without_library(domains: Iterable[str], libraries: Collection[str]) -> list[str]:
    """Domains whose operators neither onnxruntime nor any of some libraries is known to bring.

    Args:
        domains: domains of the model's operators.
        libraries: the libraries that a session registers; those of the user may bring any domain.
    """
    if named_libraries():
        return []
    known = {"", "ai.onnx", DOMAIN, *_known_domains(), *(_EXTENSION_DOMAINS if libraries else ())}
    return sorted(set(domains) - known)


@cache
def _known_domains() -> frozenset[str]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return frozenset(schema.domain for schema in state.get_all_operator_schema())


@cache
def _is_build_of(library: str, other: str) -> bool:
    """Whether a file is a library, a copy of it or, by its name, another build of it."""
    return Path(library).name == Path(other).name or filecmp.cmp(library, other)


@cache
def _clash(libraries: tuple[str, ...]) -> bool:
    """Whether onnxruntime refuses some libraries together."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for library in libraries:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"{library}: onnxruntime cannot load this library of operators: {error}") from None
    try:
        ort.InferenceSession(_empty_model(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if _CLASH in str(error):
            return True
        raise ModelError(f"{', '.join(libraries)}: onnxruntime refuses these libraries of operators: {error}") from None
    return False


def _empty_model() -> bytes:
    proto = onnx.ModelProto(ir_version=8)
    proto.opset_import.add(domain="", version=17)
    proto.graph.name = "empty"
    proto.graph.input.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1]))
    proto.graph.node.append(onnx.helper.make_node("Identity", ["x"], ["y"]))
    return proto.SerializeToString()
