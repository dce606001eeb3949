"""What differs between two trees: places, containers, shapes, dtypes, values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from surgery._arrays.backend import must_be_readable
from surgery._errors import SurgeryError, problem_at, raise_problems
from surgery._paths.path import text_of
from surgery._report import Report, Row
from surgery._trees.flat import Flat
from surgery._trees.modules import as_tree
from surgery._trees.registry import find_backend, kind_of, spec_of
from surgery._trees.structure import Node, attributes_of, is_childless, same_aux
from surgery._types import Leaf, Path, Tree
from surgery._verbs.tree import walk

STATUSES = ("removed", "added", "container", "shape", "dtype", "value")


def diff(a: Tree, b: Tree, *, values: bool = False) -> Report:
    """Return what differs between two trees, one row per place.

    Args:
        a, b: any trees, lazy ones too; of any framework.
        values: compare the numbers too, bit for bit; the row gives the largest
            difference.

    Returns:
        A report with rows `removed` (only in `a`), `added` (only in `b`), `container`,
        `shape`, `dtype`, `value`. It is falsy when nothing differs.

    >>> import numpy as np
    >>> print(diff({"w": np.zeros(2), "b": 1.0}, {"w": np.zeros(3), "c": 1.0}))
    diff: 1 removed, 1 added, 0 container, 1 shape, 0 dtype, 0 value
      shape    w  f64[2] -> f64[3]
      removed  b  f64[]
      added    c  f64[]
    """
    first, second = walk(as_tree(a)), walk(as_tree(b))
    rows = [*_places(first, second, values), *_containers(first, second)]
    compared = "1 leaf" if len(first) == 1 else f"{len(first)} leaves"
    how = ", compared bit for bit" if values else "; only names, shapes and dtypes were compared"
    empty = f"nothing differs in {compared}{how}"
    return Report("diff", rows, sep=first.structure.sep, statuses=STATUSES, empty=empty)


def _places(a: Flat, b: Flat, values: bool) -> Iterator[Row]:
    for path, leaf in a.items():
        if path not in b:
            yield Row("removed", path, before=str(spec_of(leaf)))
            continue
        have, want = spec_of(leaf), spec_of(b[path])
        if have.shape != want.shape:
            yield Row("shape", path, str(have), str(want))
        elif have.dtype != want.dtype:
            yield Row("dtype", path, str(have), str(want))
        elif values:
            note = _compare(leaf, b[path], "diff", path)
            if note is not None:
                yield Row("value", path, after=str(have), note=note)
    for path, leaf in b.items():
        if path not in a:
            yield Row("added", path, after=str(spec_of(leaf)))


def _containers(a: Flat, b: Flat) -> Iterator[Row]:
    inner_a, inner_b = _Inner(a), _Inner(b)
    told: set[Path] = set()
    alone: list[Path] = []
    for path in dict.fromkeys([*a.structure, *b.structure]):
        one, two = a.structure.get(path, ()), b.structure.get(path, ())
        before, after = _kinds(one, path in inner_a), _kinds(two, path in inner_b)
        if before and after and before != after:
            told.add(path)
            yield Row("container", path, before, after)
        elif one and two:
            yield from _metadata(path, one, two)
        elif not (before and after) and path not in a and path not in b:
            alone.append(path)
    for path in alone:  # a container with leaves is told by them, one in a place that differs by that
        node = (a.structure.get(path) or b.structure[path])[-1]
        if is_childless(node) and not any(path[:n] in told for n in range(len(path))):
            shown = node.kind.name if node.kind.family == "fields" else f"an empty {node.kind.name}"
            yield Row("removed", path, shown) if path in a.structure else Row("added", path, after=shown)


def _kinds(nodes: Sequence[Node], is_inner: bool) -> str:
    """Name the containers at one place, outermost first; nothing where there is none."""
    return " of ".join(node.kind.name for node in nodes) or ("dict" if is_inner else "")


def _metadata(path: Path, a: Sequence[Node], b: Sequence[Node]) -> Iterator[Row]:
    for x, y in zip(a, b, strict=True):
        if x.kind.family == "box" and not same_aux(x.aux, y.aux):
            yield Row("container", path, after=x.kind.name, note="with other metadata")


class _Inner:
    """The places of a tree that have leaves below them, listed when they are first asked for."""

    def __init__(self, flat: Flat) -> None:
        self.flat = flat
        self.places: set[Path] | None = None

    def __contains__(self, path: Path) -> bool:
        if self.places is None:
            self.places = {found[:n] for found in self.flat for n in range(len(found))}
        return path in self.places


def _compare(a: Leaf, b: Leaf, verb: str, path: Path) -> str | None:
    try:
        return value_difference(a, b)
    except SurgeryError as error:
        raise_problems(verb, [problem_at(text_of(path), error)])
        raise


def value_difference(a: Leaf, b: Leaf) -> str | None:
    """Return how two leaves of one spec differ, or None if they are equal bit for bit.

    Two leaves that hold no data are equal if their specs are.

    Raises:
        SpecError: one has data that cannot be read: it is traced, or deleted.
    """
    if a is b:
        return None
    first, second = find_backend(a), find_backend(b)
    if first is None or second is None:
        if (
            kind_of(a) is not None and kind_of(b) is not None
        ):  # a container that stands as a leaf: extra state
            return None if equal(a, b) else f"{a!r:.40} -> {b!r:.40}"
        return None if type(a) is type(b) and same_aux(a, b) else f"{a!r:.40} -> {b!r:.40}"
    must_be_readable(first, a)
    must_be_readable(second, b)
    if not (first.holds_data(a) and second.holds_data(b)):
        return "only one of the two holds data" if first.holds_data(a) != second.holds_data(b) else None
    from surgery._arrays.numpy import largest_difference, same_bits

    x, y = first.to_numpy(a), second.to_numpy(b)
    return None if same_bits(x, y) else largest_difference(x, y)


def equal(a: Tree, b: Tree) -> bool:
    """Whether two trees have the same containers, places and leaves, bit for bit.

    Which library an array belongs to does not matter, nor the order of keys in
    mappings. NaN equals NaN of the same bits, and 0.0 differs from -0.0.

    >>> import numpy as np
    >>> equal({"w": np.ones(2)}, {"w": np.ones(2)}), equal({"w": 1.0}, {"w": 1})
    (True, False)
    """
    first, second = walk(as_tree(a)), walk(as_tree(b))
    if first.keys() != second.keys() or not _same_structure(first, second):
        return False
    return all(
        spec_of(leaf) == spec_of(second[path]) and _compare(leaf, second[path], "equal", path) is None
        for path, leaf in first.items()
    )


def _same_structure(a: Flat, b: Flat) -> bool:
    for path in a.structure.keys() | b.structure.keys():
        one, two = a.structure.get(path), b.structure.get(path)
        if one is None or two is None:
            # A dict is recorded for the order of its childless children, or because it came
            # from a file; neither matters here.
            known = one or two or ()
            if any(node.kind.name != "dict" or not node.keys or node.sep for node in known):
                return False
            continue
        if len(one) != len(two):
            return False
        for x, y in zip(one, two, strict=True):
            if x.kind.name != y.kind.name or set(x.keys) != set(y.keys) or x.sep != y.sep:
                return False
            if x.aux is not y.aux and not same_aux(_essence(x), _essence(y)):
                return False
    return True


def _essence(node: Node) -> Any:
    """Return what makes a container the one that it is, apart from its kind and its children."""
    return (attributes_of(node.kind, node.aux) or None) if hasattr(node.kind, "attributes") else node.aux
