"""Strategies that make protobuf messages of any kind, by their descriptors; and what servicers answer to them."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from kadalu_ext import rpc
from kadalu_ext.api import csi_pb2
from kadalu_ext.errors import KadaluExtError

_DEEPEST = 4
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}


def messages(
    kind: type[Message], text: st.SearchStrategy[str], *, only: str = "", depth: int = 0
) -> st.SearchStrategy[Message]:
    """Messages of `kind` with any of its fields, strings from `text`; `only`: with that field and no other."""
    fields = [field for field in kind.DESCRIPTOR.fields if not only or field.name == only]
    if depth >= _DEEPEST:
        fields = [field for field in fields if field.message_type is None]

    def build(values: dict[str, Any]) -> Message:
        message = kind()
        for name, value in values.items():
            if value is not None:
                _put(message, name, value)
        return message

    optional = {field.name: st.none() | _values(field, text, depth) for field in fields}
    return st.fixed_dictionaries(optional).map(build)


def request_type(method: str) -> type[Message]:
    """What a method of CSI takes."""
    found: type[Message] = getattr(csi_pb2, f"{method}Request")
    return found


def answer(servicer: object, method: str, request: Message, context: object) -> tuple[grpc.StatusCode, str]:
    """The code and the words with which the servicer's method ends; what is no error of ours is raised."""
    call: Callable[[Message, object], Message] = getattr(servicer, method)
    try:
        call(request, context)
    except KadaluExtError as error:
        return rpc.code_of(error), str(error)
    return grpc.StatusCode.OK, ""


def check_answer(method: str, code: grpc.StatusCode, words: str, *, allowed: Set[grpc.StatusCode]) -> None:
    """The code is one of those, a wrong argument's message begins with a field of the request, none is endless."""
    assert code in allowed, words
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        field = words.split(":")[0].split(".")[0].split("[")[0]
        assert field in request_type(method).DESCRIPTOR.fields_by_name, words
    assert len(words) < 2000


def _put(message: Message, name: str, value: Any) -> None:
    held = getattr(message, name)
    if isinstance(value, Message):
        held.CopyFrom(value)
        held.SetInParent()
    elif isinstance(value, list):
        held.extend(value)
    elif isinstance(value, dict):
        held.update(value)
    else:
        setattr(message, name, value)


def _values(field: Any, text: st.SearchStrategy[str], depth: int) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return st.dictionaries(text, text, max_size=4)
    one: st.SearchStrategy[Any]
    if kind is not None:
        one = messages(GetMessageClass(kind), text, depth=depth + 1)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        one = st.booleans()
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        known = field.enum_type.values if field.enum_type else []
        one = st.sampled_from([value.number for value in known] + [99])
    elif field.cpp_type in _INTEGERS:
        low, high = _INTEGERS[field.cpp_type]
        one = st.integers(low, high)
    else:
        one = text
    return st.lists(one, max_size=4) if field.is_repeated else one
