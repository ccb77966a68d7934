"""The size that a model will have, before it is written."""

from __future__ import annotations

import onnx

from onnxquant.graph.data_files import STORED, DataFiles, Places, is_stored, relocate, stored_tensors
from onnxquant.graph.external import refer
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import Make
from onnxquant.graph.seal import note_hash, seal
from onnxquant.graph.traverse import graphs, tensors
from onnxquant.graph.wire import varint


class SizeCounter:
    """A sink that counts the bytes that a Publisher would write.

    Args:
        data: names of the data files; None: tensors go into the model.
    """

    def __init__(self, data: DataFiles | None = None) -> None:
        self.data = data
        self._places = Places(data)
        self.hashes: dict[str, str] = {}

    def store(self, tensor: onnx.TensorProto, nbytes: int, make: Make | None) -> None:
        """Count the bytes, and give the tensor a reference as long as the real one."""
        note_hash(self.hashes, tensor.name, "0" * 64)
        place = self._places.take(tensor.name, nbytes)
        refer(tensor, f"{STORED}{place.file}", place.offset, nbytes)

    def keep(self, proto: onnx.ModelProto, source: Document) -> None:
        """Count the tensors of ``source`` that nothing has replaced, as ``Publisher.keep`` stores them."""
        for graph in graphs(proto.graph):
            for tensor in graph.initializer:
                if not is_stored(tensor) and (raw := source.referenced(tensor)) is not None:
                    self.store(tensor, len(raw), None)
        for tensor in tensors(proto):
            if not is_stored(tensor):
                source.inline(tensor)

    def total(self, proto: onnx.ModelProto) -> int:
        """Bytes of the model and its data files once ``proto`` is published; ``proto``, a copy made for this, is changed."""
        seal(proto, self.hashes)
        size = sum(self._places.ends)
        if self.data is not None:
            relocate(proto, {f"{STORED}{i}": self.data.name(i) for i in range(len(self._places.ends))})
            return int(proto.ByteSize()) + size
        for tensor in stored_tensors(proto):
            stored = int(tensor.external_data[2].value)
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            field = 1 + len(varint(stored))  # its tag and length
            size += field + _longer_length(tensor.ByteSize(), field + stored)
        return int(proto.ByteSize()) + size + _longer_length(proto.graph.ByteSize(), size)


def _longer_length(nbytes: int, more: int) -> int:
    """Bytes that the length of a message takes more where it has ``more`` bytes."""
    return len(varint(nbytes + more)) - len(varint(nbytes))
