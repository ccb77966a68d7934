"""Channels leave a graph with all that belongs to them: what is left computes what the graph does without their columns."""

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import node, weight
from onnx import numpy_helper

import onnxquant
from onnxquant.errors import ModelError
from onnxquant.graph.io import load
from onnxquant.inspect.validate import validate
from onnxquant.passes.pipeline import prepare
from onnxquant.pruning.channels import Channels
from onnxquant.pruning.labels import Part
from onnxquant.pruning.removal import labels_of, least, leaving, place_of, remove

IMAGE = {"x": ("float32", ["batch", 4, 8, 8])}


def scaled(*shape, seed):
    return weight(*shape, seed=seed) * 5


def chain(*nodes, **constants):
    """A convolution before the nodes, which read `a` [batch, 12, 8, 8], and one behind them, which reads `z`."""
    first = {"w0": scaled(12, 4, 3, 3, seed=1), "b0": scaled(12, seed=2)}
    return graphs.model(
        [node("Conv", ["x", "w0", "b0"], ["a0"], pads=[1] * 4), node("Relu", ["a0"], ["a"]), *nodes],
        IMAGE, {"y": "float32"}, {**first, **constants}, opset=18,
    )  # fmt: skip


def ends(channels=12):
    return {"w9": scaled(5, channels, 1, 1, seed=9)}


END = node("Conv", ["z", "w9"], ["y"])


def residual():
    return chain(
        node("Conv", ["a", "w1"], ["c"], pads=[1] * 4), node("BatchNormalization", ["c", "s", "h", "m", "v"], ["d"]),
        node("Add", ["d", "a"], ["e"]), node("Sigmoid", ["e"], ["z"]), END,
        w1=scaled(12, 12, 3, 3, seed=3), s=scaled(12, seed=4) + 1, h=scaled(12, seed=5), m=scaled(12, seed=6),
        v=np.square(scaled(12, seed=7)) + 0.5, **ends(),
    )  # fmt: skip


def depthwise():
    return chain(
        node("Conv", ["a", "w1", "b1"], ["c"], pads=[1] * 4, group=12), node("Clip", ["c", "low", "high"], ["z"]), END,
        w1=scaled(24, 1, 3, 3, seed=3), b1=scaled(24, seed=4), low=np.float32(-1), high=np.float32(1), **ends(24),
    )  # fmt: skip


def grouped():
    return chain(
        node("Conv", ["a", "w1"], ["c"], group=3), node("Conv", ["c", "w2"], ["z"]), END, w1=scaled(12, 4, 1, 1, seed=3),
        w2=scaled(12, 12, 1, 1, seed=4), **ends(),
    )  # fmt: skip


def concat_split():
    return chain(
        node("Split", ["a", "sizes"], ["p", "q"], axis=1), node("Conv", ["q", "w1"], ["c"]), node("Add", ["q", "c"], ["r"]),
        node("Concat", ["p", "q", "r"], ["z"], axis=1), END,
        sizes=np.array([4, 8]), w1=scaled(8, 8, 1, 1, seed=3), **ends(20),
    )  # fmt: skip


def equal_split():
    return chain(
        node("Split", ["a"], ["p", "q"], axis=1, num_outputs=2), node("Mul", ["p", "q"], ["z"]), END, **ends(6)
    )


def squeeze_excite():
    return chain(
        node("GlobalAveragePool", ["a"], ["g"]), node("Conv", ["g", "w1", "b1"], ["h"]), node("Relu", ["h"], ["i"]),
        node("Conv", ["i", "w2", "b2"], ["j"]), node("HardSigmoid", ["j"], ["k"]), node("Mul", ["a", "k"], ["z"]), END,
        w1=scaled(6, 12, 1, 1, seed=3), b1=scaled(6, seed=4), w2=scaled(12, 6, 1, 1, seed=5), b2=scaled(12, seed=6), **ends(),
    )  # fmt: skip


def shared():
    """Two convolutions of one weight, one behind the other: its rows and its columns are the same channels."""
    return chain(
        node("Conv", ["a", "w1"], ["c"]), node("Relu", ["c"], ["d"]), node("Conv", ["d", "w1"], ["z"]), END,
        w1=scaled(12, 12, 1, 1, seed=3), **ends(),
    )  # fmt: skip


def flattened(last="Flatten"):
    shape = {"shape": np.array([-1, 192])} if last == "Reshape" else {}
    return chain(
        node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2]), node(last, ["p", *shape], ["f"]),
        node("Gemm", ["f", "w1", "b1"], ["g"], transB=1), node("LeakyRelu", ["g"], ["h"]), node("Gemm", ["h", "w2"], ["y"]),
        w1=scaled(20, 192, seed=3), b1=scaled(20, seed=4), w2=scaled(20, 7, seed=5), **shape,
    )  # fmt: skip


def reshaped():
    return flattened("Reshape")


def products():
    """The hidden channels of a feed-forward block, between a stream that is normalized."""
    return graphs.model(
        [
            node("MatMul", ["x", "w1"], ["a"]), node("Add", ["b1", "a"], ["b"]), node("Erf", ["b"], ["c"]),
            node("Mul", ["b", "c"], ["d"]), node("Mul", ["d", "half"], ["e"]), node("MatMul", ["e", "w2"], ["f"]),
            node("Add", ["f", "x"], ["g"]), node("LayerNormalization", ["g", "s"], ["y"]),
        ],
        {"x": ("float32", ["batch", 3, 16])}, {"y": "float32"},
        {"w1": scaled(16, 40, seed=1), "b1": scaled(40, seed=2), "w2": scaled(40, 16, seed=3), "s": scaled(16, seed=4),
         "half": np.float32(0.5)},
    )  # fmt: skip


def transposed():
    return chain(
        node("ConvTranspose", ["a", "w1", "b1"], ["c"]), node("Pad", ["c", "pads"], ["d"]),
        node("Transpose", ["d"], ["e"], perm=[0, 2, 3, 1]), node("Softmax", ["e"], ["f"], axis=1),
        node("ReduceMean", ["f", "axes"], ["g"], keepdims=0), node("MatMul", ["g", "w2"], ["y"]),
        w1=scaled(12, 10, 2, 2, seed=3), b1=scaled(10, seed=4), pads=np.array([0, 0, 1, 1, 0, 0, 1, 0]),
        axes=np.array([1, 2]), w2=scaled(10, 3, seed=5),
    )  # fmt: skip


# Model, channels that may leave, and those of all weights.
MODELS = {
    residual: (12, 17), depthwise: (12, 17), grouped: (12, 29), concat_split: (12, 17), equal_split: (6, 11),
    squeeze_excite: (18, 23), shared: (12, 17), flattened: (32, 39), reshaped: (32, 39), products: (40, 56),
    transposed: (22, 25),
}  # fmt: skip


def prepared(proto, tmp_path):
    document = load(graphs.save(proto, tmp_path / "model.onnx"))
    prepare(document)
    return document


def session(document):
    proto = onnx.ModelProto()
    proto.CopyFrom(document.proto)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(document.array(tensor), tensor.name))
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def feed(document):
    shape = [2, *(d.dim_value for d in document.proto.graph.input[0].type.tensor_type.shape.dim[1:])]
    return {"x": graphs.rng(11).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_graph_without_channels_equals_one_whose_readers_of_them_are_zero(make, tmp_path):
    document = prepared(make(), tmp_path)
    channels = Channels(document)
    groups = channels.groups()
    free = [group for group in groups if not group.locked]
    assert (sum(len(g.labels) for g in free), sum(len(g.labels) for g in groups if g.makers)) == MODELS[make]
    going = np.concatenate([least(document, group, channels, 0.4, lambda name: None) for group in free])
    assert len(going) == sum(leaving(len(group.labels), 0.4) for group in free) > 0
    masked, before = document.copy(), sum(t.ByteSize() for t in document.proto.graph.initializer)
    tensors = {t.name: t for t in masked.proto.graph.initializer}
    for cut in channels.cuts:
        if cut.part is Part.READS:
            values = masked.array(tensors[cut.tensor]).copy()
            np.moveaxis(values, cut.axis, 0)[np.isin(channels.roots(cut.labels), going)] = 0
            tensors[cut.tensor].CopyFrom(numpy_helper.from_array(values, cut.tensor))
    remove(document, channels, going)
    expected, ours = (session(d).run(None, feed(document)) for d in (masked, document))
    assert sum(t.ByteSize() for t in document.proto.graph.initializer) < before
    for one, other in zip(expected, ours, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())


def test_whole_vectors_stay_and_no_more_leave_than_asked_for():
    assert [leaving(count, 0.2) for count in (3, 12, 16, 32, 96, 144, 960)] == [0, 2, 0, 0, 16, 16, 192]
    assert leaving(64, 0.5) == 32


@pytest.mark.parametrize("make", [residual, concat_split, flattened, products], ids=lambda make: make.__name__)
def test_places_in_constants_name_the_same_channels_again(make, tmp_path):
    document = prepared(make(), tmp_path)
    channels = Channels(document)
    free = [group for group in channels.groups() if not group.locked]
    going = [least(document, group, channels, 0.4, lambda name: None) for group in free]
    places = [place_of(group, channels, labels) for group, labels in zip(free, going, strict=True)]
    np.testing.assert_array_equal(labels_of(Channels(document), places), np.unique(np.concatenate(going)))


def test_channels_of_least_energy_in_their_readers_are_removed(tmp_path):
    document = prepared(products(), tmp_path)
    channels = Channels(document)
    (group,) = (group for group in channels.groups() if not group.locked)
    inputs = graphs.rng(3).standard_normal((50, 40)) * np.geomspace(0.01, 3, 40)
    energy = np.square(inputs).sum(0)
    going = least(document, group, channels, 0.4, lambda name: np.tile(energy[:, None], 16) if name == "w2" else None)
    second = next(t for t in document.proto.graph.initializer if t.name == "w2")
    loss = [np.square(inputs[:, [c]] @ document.array(second)[[c]].astype(np.float64)).sum() for c in range(40)]
    assert sorted(place_of(group, channels, going).channels) == sorted(np.argsort(loss)[:16].tolist())


def test_an_output_a_nested_graph_and_a_constant_that_others_read_lock_channels(tmp_path):
    proto = chain(node("Relu", ["a"], ["z"]), END, node("Identity", ["w9"], ["copy"]), **ends())
    proto.graph.output.append(onnx.helper.make_tensor_value_info("copy", onnx.TensorProto.FLOAT, None))
    document = load(graphs.save(proto, tmp_path / "model.onnx"))
    reasons = {group.locked for group in Channels(document).groups()}
    assert reasons == {"other nodes read a constant of theirs", "they are an output of the model"}
    branches = dict(zip(("then_branch", "else_branch"), graphs.captures("a", "Relu", "Abs"), strict=True))
    proto = chain(node("If", ["yes"], ["y"], **branches), yes=np.array(True))
    assert {g.locked for g in Channels(prepared(proto, tmp_path)).groups()} == {"a nested graph reads them"}


@pytest.mark.parametrize("way", [{"format": "f32"}, {"format": "int8"}, {"bits": 4, "prune": "channels=0.25"}], ids=str)
def test_files_without_channels_are_proven_and_proven_again(way, tmp_path):
    path, out = graphs.save(residual(), tmp_path / "m.onnx"), tmp_path / "p.onnx"
    report = onnxquant.quantize(path, out, **{"prune": "channels=0.5", **way})
    assert report.problems == []
    part = 3 if "bits" in way else 6
    assert report.pruning.channels == part
    sizes = {t.name: tuple(t.dims) for t in load(out).proto.graph.initializer}
    if way == {"format": "f32"}:
        assert (sizes["w0"], sizes["b0"], sizes["w1"], sizes["s"]) == ((6, 4, 3, 3), (6,), (6, 6, 3, 3), (6,))
        assert report.pruning.after.parameters == sum(int(np.prod(s)) for s in sizes.values())
        assert report.pruning.after.macs == 8 * 8 * (6 * 4 * 9 + 6 * 6 * 9 + 5 * 6)
    again = validate(path, out)
    assert again.problems == []


def test_a_model_whose_channels_all_stay_says_why(tmp_path):
    path = graphs.save(graphs.gemm(), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="nothing to prune: 1 layers whose channels stay: they are an output"):
        onnxquant.quantize(path, tmp_path / "p.onnx", prune="channels=0.5")
