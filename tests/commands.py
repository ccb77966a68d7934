"""Commands run in tests."""

from __future__ import annotations

from click.testing import CliRunner, Result

from onnxquant.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result: Result, *words: str) -> None:
    """One line of our own on stderr that holds these words, exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    text = result.stderr.strip()
    assert "Traceback" not in text
    for word in words:
        assert word in text, text
    if text.startswith("onnxquant: error:"):
        assert len(text.splitlines()) == 1
