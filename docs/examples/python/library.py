"""Classify a digit on our kernels: python library.py MODEL.onnx IMAGE.pgm."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

import onnxquant

pixels = Path(sys.argv[2]).read_bytes()[-28 * 28 :]  # a binary PGM ends with its pixels
image = np.frombuffer(pixels, np.uint8).reshape(1, 1, 28, 28).astype(np.float32) / 255

session = onnxquant.load(sys.argv[1], intra_op_num_threads=1)
(logits,) = session.run(None, {"image": image})

# The same by hand, for code that makes its own sessions.
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.register_custom_ops_library(str(onnxquant.library_path()))
session = ort.InferenceSession(sys.argv[1], options)
(again,) = session.run(None, {"image": image})

if not np.array_equal(logits, again):
    sys.exit("the two sessions differ")
print(json.dumps({"class": int(logits.argmax()), "logits": logits[0].tolist()}))
