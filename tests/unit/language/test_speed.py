"""Rounds of decoders in turns, and the figures that they give."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from decoders import Weights, plain_cache, save_genai, shared_cache

from onnxquant.cli.decoders import show_speeds
from onnxquant.language.running import speed
from onnxquant.language.running.decoder import Decoder
from onnxquant.validation.latency import Interval


def test_speed_ratios_are_medians_of_paired_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    first = speed._Rounds([2.0, 4.0, 8.0] * 2, [0.2, 0.2, 0.2] * 2)
    other = speed._Rounds([1.0, 2.0, 4.0] * 2, [0.4, 0.5, 0.2] * 2)
    run, cost = speed._Run(prompt=10, generate=6, threads=2), speed.DecoderMemory(0.5, 1_500_000)
    row = speed._row(run, "other", (300, 100), (first, other), cost)
    assert (row.size_ratio, row.prompt_speed, row.first_token_seconds) == (3, 5, 2)
    assert (row.prompt_ratio, row.prompt_interval) == (2, Interval(2, 2))
    assert (row.speed, row.ratio) == (2.5, 0.5)
    assert row.interval == pytest.approx((0.4, 1))
    assert (row.rounds, row.clock) == (6, "wall")
    show_speeds([row], ["other"])
    shown = capsys.readouterr().out
    assert "a prompt of 10 tokens, and 6 tokens after it" in shown
    assert "0.50x (0.40 to 1.00)" in shown
    assert "2 threads, wall time, medians of 6 interleaved rounds" in shown


def test_each_token_after_the_first_is_timed(tmp_path: Path) -> None:
    weights, ticks = Weights.draw(), itertools.count()
    decoders = [
        Decoder(save_genai(tmp_path / name, graph(weights)), threads=1)
        for name, graph in (("shared", shared_cache), ("plain", plain_cache))
    ]
    rounds = speed._interleaved(decoders, [1, 2, 3], 5, lambda: float(next(ticks)), 4)
    for measured in rounds:
        assert measured.prompt == [1.0] * 4, "from the tick before the prompt to that after its token"
        assert measured.token == [0.25] * 4, "one tick for four tokens"
