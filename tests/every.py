"""Many small cases in one test, which costs less than a test for each of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest

Test = Callable[..., None]
SHOWN = 5


def every(names: str | tuple[str, ...], cases: Iterable[Any], *, by: str | None = None) -> Callable[[Test], Test]:
    """Run a test with each of these arguments in turn, and fail with all cases that fail.

    It is written like ``pytest.mark.parametrize``. Fixtures are the same for all cases.

    Args:
        names: names of the arguments.
        cases: their values, a tuple where there are several names; a ``pytest.param`` may name them.
        by: the argument whose values have a test each; None: all cases are one test.
    """
    names = (names,) if isinstance(names, str) else names
    groups: dict[str, list[tuple[str, tuple[Any, ...]]]] = {}
    for case in cases:
        label, values = _case(case, len(names))
        groups.setdefault(_label(values[names.index(by)]) if by else "", []).append((label, values))

    def decorate(test: Test) -> Test:
        signature = inspect.signature(test)
        rest = [parameter for name, parameter in signature.parameters.items() if name not in names]

        @functools.wraps(test)
        def gathered(**fixtures: Any) -> None:
            listed = groups[fixtures.pop("group") if by else ""]
            failures: list[BaseException] = []
            skips: list[BaseException] = []
            for label, values in listed:
                try:
                    test(**fixtures, **dict(zip(names, values, strict=True)))
                except pytest.skip.Exception as reason:
                    skips.append(reason)
                except (Exception, pytest.fail.Exception) as error:
                    error.add_note(f"in the case {label}")
                    failures.append(error)
            if failures:
                labels = ", ".join(error.__notes__[-1].removeprefix("in the case ") for error in failures)
                raise BaseExceptionGroup(f"{len(failures)} of {len(listed)} cases fail: {labels}", failures[:SHOWN])
            if len(skips) == len(listed):
                raise skips[0]

        if by:
            rest.append(inspect.Parameter("group", inspect.Parameter.POSITIONAL_OR_KEYWORD))
        gathered.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
        return pytest.mark.parametrize("group", list(groups))(gathered) if by else gathered

    return decorate


def _case(case: Any, count: int) -> tuple[str, tuple[Any, ...]]:
    named = getattr(case, "id", None)
    values = case.values if isinstance(case, type(pytest.param())) else (case,) if count == 1 else tuple(case)
    return named or "-".join(map(_label, values)), tuple(values)


def _label(value: Any) -> str:
    return str(getattr(value, "name", value))
