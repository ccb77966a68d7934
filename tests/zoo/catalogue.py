"""The generated models: networks, each with the habits and opsets that it is tried in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from zoo import audio, text, vision
from zoo.habits import HABITS
from zoo.net import Case, Input, Net, constant

NETWORKS = {**vision.NETWORKS, **text.NETWORKS, **audio.NETWORKS}
NEWEST = min(onnx.defs.onnx_opset_version(), 26)


@dataclass(frozen=True)
class Model:
    """A generated model.

    Attributes:
        network: name of the network.
        habit: name of the change that is made afterwards.
        opset: opset of its nodes.
        is_open: whether batch and lengths are open.
        computes_shapes: whether reshapes compute their shapes.
        width: channels.
    """

    network: str
    habit: str = "plain"
    opset: int = 17
    is_open: bool = True
    computes_shapes: bool = False
    width: int = 32

    @property
    def name(self) -> str:
        """Name in tables."""
        parts = [self.network, self.habit, "" if self.is_open else "fixed", "shapes" if self.computes_shapes else ""]
        return "-".join([p for p in parts if p and p != "plain"] + ([f"opset{self.opset}"] if self.opset != 17 else []))

    def build(self) -> Case:
        """The model and its inputs."""
        net = Net(self.opset, self.is_open, self.computes_shapes, self.width)
        NETWORKS[self.network](net)
        proto = HABITS[self.habit](net.model())
        inputs = dict(net.inputs)
        if self.habit == "branch":
            inputs["flag"] = Input((1,), "bool", constant(True, "bool"))
        if self.habit == "float16":
            inputs = {n: _halved(i) for n, i in inputs.items()}
        return Case(proto, inputs)


def _halved(entry: Input) -> Input:
    if entry.dtype != "float32":
        return entry
    return Input(entry.shape, "float16", lambda random, shape: np.asarray(entry.draw(random, shape), np.float16))


# Habits and opsets beside each network's plain form, so that each kind of network meets those that exporters use for it.
_VARIANTS: dict[str, str] = {
    "cnn": "fixed constants graph_inputs graph_inputs_ir3 9 11 13 float16 unnamed",
    "resnet": "fixed identity float16_storage functions 9 15 shapes",
    "mobilenet_v2": "fixed constants bfloat16_storage 9 newest",
    "mobilenet_v3": "fixed 11 functions",
    "efficientnet": "fixed 13 graph_inputs",
    "resnext": "identity 21",
    "shufflenet": "fixed constants",
    "densenet": "fixed newest",
    "unet_resize": "fixed 9 10 11 functions",
    "unet_elu": "fixed float16_storage",
    "unet_hard_swish": "fixed 13",
    "super_resolution": "11 identity",
    "autoencoder": "fixed 12",
    "style": "fixed 9",
    "detector": "fixed constants 13 simplified_outputs",
    "detector_nms": "fixed 11",
    "keras": "fixed 9 13 constants",
    "vit": "fixed shapes computed identity 13 newest functions float16_storage float16",
    "swin": "fixed 13 float16_storage",
    "mixer": "fixed transposed",
    "segformer": "fixed computed",
    "siamese": "fixed identity",
    "weight_norm": "fixed 11",
    "volume": "fixed",
    "captioner": "computed",
    "bert": "fixed computed identity transposed functions 11 13 20 newest bfloat16_storage graph_inputs branch unnamed",
    "tied_lm": "fixed identity float16_storage constants newest",
    "decoder": "computed identity float16 21",
    "merged_decoder": "13 fixed",
    "translator": "computed 14",
    "text_cnn": "fixed 10",
    "tagger": "fixed identity",
    "experts": "13",
    "routed": "13",
    "heads": "fixed identity",
    "wide_and_deep": "constants 9",
    "mlp": "fixed 9 branch functions transposed graph_inputs newest",
    "mlp_leaky": "identity",
    "graph_network": "identity 16",
    "einsum": "fixed 12",
    "lora": "fixed 21",
    "lstm": "fixed constants 11 float16_storage",
    "gru": "identity 14",
    "unrolled_lstm": "fixed identity constants",
    "unrolled_gru": "transposed",
    "vad": "fixed branch 15",
    "transcriber": "fixed constants",
    "tcn": "fixed 11",
    "conformer": "fixed computed 13",
    "denoiser": "fixed",
    "vocoder": "fixed float16_storage",
    "speech_synthesis": "constants 11",
    "loop": "identity 13",
    "scan": "11",
}


def _variant(network: str, word: str, width: int) -> Model:
    plain = Model(network, width=width)
    if word == "fixed":
        return replace(plain, is_open=False)
    if word == "computed":
        return replace(plain, computes_shapes=True)
    if word == "newest":
        return replace(plain, opset=NEWEST)
    if word.isdigit():
        return replace(plain, opset=int(word))
    return replace(plain, habit=word)


def models(width: int = 32) -> list[Model]:
    """All of them."""
    out = []
    for network, words in _VARIANTS.items():
        out += [_variant(network, word, width) for word in ["plain", *words.split()]]
    return out
