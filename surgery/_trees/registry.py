"""Who knows this type? Containers, arrays and formats, found without importing anything.

In order: the type itself, cached; then the adapters of the libraries that are
already imported; then, by name only, an entry point. A name of the entry-point
group `surgery.adapters` is a root module: its adapter is asked about a type
only when that module has been imported by somebody else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from surgery._arrays.backend import Backend
from surgery._errors import AdapterError, nearest
from surgery._trees.flat import Flat
from surgery._trees.nodes import BUILT_IN, kind_by_shape
from surgery._trees.structure import NodeKind
from surgery._types import Leaf, Missing, Move, Path, TensorSpec, Tree

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

API = 1  # raised when an adapter written for an older core would misbehave


class Adapter:
    """What one framework teaches the core. Subclass it and name the instance in an entry point.

    Every method has a default that says "not mine".

    Attributes:
        name: the adapter, such as `"flax"`.
        api: the core's `API` that the adapter was written for.
        install: the command that installs it.
        targets: the names that `realize` may be given for it.
    """

    name: str = ""
    api: int = API
    install: str = ""
    targets: tuple[str, ...] = ()

    def kind(self, node: Any, /) -> NodeKind | None:
        """Return how containers of this node's class open and close, or None for "not mine, or a leaf"."""
        return None

    def backend(self, leaf: Leaf, /) -> Backend | None:
        """Return the backend of leaves of this leaf's class."""
        return None

    def target(self, name: str, /) -> Backend:
        """Return the backend that makes leaves for one of `targets`."""
        raise NotImplementedError

    def finish(self, tree: Tree, target: str, /) -> Tree:
        """Return a converted tree in the containers that one of `targets` is used with."""
        return tree

    def read(self, obj: Any, /) -> Tree | None:
        """Return a module's parameters and buffers as a tree, or None if `obj` is no module."""
        return None

    def editable(self, obj: Any, /) -> str | None:
        """For a module: the expression that gives the tree to edit instead of it."""
        return None

    def slots(self, opt_state: Any, params: Flat, /) -> Any:
        """Return an optimizer state as `surgery.Slots`, or None if it is not this adapter's."""
        return None

    def training(self, source: Any, names: Sequence[str] | None, /) -> Any:
        """Return what is in a training loop's objects as `surgery.extend.Parts`, or None."""
        return None

    def write_training(self, state: Any, module: Any, optimizer: Any, /) -> None:
        """Write a training state into live objects, in place."""
        raise NotImplementedError

    def is_optimizer_state(self, tree: Any, /) -> bool:
        """Whether a tree is an optimizer state, whose moments no op on raw paths may change."""
        return False

    def move_attribute(self, name: str, value: Any, moves: Sequence[Move], before: Sequence[Path], /) -> Any:
        """Return what an attribute hidden on a mapping becomes when leaves in it move.

        A torch state_dict keeps `_metadata` by module path there. `moves` are old and
        new paths inside the mapping; `before` are all old ones, so those that are in no
        move were dropped, or joined with another. NotImplemented says "not mine".
        """
        return NotImplemented


_PYTHON_LEAVES = frozenset({bool, int, float, complex, str, bytes})
LEAF_TYPES: set[type] = {*_PYTHON_LEAVES}  # types known to be leaves
OBJECT_LEAVES: set[type] = {*_PYTHON_LEAVES}  # those of them that are tied only if they are one object
_CORE_ROOTS = frozenset({"builtins", "numpy", "surgery"})
_kinds: dict[type, NodeKind] = dict(BUILT_IN)
_backends: dict[type, Backend | None] = {}
_registered: list[Adapter] = []
_loaded: dict[str, Adapter] = {}  # by entry-point value
_entries: dict[str, EntryPoint] | None = None


def kind_of(node: Tree) -> NodeKind | None:
    """Return how this container opens and closes, or None if it is a leaf."""
    cls = type(node)
    if cls in LEAF_TYPES:
        return None
    kind = _kinds.get(cls)
    if kind is None:
        kind = _find_kind(node)
        if kind is None and getattr(cls, "__surgery_report__", False):
            return None  # never a known leaf: the walk looks at each one, and refuses it
        if kind is None:
            LEAF_TYPES.add(cls)
            backend = _backends.get(cls) or _own_backend(cls)
            if backend is None or backend.ties_by_object:
                OBJECT_LEAVES.add(cls)
        else:
            _kinds[cls] = kind
    return kind


def is_hole(node: Tree) -> bool:
    """Whether this is a hole: ours, or the one that optax puts where a transform is masked."""
    cls = type(node)
    return cls is Missing or (cls.__name__ == "MaskedNode" and cls.__module__.partition(".")[0] == "optax")


def _find_kind(node: Tree) -> NodeKind | None:
    cls = type(node)
    if _own_backend(cls) is not None:
        return None
    for one in _adapters_for(cls):  # before the backends: a box may look like the array that it holds
        kind = one.kind(node)
        if kind is not None:
            return kind
    return None if _find_backend(node) is not None else kind_by_shape(cls)


def backend_of(leaf: Leaf) -> Backend:
    """Return the backend of an array leaf.

    Raises:
        AdapterError: the leaf is no array that an installed adapter knows.
    """
    backend = find_backend(leaf)
    if backend is None:
        cls = type(leaf)
        raise AdapterError(
            f"no adapter knows arrays of type {cls.__module__}.{cls.__qualname__}",
            hint="known: numpy" + "".join(f", {name}" for name in sorted({*_read_entries()})),
        )
    return backend


def find_backend(leaf: Leaf) -> Backend | None:
    """Return the backend of a leaf, or None for what is no array (text, functions, ...)."""
    cls = type(leaf)
    try:
        return _backends[cls]
    except KeyError:
        return _find_backend(leaf)


def _find_backend(leaf: Leaf) -> Backend | None:
    cls = type(leaf)
    backend = _own_backend(cls) or next(
        (found for one in _adapters_for(cls) if (found := one.backend(leaf))), None
    )
    _backends[cls] = backend
    return backend


def _own_backend(cls: type) -> Backend | None:
    """The backends of the core, each imported only for a leaf that needs it."""
    if issubclass(cls, TensorSpec):
        from surgery._arrays.abstract import ABSTRACT

        return ABSTRACT
    if hasattr(cls, "__surgery_lazy__"):
        from surgery._ops.lazy import LAZY

        return LAZY
    if cls in (bool, int, float, complex) or "numpy" in _roots(cls):
        from surgery._arrays.numpy import NUMPY

        return NUMPY if NUMPY.owns(cls) else None
    return None


def is_array(leaf: Leaf) -> bool:
    """Whether a leaf is an array of a known library; Python numbers are none, though numpy would take them.

    The leaf is not asked for its shape: a torch parameter without one yet raises then.
    """
    return type(leaf) not in (bool, int, float, complex) and find_backend(leaf) is not None


def spec_of(leaf: Leaf) -> TensorSpec:
    """Return shape and dtype of any leaf; for what is no array, `()` and the name of its type."""
    backend = find_backend(leaf)
    if backend is None:
        return TensorSpec((), type(leaf).__name__)
    return backend.spec(leaf)


def adapter(name: str) -> Adapter:
    """Return the adapter that answers to `name`: its own name, a root module, or a target.

    Raises:
        AdapterError: nobody answers; the message lists who would.
    """
    for one in [*_registered, *_loaded.values()]:
        if name == one.name or name in one.targets:
            return one
    entries = _read_entries()
    if name in entries:
        return _load(entries[name])
    for entry in entries.values():  # a target such as "linen" is known to its adapter only
        try:
            one = _load(entry)
        except ImportError:
            continue
        if name == one.name or name in one.targets:
            return one
    known = sorted({*entries, *(one.name for one in _registered)})
    raise AdapterError(
        f"no adapter is called '{name}'", hint=nearest(name, known) or f"known: {', '.join(known)}"
    )


def register(one: Adapter) -> None:
    """Add an adapter by hand; a package does it with an entry point instead.

    Raises:
        AdapterError: it was written for another version of this interface.
    """
    _check(one)
    _registered.append(one)
    _forget()


def unregister(one: Adapter) -> None:
    """Take back what `register` added."""
    _registered.remove(one)
    _forget()


def adapters_in_use() -> Iterator[Adapter]:
    """The adapters registered by hand, and those of the libraries that are already imported."""
    yield from _registered
    seen: set[str] = set()
    for root, entry in _read_entries().items():
        if entry.value not in seen and _is_imported(root):
            seen.add(entry.value)
            yield _load(entry)


def move_attributes(
    attributes: dict[str, Any], moves: Sequence[Move], before: Sequence[Path]
) -> dict[str, Any]:
    """Return the attributes of a mapping after its leaves moved, as far as an adapter knows them."""
    out = {}
    for name, value in attributes.items():
        found = (one.move_attribute(name, value, moves, before) for one in adapters_in_use())
        out[name] = next((new for new in found if new is not NotImplemented), value)
    return out


def _adapters_for(cls: type) -> Sequence[Adapter]:
    roots = _roots(cls)
    if roots <= _CORE_ROOTS:
        return (
            _registered  # our own types: to look for installed adapters would take longer than to list a file
        )
    entries = _read_entries()
    first = [_load(entries[root]) for root in entries if root in roots and _is_imported(root)]
    return [*first, *(one for one in adapters_in_use() if one not in first)]


def _roots(cls: type) -> set[str]:
    return {base.__module__.partition(".")[0] for base in cls.__mro__ if base is not object}


def _is_imported(root: str) -> bool:
    """Whether a library is imported, and not by another thread at this moment."""
    module = sys.modules.get(root)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _read_entries() -> dict[str, EntryPoint]:
    global _entries
    if _entries is None:
        from importlib.metadata import entry_points  # a third of the time that the command takes to start

        _entries = {entry.name: entry for entry in entry_points(group="surgery.adapters")}
    return _entries


def _load(entry: EntryPoint) -> Adapter:
    one = _loaded.get(entry.value)
    if one is None:
        one = entry.load()
        _check(one)
        _loaded[entry.value] = one
        _forget()
    return one


def _check(one: Adapter) -> None:
    if one.api != API:
        raise AdapterError(
            f"the adapter '{one.name}' was written for another version of this package",
            expected=f"api {API}",
            found=f"api {one.api}",
            hint=one.install or "install versions of the two that fit",
        )


def _forget() -> None:
    """Forget cached answers: a new adapter may claim types that were leaves before."""
    LEAF_TYPES.intersection_update(_PYTHON_LEAVES)
    OBJECT_LEAVES.intersection_update(_PYTHON_LEAVES)
    _kinds.clear()
    _kinds.update(BUILT_IN)
    _backends.clear()
