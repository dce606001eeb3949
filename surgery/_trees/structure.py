"""The containers of a tree, apart from its leaves, and how a tree is built again.

Nested plain dicts follow from the paths alone, so they cost nothing to
remember. A `Structure` records the exceptions: every node that is another
container, that has no children, or whose names are joined in one key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn, Protocol, runtime_checkable

from surgery._errors import PathError, Problem, StructureError, SurgeryError, raise_problems
from surgery._paths.path import text_of
from surgery._trees.gc import without_gc
from surgery._types import Key, Leaf, Missing, Path, Tree

Family = Literal["mapping", "sequence", "fields", "box"]

BOX: Key = ("box",)  # the one key of a box; it never becomes part of a path


class NodeKind(Protocol):
    """How one type of container opens into children and closes again.

    Attributes:
        name: for messages, such as `"FrozenDict"`.
        family: `"mapping"` (keys may come and go), `"sequence"` (keys are 0..n-1),
            `"fields"` (a fixed set of keys), `"box"` (metadata around one child,
            transparent to paths).
    """

    name: str
    family: Family

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        """Return `(aux, children)`: all that is not a child, and the children by key."""
        ...

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        """Build the container again. Children may be any objects, holes and labels too."""
        ...


@runtime_checkable
class NamedBox(NodeKind, Protocol):
    """The kind of a box that names the axes of the array in it."""

    def axis_names(self, aux: Any) -> tuple[Any, ...] | None:
        """Return a name or None per axis, or None where this box names none."""
        ...

    def with_axis_names(self, aux: Any, names: tuple[Any, ...]) -> Any:
        """Return the aux of an equal box with other names."""
        ...


class Attributed(NodeKind, Protocol):
    """The kind of a mapping that may hide attributes beside its items, as torch does with `_metadata`."""

    def attributes(self, aux: Any) -> dict[str, Any]:
        """Return the attributes that belong to the content; they follow it, and count in comparisons."""
        ...

    def with_attributes(self, aux: Any, attributes: dict[str, Any]) -> Any:
        """Return the aux of an equal mapping with other attributes."""
        ...


class Node(NamedTuple):
    """One recorded container.

    Attributes:
        kind: opens and closes it.
        aux: what `kind.open` returned beside the children.
        keys: the keys of the children in order, the childless ones included.
        sep: the separator when the keys are joined names, else None.
    """

    kind: NodeKind
    aux: Any
    keys: tuple[Key, ...]
    sep: str | None = None


class Structure(dict[Path, tuple[Node, ...]]):
    """The recorded containers of one tree by path; of several at one path, outermost first."""

    __slots__ = ()

    @property
    def sep(self) -> str:
        """The separator in which this tree's paths are shown: `.` for joined torch names, else `/`."""
        root = self.get((), ())
        return next((node.sep for node in root if node.sep), "/")

    def add(self, path: Path, node: Node) -> None:
        """Record `node` at `path`, inside any that is there."""
        self[path] = (*self.get(path, ()), node)

    def childless(self) -> dict[Path, Node]:
        """The nodes without children (None, empty containers, holes), which no leaf stands for."""
        return {path: nodes[-1] for path, nodes in self.items() if is_childless(nodes[-1])}


def attributes_of(kind: NodeKind, aux: Any) -> dict[str, Any]:
    """Return what a mapping hides beside its items; nothing for other containers."""
    found = getattr(kind, "attributes", None)
    return found(aux) if found is not None else {}


def is_childless(node: Node) -> bool:
    """Whether nothing lies under this node."""
    return not node.keys


def same_aux(a: Any, b: Any) -> bool:
    """Whether two containers are equal in all that is not a child; what cannot be compared is not."""
    try:
        return a is b or bool(a == b)
    except Exception:
        return False


def build(
    leaves: Mapping[Path, Leaf],
    structure: Structure,
    *,
    verb: str,
    holes: bool = False,
) -> Tree:
    """Build the tree that holds `leaves` in the containers of `structure`.

    Prefixes that `structure` does not record become dicts. A recorded node that
    had children and has none left is left out.

    Args:
        leaves: path -> leaf, in order.
        structure: the containers.
        verb: the caller, for messages.
        holes: put `Missing()` where a sequence or a node with fixed fields lost
            a child; otherwise that is an error.

    Raises:
        PathError: a path is both a leaf and a container.
        StructureError: a container cannot hold the keys that are left to it.
    """
    joined = {path: nodes[-1] for path, nodes in structure.items() if nodes[-1].sep}
    records: Mapping[Path, tuple[Node, ...]] = structure
    if joined:
        leaves, records = _store_joined(leaves, structure, joined, verb)
    root = nest(leaves, verb)
    if not records:
        return root
    top: dict[Key, Tree] = {BOX: root} if leaves else {}
    for path in sorted(records, key=len, reverse=True):
        _close_at(top, path, records[path], verb, holes)
    return top.get(BOX, {})


@without_gc
def nest(leaves: Mapping[Path, Leaf], verb: str) -> Tree:
    """Nest path -> leaf into plain dicts.

    Neighbours share their parent, so it is looked up only when it changes. A leaf
    that stands where a container must be, or the other way round, is an error
    before anything is written into it.
    """
    if dict in set(map(type, leaves.values())):
        return _nest_containers(leaves, verb)
    root: dict[Key, Tree] = {}
    last: Path | None = None
    node: Any = root
    try:
        for path, leaf in leaves.items():
            parent = path[:-1]
            if parent != last:
                node = root
                for key in parent:
                    if key in node:
                        node = node[key]
                    else:
                        if type(node) is not dict:
                            _refuse_paths(leaves, verb)
                        child: dict[Key, Tree] = {}
                        node[key] = node = child
                if type(node) is not dict:
                    _refuse_paths(leaves, verb)
                last = parent
            key = path[-1]
            if key in node:
                _refuse_paths(leaves, verb)
            node[key] = leaf
    except (TypeError, IndexError):
        if () in leaves and len(leaves) == 1:
            return leaves[()]
        _refuse_paths(leaves, verb)
    return root


def _nest_containers(leaves: Mapping[Path, Leaf], verb: str) -> Tree:
    """Nest where some leaves are dicts themselves, which must not be taken for nodes."""
    boxed = {path: (leaf,) if type(leaf) is dict else leaf for path, leaf in leaves.items()}
    root = nest(boxed, verb)
    for path, leaf in leaves.items():
        if type(leaf) is dict:
            if not path:
                return leaf
            node = root
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = leaf
    return root


def _store_joined(
    leaves: Mapping[Path, Leaf], structure: Structure, joined: Mapping[Path, Node], verb: str
) -> tuple[dict[Path, Leaf], dict[Path, tuple[Node, ...]]]:
    """Rewrite the paths under joined nodes to the one key that each has there."""
    lengths = sorted({len(path) for path in joined})

    def store(path: Path) -> Path:
        prefix = next((path[:n] for n in lengths if path[:n] in joined and len(path) > n), None)
        if prefix is None:
            return path
        return (*prefix, join_name(path[len(prefix) :], joined[prefix].sep or ".", verb))

    for prefix in joined:
        _check_prefixes([path for path in leaves if path[: len(prefix)] == prefix], leaves, verb)
    return (
        {store(path): leaf for path, leaf in leaves.items()},
        {store(path): nodes for path, nodes in structure.items()},
    )


def join_name(keys: Path, sep: str, verb: str) -> str:
    """Join keys to one name, refusing what would be split elsewhere when it is read back."""
    parts = [str(key) if type(key) is int else key for key in keys]
    for key in parts:
        if not isinstance(key, str) or sep in key:
            raise PathError(
                f"the key {key!r} cannot be part of a name joined by '{sep}'",
                verb=verb,
                path=text_of(keys),
                hint="rename it, or read the mapping with joined=False",
            )
    return sep.join(parts)  # type: ignore[arg-type]


def _check_prefixes(paths: Iterable[Path], leaves: Mapping[Path, Leaf], verb: str) -> None:
    seen: set[Path] = set()
    for path in paths:
        parent = path[:-1]
        while parent not in seen:
            if parent in leaves:
                _refuse_conflict(parent, leaves, verb)
            seen.add(parent)
            if not parent:
                break
            parent = parent[:-1]


def check_tuples(paths: Iterable[Any], verb: str) -> None:
    """Raise a PathError for the first key that is no path tuple: a text would be taken letter by letter."""
    if {*map(type, paths)} <= {tuple}:
        return
    for path in paths:
        if not isinstance(path, tuple):
            raise PathError(
                "keys must be path tuples",
                verb=verb,
                found=repr(path),
                hint="('a', 'b') for a/b; for text keys give their separator: sep='/'",
            )


def _refuse_paths(leaves: Mapping[Path, Leaf], verb: str) -> NoReturn:
    """Say why these paths cannot be nested."""
    _check_prefixes(leaves, leaves, verb)
    raise PathError("these paths cannot be nested", verb=verb)


def _refuse_conflict(path: Path, leaves: Mapping[Path, Leaf], verb: str) -> NoReturn:
    below = next((other for other in leaves if len(other) > len(path) and other[: len(path)] == path), path)
    raise PathError(
        "one place is both a leaf and a container",
        verb=verb,
        path=text_of(path),
        expected="either a leaf or what lies under it",
        found=f"'{text_of(path)}' and '{text_of(below)}'",
        hint="rename one of the two",
    )


def _close_at(top: dict[Key, Tree], path: Path, nodes: tuple[Node, ...], verb: str, holes: bool) -> None:
    parent, key = _parent_of(top, path, create=is_childless(nodes[-1]))
    if parent is None:
        return
    for node in reversed(nodes):
        if node.kind.family == "box":
            if key not in parent:
                return
            parent[key] = close_box(node.kind, node.aux, parent[key], path, verb)
            continue
        inside = parent.get(key)
        if key in parent and not isinstance(inside, dict):
            continue  # a leaf stands where this node was: None, or a container that is empty now
        children: dict[Key, Tree] = inside if isinstance(inside, dict) and key in parent else {}
        if not children and not is_childless(node) and path:
            return  # every child is gone, and the node with them
        parent[key] = _close(node, children, path, verb, holes)


def close_box(kind: NodeKind, aux: Any, child: Tree, path: Path, verb: str) -> Tree:
    """Put a child into a box, which may refuse it: an error of the box's own gets the place's name.

    Raises:
        SurgeryError: as the box raises it.
    """
    try:
        return kind.close(aux, {BOX: child})
    except SurgeryError as error:
        first = error.problems[0]
        raise type(error)(
            first.message,
            verb=verb,
            path=text_of(path),
            expected=first.expected,
            found=first.found,
            hint=first.hint,
        ) from None


def _parent_of(top: dict[Key, Tree], path: Path, *, create: bool) -> tuple[dict[Key, Tree] | None, Key]:
    """Return the dict and key that hold the node at `path`, or (None, key) where nothing is left."""
    if not path:
        return top, BOX
    current = top.setdefault(BOX, {}) if create else top.get(BOX, {})
    for key in path[:-1]:
        if key not in current:
            if not create:
                return None, key
            current[key] = {}
        current = current[key]
    if not create and path[-1] not in current:
        return None, path[-1]
    return current, path[-1]


def _close(node: Node, children: dict[Key, Tree], path: Path, verb: str, holes: bool) -> Tree:
    if len(children) == len(node.keys) and all(map(children.__contains__, node.keys)):
        ordered = {key: children[key] for key in node.keys}
    elif node.kind.family == "mapping":
        ordered = {key: children[key] for key in node.keys if key in children}
        ordered.update(children)
    else:
        ordered = _refit(node, children, path, verb, holes)
    return node.kind.close(node.aux, ordered)


def _refit(node: Node, children: dict[Key, Tree], path: Path, verb: str, holes: bool) -> dict[Key, Tree]:
    """Fit changed children into a sequence or into fixed fields."""
    keys: list[Key] = list(node.keys)
    if node.kind.family == "sequence":
        numbers = [key for key in children if type(key) is int and key >= 0]
        length = max([*numbers, len(keys) - 1 if holes else -1]) + 1
        keys = list(range(length))
    lost = [key for key in keys if key not in children]
    places = set(keys)
    extra = [key for key in children if key not in places]
    if extra or (lost and not holes):
        shown = ", ".join(text_of((key,)) for key in (extra or lost))
        raise_problems(
            verb,
            [
                Problem(
                    f"a {node.kind.name} cannot {'take' if extra else 'lose'} {shown}",
                    text_of(path),
                    expected=f"the keys {[*keys]}" if keys else "no keys",
                    found=f"{[*children]}",
                    hint="drop(tree, where) leaves Missing() in its place; or turn the container into a dict first",
                    error=StructureError,
                )
            ],
        )
    return {key: children.get(key, Missing()) for key in keys}
