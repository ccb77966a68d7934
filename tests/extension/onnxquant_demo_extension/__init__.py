"""A package outside onnxquant that adds one plug-in of each kind: format, target with a layout, solver, observer, pass."""
