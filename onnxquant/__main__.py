"""``python -m onnxquant``."""

from onnxquant.cli import main

main()
