"""Containers: the kinds of file that hold tensors, one module each; the registry finds them.

They may import the base of containers and the schemes; ``files`` alone imports them.
"""
