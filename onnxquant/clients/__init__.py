"""Clients: the programs that run a file, and what each of them can run.

A client is an entry of ``clients.toml``; the kernels of onnxruntime's releases are in ``onnxruntime.json``, which
``scripts/write_client_tables.py`` writes. Rooms above ``graph`` may import this one.
"""

from onnxquant.clients.client import Client, Source, client_named, clients, release_clients
from onnxquant.clients.forms import Form
from onnxquant.clients.sizes import Shapes, Size, size_of
from onnxquant.clients.suitability import Suitability, Support, check, slow_reason

__all__ = [
    "Client",
    "Form",
    "Shapes",
    "Size",
    "Source",
    "Suitability",
    "Support",
    "check",
    "client_named",
    "clients",
    "release_clients",
    "size_of",
    "slow_reason",
]
