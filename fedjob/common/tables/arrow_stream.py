"""Tables as Arrow IPC streams, read within limits: a peer's stream takes no more memory than its bytes suggest.

Arrow's own reader unpacks compressed buffers, lets columns share bytes, and has types whose length costs nothing until
they become Python's objects (nulls, runs, views, dictionaries). So a stream is looked over before it is read: whether
it is compressed stands in the metadata of each message, a flatbuffer
(https://github.com/apache/arrow/blob/main/format/Message.fbs), and the memory that its columns will take follows from
their types and lengths.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import DecodeError, MissingPackage

if TYPE_CHECKING:
    import pyarrow

MAX_TABLE_BYTES = 192 << 20
"""The most memory that a table of a peer may take, as estimated."""

MAX_COLUMNS = 100_000
_OBJECT_BYTES = 80
"""What a text, a number or a list takes as an object of Python, its place in an array included."""

_HEADER, _RECORD_BATCH, _DICTIONARY_BATCH = 2, 3, 2
_OF_DICTIONARY, _COMPRESSION = 1, 3
"""Places of fields in their flatbuffers' tables: `Message.header`, and those of the batches."""


def read_table(data: bytes) -> pyarrow.Table:
    """Return the table in a peer's Arrow IPC stream.

    Raises:
        DecodeError: it is compressed, of a type that no table of fedjob has, or would take too much memory.
        MissingPackage: pyarrow is not installed.
        pyarrow.ArrowException, struct.error: it is no such stream.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingPackage("tables need pyarrow and pandas: pip install 'fedjob[researcher]'") from error
    if not isinstance(data, bytes):
        raise DecodeError("a table is an Arrow stream, which is bytes")
    for message in pyarrow.ipc.MessageReader.open_stream(data):
        if message.type != "schema" and _is_compressed(message.type, message.metadata.to_pybytes()):
            raise DecodeError(
                "the table is compressed: fedjob sends tables as they are, so that their size is known"
            )
    table = pyarrow.ipc.open_stream(data).read_all()
    if table.num_columns > MAX_COLUMNS:
        raise DecodeError(f"a table has {table.num_columns} columns, at most {MAX_COLUMNS}")
    for field in table.schema:
        _check_type(field.type, outermost=True)
    _check_memory(table, len(data))
    table.validate(full=True)  # checks a peer's offsets and lengths before they are used
    return _without_words(table)


def _is_compressed(kind: str, metadata: bytes) -> bool:
    """Return whether the metadata of a batch name a compression."""
    root = struct.unpack_from("<I", metadata, 0)[0]
    header = _table_at(metadata, root, _HEADER)
    if header is None:
        raise DecodeError("a message of an Arrow stream has no header")
    if kind == "dictionary":
        header = _table_at(metadata, header, _OF_DICTIONARY)
        if header is None:
            raise DecodeError("a dictionary of an Arrow stream has no data")
    elif kind != "record batch":
        raise DecodeError(f"an Arrow stream of a table holds no {kind[:40]}")
    return _table_at(metadata, header, _COMPRESSION) is not None


def _table_at(buffer: bytes, table: int, field: int) -> int | None:
    """Return where the table begins that a field of a flatbuffer's table refers to; None where it is not set."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    if vtable < 0:
        raise DecodeError("the metadata of an Arrow stream are damaged")
    place = 4 + 2 * field
    if place + 2 > struct.unpack_from("<H", buffer, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", buffer, vtable + place)[0]
    if not offset:
        return None
    at = table + offset
    return int(at + struct.unpack_from("<I", buffer, at)[0])


def _check_type(kind: Any, *, outermost: bool = False) -> None:
    """Refuse the types that stand for more than their bytes: runs, views, unions, extensions, dictionaries inside."""
    from pyarrow import types

    if types.is_dictionary(kind) and outermost:
        _check_type(kind.value_type)
        return
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    nested = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_struct, types.is_map)
    plain = (
        types.is_null,
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_decimal,
        types.is_temporal,
        types.is_string,
        types.is_large_string,
        types.is_binary,
        types.is_large_binary,
        types.is_fixed_size_binary,
    )
    if not any(fits(kind) for fits in (nested if inner else plain)):
        raise DecodeError(f"a column of a table is of {str(kind)[:80]}, which no table of fedjob is")
    for one in inner:
        _check_type(one)


def _check_memory(table: pyarrow.Table, num_bytes: int) -> None:
    """Refuse a table whose columns share bytes, or are longer than their bytes can be."""
    shared = table.nbytes
    if shared > num_bytes + 8 * table.num_columns:
        raise DecodeError(
            f"a table of {num_bytes} bytes says that its columns have {shared}: they share bytes, which "
            "no table of fedjob does"
        )
    needed = shared + sum(_object_bytes(chunk) for column in table.columns for chunk in column.chunks)
    if needed > MAX_TABLE_BYTES:
        raise DecodeError(
            f"a table would take {needed >> 20} MB of memory here, at most {MAX_TABLE_BYTES >> 20}: send numbers as "
            "arrays, texts as categories, or fewer rows"
        )


def _object_bytes(array: Any) -> int:
    """Return what the objects take that an array becomes; 0 for one that pandas takes as it is."""
    from pyarrow import types

    kind, count = array.type, len(array)
    if types.is_dictionary(kind):
        return _object_bytes(array.dictionary) + 8 * count
    if types.is_map(kind):
        return (
            _OBJECT_BYTES * count
            + _object_bytes(array.keys)
            + _object_bytes(array.items)
            + len(array.keys) * 80
        )
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = array.values
        return 2 * _OBJECT_BYTES * count + _OBJECT_BYTES * len(inner) + _object_bytes(inner)
    if types.is_struct(kind):
        fields = (array.field(place) for place in range(kind.num_fields))
        return 3 * _OBJECT_BYTES * count + sum(_object_bytes(one) + _OBJECT_BYTES * count for one in fields)
    light = (types.is_floating, types.is_string, types.is_large_string, types.is_timestamp, types.is_duration)
    if any(fits(kind) for fits in light) or (types.is_integer(kind) and not array.null_count):
        return 8 * count
    return _OBJECT_BYTES * count


def _without_words(table: pyarrow.Table) -> pyarrow.Table:
    """Return a table with those words of pandas only that name the columns' dtypes.

    Words about an index would make one of any length, and those about a column's type may name an extension.
    """
    words = (table.schema.metadata or {}).get(b"pandas")
    fields = [field.remove_metadata() for field in table.schema]
    import pyarrow

    plain = pyarrow.schema(fields)
    if words is not None:
        found = json.loads(words)
        if not isinstance(found, dict) or found.get("index_columns") not in ([], None):
            raise DecodeError("a table of fedjob has no index of its own")
        kept = {
            key: found[key]
            for key in ("index_columns", "column_indexes", "columns", "pandas_version")
            if key in found
        }
        plain = plain.with_metadata({b"pandas": json.dumps(kept).encode()})
    return table.cast(plain) if plain != table.schema else table.replace_schema_metadata(plain.metadata)
