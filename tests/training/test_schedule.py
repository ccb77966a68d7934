"""What is rounded and learned follows the schedule, and the file is right in all cases."""

import numpy as np
import onnx
import pytest
import torch
from normalized import X, network

from onnxquant import training
from onnxquant.errors import RecipeError
from onnxquant.training import Schedule


def learn(module, steps=3, rate=1e-2):
    optimizer = training.UnitAdam(module.learned())
    for i in range(steps):
        module(x=X[8 * i : 8 * i + 8])["y"].square().mean().backward()
        optimizer.step(rate)
        module.constrain()


def quantizer_values(module):
    return [entry.values.detach().clone() for entry in module.learned() if entry.of_quantizer]


def same(before, after):
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


FORMATS = [({"format": "int4"}, 4), ({"format": "tq2_0"}, 2), ({"format": "nf4", "block_size": 32}, 4)]


@pytest.mark.parametrize(("options", "bits"), FORMATS, ids=lambda value: value["format"] if isinstance(value, dict) else "")
def test_finer_grids_divide_the_steps_of_the_own_one(options, bits):
    module = training.prepare(network(), **options)
    schedule = Schedule(bits={0: 16, 1: bits + 3, 2: bits})
    own, errors = module(x=X)["y"].detach(), []
    with module.in_float():
        exact = module(x=X)["y"].detach()
    for step in range(3):
        module.follow(schedule, step)
        errors.append(float((module(x=X)["y"] - exact).square().mean().detach()))
    assert errors[0] < errors[1] < errors[2]
    assert torch.equal(module(x=X)["y"], own)
    module.follow(schedule, 1)
    for weights_name, quantizer in module.student.weights.items():
        grid = quantizer.encoded.format.grid(quantizer.encoded)
        parts, levels = 2 ** (bits + 3 - quantizer.bits), grid.levels.astype(np.float64)
        places = np.arange(0, len(levels) - 1 + 1e-9, 1 / parts)
        finer = np.interp(places, np.arange(len(levels)), levels)
        values = quantizer._groups(quantizer._matrix(module.student.module.constant(weights_name))).detach().numpy()
        step, shift = grid.step[..., None].astype(np.float64), grid.shift[..., None].astype(np.float64)
        table = finer * step[..., None] + shift[..., None]
        expected = quantizer._tensor(torch.from_numpy(np.abs(values[..., None] - table).min(-1)))
        weights = module.student.module.constant(weights_name)
        torch.testing.assert_close((quantizer(weights) - weights).abs().double().detach(), expected, rtol=0, atol=1e-5)


def test_rounding_begins_and_steps_freeze():
    module, schedule = training.prepare(network(), format="int4"), Schedule(start_step=2, freeze_step=4)
    optimizer, before = training.UnitAdam(module.learned()), quantizer_values(module)
    values = {}
    for step in range(6):
        module.follow(schedule, step)
        with torch.no_grad():
            rounds = not torch.equal(module(x=X)["y"], _in_float(module))
        assert rounds == (step >= 2)
        module(x=X)["y"].square().mean().backward()
        optimizer.step(1e-2)
        values[step] = quantizer_values(module)
        weights = module.student.module.constant("first").detach().clone()
    assert same(values[1], before)
    assert not same(values[3], before)
    assert same(values[5], values[3])
    module(x=X)["y"].square().mean().backward()
    optimizer.step(1e-2)
    assert not torch.equal(module.student.module.constant("first"), weights)  # weights learn on
    module.follow(Schedule(), 6)
    module(x=X)["y"].square().mean().backward()
    optimizer.step(1e-2)
    assert not same(quantizer_values(module), values[5])


def _in_float(module):
    with module.in_float():
        return module(x=X)["y"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_step": -1}, "start_step is -1"),
        ({"start_step": 5, "freeze_step": 4}, "before start_step 5"),
        ({"bits": {100: 8}}, "bits begin at step 100"),
        ({"bits": {0: 4, 10: 8}}, "expected fewer bits"),
        ({"bits": {0: 17, 9: 4}}, "17 bits"),
        ({"bits": {0: 8, 9: 4}, "freeze_step": 5}, "last change of bits at step 9"),
    ],
)
def test_schedules_that_contradict_themselves_are_refused(options, words):
    with pytest.raises(RecipeError, match=words):
        Schedule(**options)


def test_a_schedule_that_does_not_reach_the_format_is_refused():
    module = training.prepare(network(), format="int4")
    with pytest.raises(RecipeError, match=r"bits end at 8, weight 'first' has codes of 4 bits"):
        module.follow(Schedule(bits={0: 16, 10: 8}), 0)


@pytest.mark.parametrize("momentum", [None, 0.7])
def test_running_statistics_are_those_of_torch_until_they_freeze(momentum, tmp_path):
    attributes = {} if momentum is None else {"momentum": momentum}
    module = training.prepare(network(**attributes), format="int8", updates_statistics=True)
    theirs = torch.nn.BatchNorm2d(32, momentum=0.1 if momentum is None else 1 - momentum)
    inner = module.student.module
    norm = next(n for n in inner.nodes if n.name == "norm")
    with torch.no_grad():
        for i in range(4):
            batch = X[8 * i : 8 * i + 8]
            output = inner.run({"x": batch}, ["a", "b"])
            torch.testing.assert_close(output["b"], theirs(output["a"]), rtol=1e-4, atol=1e-5)
    for name, expected in zip(norm.inputs[3:], (theirs.running_mean, theirs.running_var), strict=True):
        torch.testing.assert_close(inner.constant(name), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(inner.constant("zero"), torch.zeros(32))  # the bias that was the same constant
    module.follow(Schedule(freeze_step=0), 0)
    with torch.no_grad():
        output = inner.run({"x": X}, ["a", "b"])
    torch.testing.assert_close(inner.constant(norm.inputs[3]), theirs.running_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output["b"], theirs.eval()(output["a"]), rtol=1e-4, atol=1e-5)
    module.follow(Schedule(), 0)
    learn(module)
    exported = training.export(module, tmp_path / "bn.onnx", samples={"x": X})
    assert exported.difference < 0.06
    assert module.training
    written = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "bn.onnx").graph.initializer}
    np.testing.assert_array_equal(written[norm.inputs[3]], inner.constant(norm.inputs[3]).numpy())


@pytest.mark.parametrize("passes", [[], ["fold-batch-norms"]], ids=["as they are", "folded"])
def test_batch_norms_that_do_not_move_stay_or_are_folded(passes, tmp_path):
    module = training.prepare(network(), format="int8", passes=passes)
    learn(module)
    assert training.export(module, tmp_path / "x.onnx", samples={"x": X}).difference < 0.06
    assert any(n.op_type == "BatchNormalization" for n in onnx.load(tmp_path / "x.onnx").graph.node) != bool(passes)


def test_ranges_follow_the_data_until_they_freeze(tmp_path):
    data = {"x": X[:32, None].numpy()}
    module = training.prepare(network(), activations="static", data=data, time="0.1s", range_momentum=0.25)
    ranges = {entry.name: (entry.low, entry.high) for entry in module.statistics() if entry.zero_point is not None}
    low, high = ranges["x"]
    assert not any(entry.of_quantizer for entry in module.learned() if entry.values.numel() == 1)
    for i in range(4):
        batch = X[8 * i : 8 * i + 8] * (1 + i)
        low, high = low + 0.25 * (float(batch.min()) - low), high + 0.25 * (float(batch.max()) - high)
        module(x=batch)
        module.constrain()
    after = {entry.name: entry for entry in module.statistics({"x": X}) if entry.zero_point is not None}
    assert (after["x"].low, after["x"].high) == pytest.approx((low, high), rel=1e-5)
    codes = module.student.ranges["x"].codes
    assert (after["x"].scale, after["x"].zero_point) == pytest.approx(codes.parameters(low, high), rel=1e-5)
    assert after["x"].error_db > 20
    module.follow(Schedule(freeze_step=0), 0)
    module(x=X * 9)
    assert {e.name: (e.low, e.high) for e in module.statistics() if e.zero_point is not None} == {
        name: (entry.low, entry.high) for name, entry in after.items()
    }
    exported = training.export(module, tmp_path / "x.onnx", samples={"x": X * 3})
    assert exported.difference < 0.03
    clipped = [entry for entry in after.values() if entry.low == 0 and entry.high <= 2.51]
    assert clipped  # behind the Clip at 2.5


def test_what_could_not_follow_the_data_is_refused():
    with pytest.raises(RecipeError, match="no BatchNormalization is left"):
        training.prepare(network(), format="int8", passes=["fold-batch-norms"], updates_statistics=True)
    with pytest.raises(RecipeError, match="no ranges of activations"):
        training.prepare(network(), format="int8", range_momentum=0.1)


def test_rules_give_each_layer_its_format(tmp_path):
    recipe = {
        "format": "int4",
        "rules": [{"include": "first", "format": "int8"}, {"include": "head", "keep": True}],
    }
    module = training.prepare(network(), recipe)
    formats = {entry.name: entry.format for entry in module.statistics()}
    assert formats == {"first": "int8", "second": "int4"}
    head = module.student.module.constant("head").detach().clone()
    learn(module)
    assert training.export(module, tmp_path / "x.onnx", samples={"x": X}).difference < 0.06
    assert torch.equal(module.student.module.constant("head"), head)
    written = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "x.onnx").graph.initializer}
    np.testing.assert_array_equal(written["head"], head.numpy())
