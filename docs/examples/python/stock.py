"""Classify a digit with onnxruntime alone: python stock.py MODEL.onnx IMAGE.pgm."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

pixels = Path(sys.argv[2]).read_bytes()[-28 * 28 :]  # a binary PGM ends with its pixels
image = np.frombuffer(pixels, np.uint8).reshape(1, 1, 28, 28).astype(np.float32) / 255

session = ort.InferenceSession(sys.argv[1])
(logits,) = session.run(None, {"image": image})

print(json.dumps({"class": int(logits.argmax()), "logits": logits[0].tolist()}))
