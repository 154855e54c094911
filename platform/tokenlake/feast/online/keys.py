"""Entity keys in Feast's serialization (version 3), for columns and for single entities."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.protos.feast.types.Value_pb2 import ValueType as WireType
from feast.value_type import ValueType

from tokenlake.errors import SchemaError
from tokenlake.feast.online import wire
from tokenlake.feast.online.encode import as_bytes
from tokenlake.reading.arrays import decoded

_SECONDS = pa.timestamp("s", tz="UTC")
_LONG = struct.Struct("<IIq")
_U32 = struct.Struct("<I")
_NOBODY = {DUMMY_ENTITY_ID: ValueProto(string_val=DUMMY_ENTITY_VAL)}
_KEY_TYPES: dict[ValueType, tuple[pa.DataType, int]] = {
    ValueType.INT64: (pa.int64(), WireType.INT64),
    ValueType.INT32: (pa.int32(), WireType.INT32),
    ValueType.UNIX_TIMESTAMP: (pa.int64(), WireType.UNIX_TIMESTAMP),
    ValueType.STRING: (pa.large_binary(), WireType.STRING),
    ValueType.BYTES: (pa.large_binary(), WireType.BYTES),
}


def of_columns(columns: Mapping[str, pa.Array], types: Mapping[str, ValueType]) -> pa.LargeBinaryArray:
    """Entity keys, as Feast serializes them (version 3).

    Args:
        columns: join key -> (n,) values.
        types: join key -> type of the entity.

    Raises:
        SchemaError: a null, or a type that Feast's keys do not support.
    """
    names = sorted(types)
    head = _head(tuple(names))
    whole: pa.LargeBinaryArray | None = None
    for name in names:
        kind, code = _key_type(name, types[name])
        payload = _key_payload(name, columns[name], kind)
        part = wire.prefixed(payload, _key_prefix(head, code))
        whole = part if whole is None else pc.binary_join_element_wise(whole, part, pa.scalar(b"", part.type))
        head = b""
    if whole is None:
        raise SchemaError("a feature view without join keys was given; expected at least Feast's own dummy entity")
    return whole


def _key_prefix(head: bytes, code: int) -> Callable[[int], bytes]:
    return lambda length: head + _U32.pack(code) + _U32.pack(length)


def _key_type(name: str, kind: ValueType) -> tuple[pa.DataType, int]:
    if kind not in _KEY_TYPES:
        known = ", ".join(sorted(k.name for k in _KEY_TYPES))
        raise SchemaError(f"join key {name!r} is of type {kind.name}; Feast's keys are one of {known}")
    return _KEY_TYPES[kind]


def _key_payload(name: str, column: pa.Array, kind: pa.DataType) -> pa.LargeBinaryArray:
    if column.null_count:
        raise SchemaError(f"join key {name!r}: {column.null_count} nulls given; every row needs its entity")
    column = decoded(column)
    if pa.types.is_timestamp(column.type):
        column = column.cast(_SECONDS, safe=False)
    try:
        return as_bytes(column.cast(kind) if column.type != kind else column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"join key {name!r}: {column.type} given, which is no {kind} ({error})") from error


def of_entity(entity: Mapping[str, ValueProto], version: int) -> bytes:
    """The key of one entity, given as join key -> value; keys of a single integer have a fast path.

    An empty mapping is the key of a view without entities: Feast omits its dummy join key when rows are pushed.
    """
    entity = entity or _NOBODY
    if len(entity) == 1 and version == 3:
        ((name, value),) = entity.items()
        if value.WhichOneof("val") == "int64_val":
            return _head((name,)) + _LONG.pack(WireType.INT64, 8, value.int64_val)
    key = EntityKeyProto(join_keys=entity.keys(), entity_values=entity.values())
    serialized: bytes = serialize_entity_key(key, entity_key_serialization_version=version)
    return serialized


@cache
def _head(names: tuple[str, ...]) -> bytes:
    """The serialized join key names, which precede the values."""
    head = _U32.pack(len(names))
    for name in names:
        encoded = name.encode()
        head += _U32.pack(WireType.STRING) + _U32.pack(len(encoded)) + encoded
    return head
