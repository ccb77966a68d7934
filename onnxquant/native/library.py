"""The compiled library through ctypes: its path, its functions, and the instruction sets it has.

ONNX Runtime loads the same library for its operators (``library_path``); the modules here need no ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import NativeLibraryError

ABI_VERSION = 2
"""The C ABI that this module calls; a library of another one is refused."""

TILE = 16
"""Output channels that are interleaved in a plane."""

_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


def library_path() -> Path:
    """Path of the compiled library; ONNX Runtime takes it as a custom op library.

    Raises:
        NativeLibraryError: the package was installed without it.
    """
    path = Path(__file__).parents[1] / "_lib" / f"libonnxquant_ops{_SUFFIX}"
    if not path.is_file():
        raise NativeLibraryError(
            f"the compiled library is missing: {path}. Reinstall onnxquant with pip; it needs a C++17 compiler"
        )
    return path


@cache
def is_available() -> bool:
    """Whether the compiled library is there and can be loaded."""
    try:
        return bool(isas())
    except NativeLibraryError:
        return False


def function(name: str, result: type | None = ctypes.c_int) -> Callable[..., Any]:
    """A function of the library by its name without the prefix ``onnxquant_``.

    Args:
        name: name of the function.
        result: ctypes type of what it returns.

    Raises:
        NativeLibraryError: the library cannot be loaded, or has no such function.
    """
    try:
        symbol = getattr(_library(), f"onnxquant_{name}")
    except AttributeError as error:
        raise NativeLibraryError(f"{library_path()} has no function {name!r}: reinstall onnxquant") from error
    symbol.restype = result
    return cast(Callable[..., Any], symbol)


def call(name: str, *arguments: object) -> None:
    """Call a function that returns 0 for success.

    Raises:
        NativeLibraryError: the library's message.
    """
    if function(name)(*arguments):
        raise NativeLibraryError(last_error())


def text(name: str, *arguments: object) -> str:
    """The text that a function returns.

    Raises:
        NativeLibraryError: the library's message, where there is no text.
    """
    answer: bytes | None = function(name, ctypes.c_char_p)(*arguments)
    if answer is None:
        raise NativeLibraryError(last_error())
    return answer.decode()


def last_error() -> str:
    """The library's message about the last call that failed in this thread."""
    message: bytes = function("last_error", ctypes.c_char_p)()
    return message.decode(errors="replace")


def isas() -> list[str]:
    """Instruction sets that run here, the best one last."""
    return text("isas").split(",")


def compiled_isas() -> list[str]:
    """Instruction sets in the library, whether or not this CPU has them, the best one last."""
    return text("compiled_isas").split(",")


def set_isa(name: str | None) -> None:
    """Let the operators of this process use no better instruction set than this one; None lifts the cap.

    Raises:
        NativeLibraryError: the library knows no such name.
    """
    call("set_isa", (name or "").encode())


def in_order(array: NDArray[Any]) -> NDArray[Any]:
    """The array as C has them, contiguous and aligned: itself, or a copy."""
    # ascontiguousarray does not copy an array that is contiguous but not aligned.
    return np.require(array, requirements=("C", "A"))


@cache
def _library() -> ctypes.CDLL:
    """The library, loaded at the first call and of the right ABI version."""
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
        library.onnxquant_abi_version.restype = ctypes.c_int
        version = library.onnxquant_abi_version()
    except (OSError, AttributeError) as error:
        raise NativeLibraryError(f"{path} cannot be loaded: {error}") from error
    if version != ABI_VERSION:
        raise NativeLibraryError(
            f"{path} has ABI version {version}, expected {ABI_VERSION}: package and library are not of one build; "
            f"reinstall onnxquant"
        )
    return library
