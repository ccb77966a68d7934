"""What releases of onnxruntime can run: kernels, operators, and limits of attributes, as the releases themselves say."""
