"""Names that our files carry: the domain of our operators and the keys of our metadata entries."""

# The domain of our operators and of the functions that stand for them.
DOMAIN = "onnxquant"
# The domain of onnxruntime's own operators.
MICROSOFT = "com.microsoft"

# Entries of a model: what became of its weights, what it was made of, and the hashes of its tensors.
PROVENANCE = "onnxquant"
ORIGIN = "onnxquant.origin"
HASHES = "onnxquant.sha256"

# Entries of a node: the weight it was made for, and the operator of a node that rounds an activation.
SITE = "onnxquant.site"
ACTIVATION = "onnxquant.activation"
