"""Containers: the kinds of file that hold tensors; one module each, and the registry finds them."""
