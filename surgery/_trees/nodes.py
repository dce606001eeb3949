"""The containers that Python itself brings: how each opens and closes.

Adapters add theirs through the registry. Anything that is not a container here
or there is a leaf.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from surgery._errors import StructureError
from surgery._trees.structure import Family, NodeKind
from surgery._types import Key, Missing, Tree


class _Dict:
    """A plain dict."""

    name = "dict"
    family: Family = "mapping"

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        return None, node

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        return children


class _OrderedDict:
    """An OrderedDict with its instance attributes: a torch state_dict hides `_metadata` there."""

    name = "OrderedDict"
    family: Family = "mapping"

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        return dict(vars(node)) or None, dict(node)

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        out: OrderedDict[Key, Tree] = OrderedDict(children)
        if aux:
            vars(out).update(aux)
        return out

    def attributes(self, aux: Any) -> dict[str, Any]:
        return aux or {}

    def with_attributes(self, aux: Any, attributes: dict[str, Any]) -> Any:
        return attributes or None


class _DefaultDict:
    """A defaultdict with its factory."""

    name = "defaultdict"
    family: Family = "mapping"

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        return node.default_factory, dict(node)

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        return defaultdict(aux, children)


class _MappingProxy:
    """A read-only view; the view of a new dict takes its place."""

    name = "mappingproxy"
    family: Family = "mapping"

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        return None, dict(node)

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        return MappingProxyType(children)


class _DictSubclass:
    """Any other subclass of dict: an emptied copy carries its attributes, then takes the children."""

    family: Family = "mapping"

    def __init__(self, cls: type) -> None:
        self.name = getattr(cls, "__surgery_kind__", cls.__name__)
        self.beside: tuple[str, ...] = getattr(
            cls, "__surgery_beside__", ()
        )  # attributes that say nothing of it

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        shell = copy.copy(node)
        shell.clear()
        return shell, dict(node)

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        out = copy.copy(aux)
        out.update(children)
        return out

    def attributes(self, aux: Any) -> dict[str, Any]:
        held = getattr(aux, "__dict__", {})
        return {name: value for name, value in held.items() if name not in self.beside}

    def with_attributes(self, aux: Any, attributes: dict[str, Any]) -> Any:
        out = copy.copy(aux)
        for name, value in attributes.items():
            setattr(out, name, value)
        return out


class _Mapping:
    """Any other mapping: its class is called with a dict.

    A shallow copy could not be emptied here: it may share its storage with the original.
    """

    family: Family = "mapping"

    def __init__(self, cls: type) -> None:
        self.name = cls.__name__
        self.cls = cls

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        return None, {key: node[key] for key in node}

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        try:
            return self.cls(children)
        except TypeError as error:
            raise StructureError(
                f"a {self.name} cannot be built again from a dict ({error})",
                hint="turn it into a dict first, or register a node kind for it in an adapter",
            ) from error


class _Sequence:
    """A list, a tuple, or a subclass of one that is built from an iterable."""

    family: Family = "sequence"

    def __init__(self, cls: type) -> None:
        self.name = cls.__name__
        self.cls = cls

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        return dict(getattr(node, "__dict__", ())) or None, dict(enumerate(node))

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        out = self.cls(children.values())
        if aux:
            vars(out).update(aux)
        return out


class _NamedTuple:
    """A namedtuple class; the field names are the keys."""

    family: Family = "fields"

    def __init__(self, cls: Any) -> None:
        self.name = cls.__name__
        self.cls = cls

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        return None, dict(zip(self.cls._fields, node, strict=True))

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        return self.cls._make(children.values())


class _Dataclass:
    """A dataclass; fields are set on a bare copy, so that no `__init__` or check runs again."""

    family: Family = "fields"

    def __init__(self, cls: Any) -> None:
        self.name = cls.__name__
        self.cls = cls
        self.fields = [field.name for field in dataclasses.fields(cls)]

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        present: dict[Key, Tree] = {name: getattr(node, name) for name in self.fields if hasattr(node, name)}
        beside = {key: value for key, value in getattr(node, "__dict__", {}).items() if key not in present}
        return beside or None, present

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        out = object.__new__(self.cls)
        for name, value in {**(aux or {}), **children}.items():
            object.__setattr__(out, str(name), value)
        return out


class _Nothing:
    """None or a hole: a node without children that stands for itself."""

    family: Family = "fields"

    def __init__(self, node: Any) -> None:
        self.name = type(node).__name__
        self.node = node

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        return None, {}

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        return self.node


DICT: NodeKind = _Dict()
MISSING: NodeKind = _Nothing(Missing())

BUILT_IN: dict[type, NodeKind] = {
    dict: DICT,
    OrderedDict: _OrderedDict(),
    defaultdict: _DefaultDict(),
    MappingProxyType: _MappingProxy(),
    list: _Sequence(list),
    tuple: _Sequence(tuple),
    type(None): _Nothing(None),
    Missing: MISSING,
}


def kind_by_shape(cls: type) -> NodeKind | None:
    """Return the kind of a container class that nobody registered, or None for a leaf."""
    if hasattr(cls, "shape") and hasattr(cls, "dtype"):
        return None  # whatever else it may be, it is an array
    if issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_make"):
        return _NamedTuple(cls)
    if issubclass(cls, (list, tuple)):
        return _Sequence(cls)
    if issubclass(cls, dict):
        return _DictSubclass(cls)
    if issubclass(cls, Mapping):
        return _Mapping(cls)
    if dataclasses.is_dataclass(cls):
        return _Dataclass(cls)
    return None
