"""The loop of training, its loss and its figures."""

import numpy as np
import pytest
import torch
from normalized import X, network

from onnxquant import training
from onnxquant.errors import FeedError, RecipeError, WeightError
from onnxquant.training import Schedule

BATCHES = [{"x": X[8 * i : 8 * i + 8], "label": torch.arange(8) % 4} for i in range(8)]


def cross_entropy(outputs, batch):
    return torch.nn.functional.cross_entropy(outputs["y"], batch["label"])


def test_a_loss_falls_and_the_file_has_what_was_learned(tmp_path):
    module = training.prepare(network(), format="tq2_0", updates_statistics=True)
    stages, figures = [], {}
    schedule = Schedule(start_step=4, bits={0: 8, 8: 4, 16: 2}, freeze_step=32)
    history = training.train(
        module, BATCHES, cross_entropy, steps=40, rate=3e-3, max_norm=10, schedule=schedule,
        watch=figures.__setitem__, watch_every=20, progress=lambda stage, done: stages.append((stage, done)),
    )  # fmt: skip
    assert history.steps == len(history.losses) == 40
    assert history.seconds > 0
    assert np.mean(history.losses[-8:]) < np.mean(history.losses[:8])
    assert [done for _, done in stages] == [i / 40 for i in range(40)]
    assert stages[-1][0] == f"training: loss {history.losses[-1]:.3g}"
    assert sorted(figures) == [20, 40]
    assert [entry.name for entry in figures[20]] == ["first", "second", "head"]
    assert not module.training
    assert all(q.is_on and q.refined == q.bits for q in module.student.weights.values())
    assert training.export(module, tmp_path / "x.onnx", samples={"x": X}).difference < 0.06


def test_a_time_that_is_over_first_ends_training_and_rounds_as_the_file_does():
    module = training.prepare(network(), format="int4")
    schedule = Schedule(start_step=10**6, bits={0: 8, 10**7: 4})
    history = training.train(module, BATCHES, cross_entropy, seconds=0.05, schedule=schedule)
    assert 0 < history.steps < 10**4
    assert all(q.is_on and q.refined == q.bits for q in module.student.weights.values())


@pytest.mark.parametrize(("rates", "moves"), [((1e-3, 0.0), (True, False)), ((0.0, 1e-3), (False, True))])
def test_weights_and_quantizers_have_rates_of_their_own(rates, moves):
    module = training.prepare(network(), format="int4")
    before = {id(e.values): e.values.detach().clone() for e in module.learned()}
    training.train(module, BATCHES, cross_entropy, steps=2, rate=rates[0], quantizer_rate=rates[1])
    for of_quantizer, moved in zip((False, True), moves, strict=True):
        entries = [e for e in module.learned() if e.of_quantizer == of_quantizer]
        assert any(not torch.equal(e.values, before[id(e.values)]) for e in entries) == moved


def test_gradients_beyond_the_norm_are_scaled(monkeypatch):
    norms, step = [], training.UnitAdam.step

    def noted(self, *rates):
        norms.append(float(torch.stack([p.grad.norm() for p in self.parameters if p.grad is not None]).norm()))
        step(self, *rates)

    monkeypatch.setattr(training.UnitAdam, "step", noted)
    module = training.prepare(network(), format="int4")
    training.train(module, BATCHES, lambda o, b: 1e4 * cross_entropy(o, b), steps=2, max_norm=0.5)
    assert norms == pytest.approx([0.5, 0.5], rel=1e-3)


def test_a_loss_that_is_no_number_ends_with_step_and_node():
    module, losses = training.prepare(network(), format="int4"), []

    def broken(outputs, batch):
        losses.append(cross_entropy(outputs, batch))
        if len(losses) == 3:
            with torch.no_grad():
                module.student.module.constant("second").fill_(torch.nan)
            return cross_entropy(module(x=batch["x"]), batch)
        return losses[-1]

    with pytest.raises(WeightError, match=r"not finite at step 2, first at node 'second' \(Conv\)"):
        training.train(module, BATCHES, broken, steps=9)


@pytest.mark.parametrize(
    ("error", "words", "batches", "loss", "options"),
    [
        (RecipeError, "neither steps nor seconds", BATCHES, cross_entropy, {}),
        (RecipeError, "expected numbers above 0", BATCHES, cross_entropy, {"steps": 0}),
        (RecipeError, "at step 5, of 5 steps", BATCHES, cross_entropy, {"steps": 5, "schedule": Schedule(bits={0: 8, 5: 4})}),
        (RecipeError, "gives float", BATCHES, lambda o, b: 1.0, {"steps": 2}),
        (RecipeError, r"a tensor \[8, 32\]", BATCHES, lambda o, b: o["y"], {"steps": 2}),
        (FeedError, "there are none", [], cross_entropy, {"steps": 2}),
        (FeedError, "over after 1 steps", iter(BATCHES[:1]), cross_entropy, {"steps": 2}),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(error, words, batches, loss, options):
    with pytest.raises(error, match=words):
        training.train(training.prepare(network(), format="int4"), batches, loss, **options)


def test_the_penalty_is_the_noise_of_rounding_and_draws_weights_to_their_grid():
    module = training.prepare(network(), format="int4")
    expected, inner = [], module.student.module
    for name, quantizer in module.student.weights.items():
        weight, rounded = (side.detach().double().numpy() for side in (inner.constant(name), quantizer(inner.constant(name))))
        expected.append(np.square(weight - rounded).sum() / np.square(weight).sum())
    loss = training.qat_loss(torch.tensor(2.0), module, 0.5)
    assert float(loss.detach()) == pytest.approx(2 + 0.5 * np.mean(expected), rel=1e-5)
    loss.backward()
    first = inner.constant("first")
    rounded = module.student.weights["first"](first).detach()
    assert torch.equal(first.grad.sign(), (first.detach() - rounded).sign())
    assert module.student.weights["first"].step.grad is None


def test_figures_are_those_of_the_rounded_tensors():
    data = {"x": X[:32, None].numpy()}
    module = training.prepare(network(), activations="static", data=data, time="0.1s")
    figures = {entry.name: entry for entry in module.statistics({"x": X})}
    values, entry = X.double().numpy(), figures["x"]
    codes = np.clip(np.rint(values / entry.scale) + entry.zero_point, 0, 255)
    error = (codes - entry.zero_point) * entry.scale - values
    assert entry.format == "uint8"
    assert entry.error_db == pytest.approx(10 * np.log10(np.square(values).sum() / np.square(error).sum()), abs=0.01)
    assert module.statistics()[-1].error_db is None

    module = training.prepare(network(), format="int4")
    weight = module.student.module.constant("second")
    rounded = module.student.weights["second"](weight).detach().double().numpy()
    weight = weight.detach().double().numpy()
    error_db = 10 * np.log10(np.square(weight).sum() / np.square(weight - rounded).sum())
    entry = next(entry for entry in module.statistics() if entry.name == "second")
    assert (entry.format, entry.zero_point, entry.low, entry.high) == ("int4", None, weight.min(), weight.max())
    assert entry.error_db == pytest.approx(error_db, abs=0.01)
    grid = module.student.weights["second"].encoded
    assert entry.scale == pytest.approx(np.abs(grid.format.grid(grid).step).mean(), rel=1e-5)
    module.follow(Schedule(start_step=1, bits={0: 16, 1: 4}), 0)
    assert next(e for e in module.statistics() if e.name == "second") == entry  # as the file has it
