"""Reads the tensors of a TensorFlow checkpoint ("tensor bundle", V2) without TensorFlow.

The ``.index`` file is a sorted string table in the LevelDB format: data blocks of prefix-compressed keys, an
index block that points at them, and a footer. Each value is a ``BundleEntryProto`` that says where in the
``.data`` shard the tensor's bytes lie. Bundles are written without block compression, so that is all it takes,
and nobody has to install half a gigabyte for one conversion.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3_core.errors import ModelError

FOOTER_SIZE = 48
MAGIC = 0xDB4775248B80FB57
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    19: np.dtype("<f2"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: its type, shape, shard number, and its bytes within the shard."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


class Checkpoint:
    """The tensors of a checkpoint, by name, mapped into memory when asked for.

    ``prefix`` is the path without ``.index``. Raises ModelError when the index is not a tensor bundle.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        index = prefix.with_name(prefix.name + ".index")
        try:
            table = dict(_read_table(index.read_bytes()))
            header = _message(table.pop(b""))
            self._shards = int(_first(header, 1, 1))
            self.entries = {key.decode(): _entry(value) for key, value in table.items()}
        except (OSError, IndexError, KeyError, ValueError, struct.error) as error:
            raise ModelError(f"{index} is not a readable TensorFlow checkpoint index: {error}") from error

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """The tensor called ``name``; raises ModelError when it is missing or its shard is cut short."""
        entry = self.entries.get(name)
        if entry is None:
            raise ModelError(f"the checkpoint {self._prefix} holds no tensor {name!r}")
        if entry.dtype not in DTYPES:
            raise ModelError(f"tensor {name!r} has TensorFlow type {entry.dtype}, which is not read here")
        shard = f"{self._prefix.name}.data-{entry.shard:05d}-of-{self._shards:05d}"
        path = self._prefix.with_name(shard)
        dtype = DTYPES[entry.dtype]
        if int(np.prod(entry.shape)) * dtype.itemsize != entry.size:
            raise ModelError(
                f"tensor {name!r}: {entry.size} bytes do not hold a {dtype} of shape {entry.shape}"
            )
        try:
            tensor: npt.NDArray[Any] = np.memmap(
                path, dtype=dtype, mode="r", offset=entry.offset, shape=entry.shape
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read tensor {name!r} from {path}: {error}") from error
        return tensor


def _read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values of a LevelDB table."""
    if len(data) < FOOTER_SIZE or struct.unpack_from("<Q", data, len(data) - 8)[0] != MAGIC:
        raise ValueError("the table's footer is missing")
    footer = data[-FOOTER_SIZE:]
    _, position = _handle(footer, 0)  # the metaindex block: empty in bundles
    index, _ = _handle(footer, position)
    for _, value in _read_block(data, *index):
        block, _ = _handle(value, 0)
        yield from _read_block(data, *block)


def _read_block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    if data[offset + size] != 0:
        raise ValueError("the table is compressed")
    block = data[offset : offset + size]
    (restarts,) = struct.unpack_from("<I", block, size - 4)
    end = size - 4 * (restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _message(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a protocol buffers message as (number, value), undecoded below the first level."""
    fields: list[tuple[int, int | bytes]] = []
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            number, position = _varint(data, position)
            fields.append((tag >> 3, number))
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        fields.append((tag >> 3, data[position : position + length]))
        position += length
    return fields


def _first(fields: list[tuple[int, int | bytes]], number: int, default: int) -> int:
    return next((value for field, value in fields if field == number and isinstance(value, int)), default)


def _entry(data: bytes) -> Entry:
    fields = _message(data)
    shape = next((value for field, value in fields if field == 2 and isinstance(value, bytes)), b"")
    dims = [value for field, value in _message(shape) if field == 2 and isinstance(value, bytes)]
    return Entry(
        dtype=_first(fields, 1, 0),
        shape=tuple(_first(_message(dim), 1, 0) for dim in dims),
        shard=_first(fields, 3, 0),
        offset=_first(fields, 4, 0),
        size=_first(fields, 5, 0),
    )
