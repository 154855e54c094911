"""Predicates of Arrow types that ignore the memory layout (large, view, dictionary, ...)."""

from __future__ import annotations

import pyarrow as pa


def is_string(kind: pa.DataType) -> bool:
    """Whether values are text, in any layout."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, in any layout."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or is_list_view(kind)
    )


def is_list_view(kind: pa.DataType) -> bool:
    """Whether values are list views, whose lists may overlap."""
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether values are integers, floats, decimals or booleans."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values: without dictionaries, runs and views, inside lists and structs too.

    >>> plain(pa.list_(pa.dictionary(pa.int8(), pa.string_view())))
    ListType(list<item: string>)
    """
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(plain(kind.value_type))
    if is_list_view(kind) or (is_list(kind) and plain(kind.value_type) != kind.value_type):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain(field.type)) for field in kind])
    return kind
