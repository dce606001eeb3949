"""The basics on any tree: flatten and back, paths, specs, a map that knows paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from surgery._errors import SHOWN, PathError, Problem, StructureError, nearest, raise_problems
from surgery._paths.automaton import check_twins, matcher, matches_nothing
from surgery._paths.path import PLAIN, all_plain, parse_path, text_of
from surgery._trees.flat import Flat
from surgery._trees.gc import without_gc
from surgery._trees.modules import as_tree, editable
from surgery._trees.registry import LEAF_TYPES, kind_of, spec_of
from surgery._trees.structure import BOX, Structure, build, check_tuples, close_box
from surgery._trees.text import NotPlain, flatten_text, nest_text
from surgery._trees.ties import tie_groups
from surgery._trees.walk import DEEP, Walk, as_leaf, separator_of
from surgery._types import Leaf, Path, TensorSpec, Tree


@without_gc
def walk(tree: Tree, *, joined: bool = True) -> Flat:
    """Flatten to path tuples: what every verb starts with."""
    found = Walk(joined)
    found.tree(tree)
    return found.leaves


def flatten(tree: Tree, *, sep: str | None = None, joined: bool = True) -> Flat:
    """Return path -> leaf in tree order, with the containers remembered.

    Args:
        tree: any tree, or a module (its parameters and buffers).
        sep: `"/"` or `"."` for text keys, in which a backslash escapes what is
            special to patterns; path tuples by default.
        joined: read flat mappings of joined names (a torch state_dict) as trees.

    Returns:
        A `Flat`: a dict that `unflatten` turns back into the same containers
        with the very same leaves. Empty containers and None belong to the
        structure; they are not leaves. No leaf is copied: 0 bytes moved.

    >>> flat = flatten({"mlp": {"kernel": 1.0, "bias": 2.0}, "drop": {}})
    >>> dict(flat)
    {('mlp', 'kernel'): 1.0, ('mlp', 'bias'): 2.0}
    >>> unflatten(flat)
    {'mlp': {'kernel': 1.0, 'bias': 2.0}, 'drop': {}}
    >>> dict(flatten({"h": [1.0, 2.0]}, sep="/"))
    {'h/[0]': 1.0, 'h/[1]': 2.0}
    """
    _check_separator(sep, "flatten")
    tree = as_tree(tree)
    if sep is not None and type(tree) is dict:
        texts = flatten_text(tree, sep)
        if texts is not None:
            return texts
    flat = walk(tree, joined=joined)
    if sep is None:
        return flat
    return Flat({text_of(path, sep): leaf for path, leaf in flat.items()}, structure=flat.structure, sep=sep)


def _check_separator(sep: str | None, verb: str) -> None:
    if sep is not None and sep not in ("/", "."):
        raise PathError(f"{sep!r} is no separator", verb=verb, expected="'/' or '.'")


def _parsed(text: Any, sep: str) -> Path:
    if not isinstance(text, str):
        expected = f"text with '{sep}' between the keys"
        raise PathError("a key is no text", verb="unflatten", expected=expected, found=repr(text))
    return parse_path(text, sep)


def unflatten(flat: Mapping[Any, Leaf], *, like: Tree | Flat | None = None, sep: str | None = None) -> Tree:
    """Return the tree that holds the leaves of `flat`; the inverse of `flatten`.

    Args:
        flat: from `flatten`, edited or not; or any mapping path -> leaf.
        like: a tree whose containers are taken; its paths must be those of `flat`.
        sep: for a mapping with text keys, their separator. A `Flat` knows its own.

    Returns:
        A tree in the containers that `flat` or `like` remember; new places, and
        all places of any other mapping, become nested plain dicts.

    Raises:
        PathError: a path is a leaf and a container at once, or its text does not parse.
        StructureError: the containers cannot hold these paths.

    >>> unflatten({("a", "x"): 1, ("a", "y"): 2})
    {'a': {'x': 1, 'y': 2}}
    >>> unflatten({"a/x": 1}, sep="/")
    {'a': {'x': 1}}
    """
    _check_separator(sep, "unflatten")
    structure = flat.structure if isinstance(flat, Flat) else Structure()
    sep = sep or (flat.sep if isinstance(flat, Flat) else None)
    if like is None and not structure and sep is not None:
        try:
            return nest_text(flat, sep)
        except NotPlain:
            pass
    leaves: Mapping[Path, Leaf] = flat
    if sep is not None:
        leaves = {_parsed(text, sep): leaf for text, leaf in flat.items()}
        if len(leaves) < len(flat):
            raise PathError("two texts name one path", verb="unflatten")
    check_tuples(leaves, "unflatten")
    if like is not None:
        structure = _structure_like(like, leaves)
    return build(leaves, structure, verb="unflatten")


def _structure_like(like: Tree | Flat, leaves: Mapping[Path, Leaf]) -> Structure:
    other = like if isinstance(like, Flat) else walk(as_tree(like))
    expected = other if other.sep is None else {parse_path(text, other.sep): None for text in other}
    check_same_paths("unflatten", expected=expected, found=leaves, sep=other.structure.sep)
    return other.structure


def check_same_paths(
    verb: str, *, expected: Mapping[Path, Leaf], found: Mapping[Path, Leaf], sep: str
) -> None:
    """Raise a StructureError that names every path that only one of two trees has."""
    missing = [text_of(path, sep) for path in expected if path not in found]
    extra = [text_of(path, sep) for path in found if path not in expected]
    problems = [Problem("a leaf is missing", text, error=StructureError) for text in missing]
    for text in extra:
        hint = nearest(text, missing) if len(problems) < SHOWN else None
        problems.append(Problem("a leaf has no place", text, hint=hint, error=StructureError))
    raise_problems(verb, problems, of=f"{len(expected)} leaves")


def paths(tree: Tree) -> list[Path]:
    """Return the paths of all leaves, in tree order.

    >>> paths({"h": [1.0, 2.0], "w": 3.0})
    [('h', 0), ('h', 1), ('w',)]
    """
    return list(walk(as_tree(tree)))


def spec(tree: Tree) -> Tree:
    """Return the same tree with a `TensorSpec` in place of each leaf. No data is read.

    The names of one tied tensor get one `alias`, so a plan made on the specs
    knows the ties.

    >>> import numpy as np
    >>> str(spec({"w": np.zeros((2, 3), np.float32)})["w"])
    'f32[2,3]'
    """
    flat = walk(as_tree(tree))
    return build(specs_of(flat), flat.structure, verb="spec")


def specs_of(flat: Flat) -> dict[Path, TensorSpec]:
    """Return path -> spec, tied leaves marked by a common alias."""
    sep = flat.structure.sep
    alias = {path: text_of(group[0], sep) for group in tie_groups(flat) for path in group}
    out: dict[Path, TensorSpec] = {}
    for path, leaf in flat.items():
        found = spec_of(leaf)
        name = alias.get(path)
        out[path] = found if found.alias == name else TensorSpec(found.shape, found.dtype, name)
    return out


def map_with_path(fn: Callable[[Path, Leaf], Any], tree: Tree, *, where: Any = None) -> Tree:
    """Return the tree with `fn(path, leaf)` in place of each leaf.

    Args:
        fn: called once per leaf, in tree order.
        tree: any tree.
        where: a pattern, a path or a predicate `(path, leaf) -> bool`; other leaves
            stay the very objects they are. A pattern that matches nothing is an error.

    >>> map_with_path(lambda path, x: x * 10, {"a": {"w": 1, "b": 2}}, where="**/w")
    {'a': {'w': 10, 'b': 2}}
    """
    tree = editable(tree, "map_with_path")
    if where is None:
        return _map(fn, tree, ())
    rules = matcher([where], "map_with_path")
    if rules.digits:
        check_twins(rules, walk(tree))
    hits = 0

    def chosen(path: Path, leaf: Leaf) -> Any:
        nonlocal hits
        if rules.first(path, leaf):
            return leaf
        hits += 1
        return fn(path, leaf)

    out = _map(chosen, tree, ())
    if not hits:
        raise matches_nothing("map_with_path", where, walk(tree), walk(tree).structure.sep)
    return out


def _map(fn: Callable[[Path, Leaf], Any], node: Tree, path: Path) -> Tree:
    """Map one node. `fn` must be called once per leaf, so names are known to be plain before its first call."""
    if type(node) is not dict or len(path) > DEEP or not (PLAIN.issuperset(node) or all_plain(node)):
        return _map_other(fn, node, path)
    out: dict[Any, Any] = {}
    for key, child in node.items():
        if type(child) is dict:
            out[key] = _map(fn, child, path + (key,))  # noqa: RUF005 (twice as fast as unpacking)
        elif type(child) in LEAF_TYPES:
            out[key] = fn(path + (key,), child)  # noqa: RUF005
        else:
            out[key] = _map_other(fn, child, path + (key,))  # noqa: RUF005
    return out


def _map_other(fn: Callable[[Path, Leaf], Any], node: Tree, path: Path) -> Tree:
    """Map a container of any kind, or a leaf."""
    kind = kind_of(node)
    if kind is None:
        return fn(path, as_leaf(node, path))
    aux, children = kind.open(node)
    if kind.family == "box":
        return close_box(kind, aux, _map(fn, children[BOX], path), path, "map_with_path")
    if len(path) > DEEP or separator_of(kind, aux, children) is not None:
        return _map_flat(fn, node, path)
    out: dict[Any, Any] = {}
    for key, child in children.items():
        out[key] = _map(fn, child, (*path, key))
    return kind.close(aux, out)


def _map_flat(fn: Callable[[Path, Leaf], Any], node: Tree, path: Path) -> Tree:
    """Map where the paths are not those of the containers, or too many for recursion."""
    found = Walk(joined=True)
    found.tree(node, path)
    leaves = {at: fn(at, leaf) for at, leaf in found.leaves.items()}
    tree = build(leaves, found.structure, verb="map_with_path")  # from the root on, so that errors name it
    for key in path:
        tree = tree[key]
    return tree
