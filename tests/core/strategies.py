"""Random trees of every container that the core knows, shared by the property tests."""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

import surgery as sg


class Label(enum.Enum):
    """A key that is neither str nor int, as optax labels may be."""

    FROZEN = "frozen"
    TRAIN = 1


class Pair(NamedTuple):
    """A namedtuple, as optax states are."""

    left: Any
    right: Any


class Nothing(NamedTuple):
    """A namedtuple without fields, as optax's EmptyState; equal to every empty tuple."""


class Named(dict[Any, Any]):
    """A dict subclass that carries something of its own."""

    origin: str = ""


class Stack(list[Any]):
    """A list subclass that carries something of its own."""

    origin: str = ""


class Span(tuple[Any, ...]):
    """A tuple subclass."""


class ReadOnly(Mapping[Any, Any]):
    """A mapping that is no dict, as FrozenDict and haiku's FlatMapping are."""

    def __init__(self, items: Mapping[Any, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: Any) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


@dataclasses.dataclass
class Plain:
    """A dataclass."""

    weight: Any
    bias: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A frozen dataclass that would refuse to be initialised with a leaf of another type."""

    weight: Any
    bias: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.weight, sg.Missing):
            raise TypeError("a check that must not run again")


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    """A frozen dataclass with slots."""

    weight: Any
    bias: Any = None


@dataclasses.dataclass
class Empty:
    """A dataclass without fields."""


def _named(cls: type, items: Any, origin: str) -> Any:
    out = cls(items)
    out.origin = origin
    return out


def _ordered(items: Mapping[Any, Any], attribute: bool) -> Any:
    out = OrderedDict(items)
    if attribute:
        out._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    return out


ODD_KEYS = [
    *(
        "",
        ".",
        "/",
        "\\",
        "[",
        "[0]",
        "0",
        "1",
        "01",
        "-1",
        '"',
        '""',
        "<",
        "<a>",
        "a<b",
        "*",
        "**",
        "{",
        "}",
    ),
    *("{i}", "{a|b}", "?", "a?", "\\?", "re:", "re:.*", "a.b", "a/b", "a\\.b", "mlp/~/linear_0", ".hidden"),
    *("a b", "é", "层", "\n", "\x00", "🦊", "w", "b", "a", "kernel", "layer_1", "layer_10", "_extra_state"),
    *(0, 1, 2, -1, 10, 10**20, True, 2.5, Label.FROZEN, Label.TRAIN, ("a", 0), (), b"bytes"),
]
NAMES = ["w", "b", "a", "kernel", "bias", "enc", "head", "layer_0", "layer_1", "layer_10", "scale"]


def _is_nested(key: Any) -> bool:
    """Whether a key does not make its mapping one of joined names: what reads so depends on its siblings."""
    return not (type(key) is str and ("." in key or "/" in key))


def keys(*, readable: bool = False, joined: bool = True) -> st.SearchStrategy[Any]:
    """Return keys of all sorts.

    Args:
        readable: only str and int, which have a text that reads back.
        joined: also str that holds `.` or `/`.
    """
    odd = [key for key in ODD_KEYS if type(key) in (str, int) or not readable]
    found = st.sampled_from(NAMES) | st.sampled_from(odd) | st.text(max_size=4) | st.integers(-3, 12)
    return found if joined else found.filter(_is_nested)


def paths(*, readable: bool = True) -> st.SearchStrategy[tuple[Any, ...]]:
    """Return paths."""
    return st.lists(keys(readable=readable), max_size=5).map(tuple)


DTYPES: list[Any] = [
    *(np.float32, np.float64, np.float16, np.int8, np.int64, np.uint16, np.bool_, np.complex64),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]
SHAPES = [(), (1,), (0,), (3,), (2, 3), (2, 0), (1, 2, 2)]


def array_of(shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray[Any, Any]:
    """Return an array of random bits; in Fortran order where the seed is odd."""
    size = int(np.prod(shape, dtype=np.int64))
    raw = np.random.default_rng(seed).integers(0, 256, size * np.dtype(dtype).itemsize, np.uint8)
    if np.dtype(dtype) == np.bool_:
        raw &= 1
    out = raw.view(dtype).reshape(shape)
    return np.asfortranarray(out) if seed % 2 and shape else out


def arrays() -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Return arrays of every kind of dtype and shape, with random bits (NaN payloads too)."""
    return st.builds(array_of, st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.integers(0, 99))


def _spec(shape: tuple[int, ...]) -> sg.TensorSpec:
    return sg.TensorSpec(shape, "bfloat16")


def leaves() -> st.SearchStrategy[Any]:
    """Return leaves: arrays, numbers, text, specs, and what no backend knows."""
    plain = st.sampled_from([0, 1.5, True, 1j, "text", "", b"raw", frozenset({1}), np.float32(2.0), len])
    return arrays() | plain | st.builds(_spec, st.sampled_from(SHAPES))


CHILDLESS: list[Callable[[], Any]] = [
    *(dict, OrderedDict, list, tuple, Nothing, Empty, sg.Missing, Named, Stack, Span),
    *(lambda: None, lambda: defaultdict(list), lambda: MappingProxyType({}), lambda: ReadOnly({})),
    *(lambda: _ordered({}, True),),
]


def childless() -> st.SearchStrategy[Any]:
    """Return nodes without children, of every kind."""
    return st.sampled_from(CHILDLESS).map(lambda make: make())


def containers(children: st.SearchStrategy[Any], key: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return every kind of container around some children."""
    mapping = st.dictionaries(key, children, max_size=4)
    sequence = st.lists(children, max_size=3)
    return st.one_of(
        mapping,
        mapping,
        st.builds(_ordered, mapping, st.booleans()),
        mapping.map(lambda items: defaultdict(list, items)),
        mapping.map(MappingProxyType),
        mapping.map(ReadOnly),
        st.builds(_named, st.just(Named), mapping, st.sampled_from(["", "here"])),
        sequence,
        sequence.map(tuple),
        st.builds(_named, st.just(Stack), sequence, st.sampled_from(["", "here"])),
        sequence.map(Span),
        st.builds(Pair, children, children),
        st.builds(Plain, children, children),
        st.builds(Frozen, children.filter(lambda child: not isinstance(child, sg.Missing)), children),
        st.builds(Slotted, children, children),
    )


def trees(
    leaf: st.SearchStrategy[Any] | None = None,
    *,
    readable: bool = False,
    joined: bool = True,
    max_leaves: int = 10,
) -> st.SearchStrategy[Any]:
    """Return trees: any container in any other, empty ones at every level, or a bare leaf."""
    ends = (leaves() if leaf is None else leaf) | childless()
    inner = keys(readable=readable, joined=joined)
    return st.recursive(ends, lambda children: containers(children, inner), max_leaves=max_leaves)


def mappings(leaf: st.SearchStrategy[Any] | None = None, *, max_leaves: int = 10) -> st.SearchStrategy[Any]:
    """Return nested plain dicts with readable keys and at least one leaf: what rules work on."""
    ends = arrays() if leaf is None else leaf
    plain = st.sampled_from(NAMES)
    inner = st.recursive(
        ends, lambda node: st.dictionaries(plain, node, min_size=1, max_size=4), max_leaves=max_leaves
    )
    return st.dictionaries(plain, inner, min_size=1, max_size=4)


def is_same(a: Any, b: Any) -> bool:
    """Whether two trees have equal container types, attributes and key order, and the same leaf objects.

    Written without the package, so that it can judge it.
    """
    if type(a) is not type(b):
        return False
    if isinstance(a, (dict, Mapping)):
        pairs = list(zip(a.items(), b.items(), strict=False))
        extra = (vars(a) if hasattr(a, "__dict__") else {}) if isinstance(a, dict) else {}
        return (
            len(a) == len(b)
            and getattr(a, "default_factory", None) is getattr(b, "default_factory", None)
            and extra == (vars(b) if extra else {})
            and all(one == two and type(one) is type(two) and is_same(x, y) for (one, x), (two, y) in pairs)
        )
    if isinstance(a, (list, tuple)):
        extra = getattr(a, "__dict__", {})
        return len(a) == len(b) and extra == getattr(b, "__dict__", {}) and all(map(is_same, a, b))
    if dataclasses.is_dataclass(a) and not isinstance(a, sg.TensorSpec):
        return all(is_same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    return a is b


def count_leaves(tree: Any) -> int:
    """Count the leaves of a tree without the package."""
    if tree is None or isinstance(tree, sg.Missing):
        return 0
    if isinstance(tree, sg.TensorSpec):
        return 1
    if isinstance(tree, (dict, Mapping)):
        return sum(count_leaves(child) for child in tree.values())
    if isinstance(tree, (list, tuple)):
        return sum(map(count_leaves, tree))
    if dataclasses.is_dataclass(tree):
        return sum(count_leaves(getattr(tree, field.name)) for field in dataclasses.fields(tree))
    return 1
