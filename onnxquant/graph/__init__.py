"""The ONNX graph: loading, sites, edits and atomic writing. The only package that touches protobufs."""
