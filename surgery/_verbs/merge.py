"""Putting parts together: every hole is filled by the part that has something there."""

from __future__ import annotations

from functools import reduce

from surgery._errors import Problem, StructureError, raise_problems
from surgery._paths.path import text_of
from surgery._trees.gc import without_gc
from surgery._trees.modules import editable
from surgery._trees.nodes import DICT
from surgery._trees.registry import LEAF_TYPES, is_hole, kind_of
from surgery._trees.structure import Node, Structure, build, is_childless
from surgery._trees.walk import DEEP
from surgery._types import Key, Leaf, Missing, Path, Tree
from surgery._verbs.tree import walk


class _Conflict(Exception):
    """Two parts hold something at one place, or do not fit; the slow way says where."""


def merge(*parts: Tree) -> Tree:
    """Return the tree that the parts make together; the inverse of `partition`.

    At each place one part has something and the others have a hole (`Missing()`,
    or optax's `MaskedNode`), which may stand for a whole subtree. Mappings may
    also lack the key: those of later parts are added at the end. A place that is
    a hole in every part stays one.

    Raises:
        StructureError: two parts have a leaf at one place, or different containers.

    >>> merge({"a": Missing(), "b": 2}, {"a": 1, "b": Missing()})
    {'a': 1, 'b': 2}
    """
    if not parts:
        raise StructureError("nothing to merge", verb="merge", hint="merge(*parts.values())")
    for part in parts:
        editable(part, "merge")
    try:
        return reduce(_merge_two, parts)
    except _Conflict:
        return _merge_flat(parts)


@without_gc
def _merge_two(a: Tree, b: Tree) -> Tree:
    return _merge(a, b, 0)


def _merge(a: Tree, b: Tree, depth: int) -> Tree:
    if type(a) is dict and type(b) is dict:
        return _merge_dicts(a, b, depth)
    if is_hole(b):
        return a
    if is_hole(a):
        return b
    kind = kind_of(a)
    if kind is None or type(a) is not type(b) or depth > DEEP:
        raise _Conflict
    aux, children = kind.open(a)
    _, others = kind.open(b)
    if not children and not others:
        return a
    if kind.family != "mapping" and children.keys() != others.keys():
        raise _Conflict
    merged = {
        key: _merge(child, others[key], depth + 1) if key in others else child
        for key, child in children.items()
    }
    merged.update((key, child) for key, child in others.items() if key not in merged)
    return kind.close(aux, merged)


def _merge_dicts(a: dict[Key, Tree], b: dict[Key, Tree], depth: int) -> dict[Key, Tree]:
    if depth > DEEP:
        raise _Conflict
    out = a.copy()
    for key, right in b.items():
        if type(right) is Missing:
            if key not in a:
                out[key] = right
        elif key not in a:
            out[key] = right
        else:
            left = a[key]
            if type(right) is dict and type(left) is dict:
                out[key] = _merge_dicts(left, right, depth + 1)
            elif type(left) is Missing:
                out[key] = right
            elif type(left) in LEAF_TYPES and type(right) in LEAF_TYPES:
                raise _Conflict
            else:
                out[key] = _merge(left, right, depth + 1)
    return out


def _is_hole(nodes: tuple[Node, ...]) -> bool:
    """Whether a recorded node stands for something that another part has."""
    return is_childless(nodes[-1]) and is_hole(nodes[-1].kind.close(nodes[-1].aux, {}))


def _merge_flat(parts: tuple[Tree, ...]) -> Tree:
    """Merge by paths: without recursion, and with a word about everything that does not fit."""
    leaves: dict[Path, Leaf] = {}
    owner: dict[Path, int] = {}
    structure = Structure()
    problems: list[Problem] = []
    for n, part in enumerate(parts):
        flat = walk(part)
        for path, leaf in flat.items():
            if path in owner:
                found = f"a leaf in part {owner[path]} and in part {n}"
                expected = "a leaf in one part, a hole in the others"
                text = text_of(path, flat.structure.sep)
                problems.append(Problem("two parts overlap", text, expected, found, error=StructureError))
            leaves[path], owner[path] = leaf, n
        for path, nodes in flat.structure.items():
            mine = structure.get(path)
            if _is_hole(nodes):
                structure.setdefault(path, nodes)
            elif mine is None or _is_hole(mine):
                structure[path] = nodes
            elif [node.kind for node in mine] != [node.kind for node in nodes]:
                expected, found = mine[-1].kind.name, nodes[-1].kind.name
                text = text_of(path, flat.structure.sep)
                problems.append(Problem("containers differ", text, expected, found, error=StructureError))
            elif is_childless(mine[-1]):
                structure[path] = nodes
    for path, node in structure.childless().items():
        if path in leaves or any(p[: len(path)] == path for p in leaves):
            if not (_is_hole(structure[path]) or (node.kind is DICT and path not in leaves)):
                found = "a leaf" if path in leaves else "dict"
                problems.append(
                    Problem("containers differ", text_of(path), node.kind.name, found, error=StructureError)
                )
            del structure[path]
    raise_problems("merge", problems, of=f"{len(leaves)} leaves")
    return build(leaves, structure, verb="merge")
