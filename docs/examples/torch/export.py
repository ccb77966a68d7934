"""A PyTorch module, exported and quantized in memory: python export.py OUTPUT.onnx (needs torch and onnxscript)."""

import sys

import torch
from torch import nn

import onnxquant


class Classifier(nn.Module):
    """Two convolutions and two products, of random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [batch, 10] of images [batch, 1, 28, 28]."""
        return self.head(self.features(image))


torch.manual_seed(0)
module, images = Classifier().eval(), torch.rand(8, 1, 28, 28)
program = torch.onnx.export(
    module,
    (images,),
    input_names=["image"],
    output_names=["logits"],
    dynamic_shapes=({0: torch.export.Dim("batch")},),
    dynamo=True,
    verbose=False,
)
model = program.model_proto

feeds = [{"image": image[None].numpy()} for image in images]
report = onnxquant.quantize(model, sys.argv[1], format="q4_0", data=feeds, force=True)
print(f"{report.original_bytes} -> {report.output_bytes} bytes, proven: {report.passed}")

# The file against the exported model once more, and against the module itself.
assert onnxquant.validate(model, sys.argv[1], feeds).passed
(logits,) = onnxquant.load(sys.argv[1]).run(None, {"image": images.numpy()})
with torch.no_grad():
    expected = module(images).numpy()
print(f"largest error beside the module: {abs(logits - expected).max() / abs(expected).max():.1%} of the largest logit")
