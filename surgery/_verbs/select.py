"""Looking at a part of a tree: what a pattern hits, the part, the rest, a submodule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from surgery._errors import PathError, RuleError, nearest
from surgery._paths.automaton import Matcher, Where, check_twins, compile_where, matcher, matches_nothing
from surgery._paths.path import text_of
from surgery._paths.pattern import Pattern, Segment, parse_pattern, pattern_of
from surgery._trees.flat import Flat
from surgery._trees.modules import as_tree, editable
from surgery._trees.registry import kind_of
from surgery._trees.restructure import ordered_paths, restructure
from surgery._trees.structure import Structure, build
from surgery._types import Missing, Move, Path, Tree
from surgery._verbs.tree import walk


def matches(tree: Tree, pattern: Where) -> dict[Path, dict[str, Any]]:
    """Return what a pattern hits: path -> captures by name.

    Numbers captured by `{i:int}` come as int, choices as the text chosen. A path, a
    regular expression and a predicate serve too, and capture nothing. Nothing is an
    error here: an empty result says that nothing matches.

    >>> matches({"layer_0": {"w": 1.0}, "layer_1": {"w": 2.0}}, "layer_{i:int}/w")
    {('layer_0', 'w'): {'i': 0}, ('layer_1', 'w'): {'i': 1}}
    """
    flat = walk(as_tree(tree))
    parsed = compile_where(pattern, "matches")
    if not isinstance(parsed, Pattern):
        return {path: {} for path, leaf in flat.items() if parsed(path, leaf)}
    found = {path: parsed.match(path) for path in flat}
    return {path: _readable(parsed, captures) for path, captures in found.items() if captures is not None}


def _readable(pattern: Pattern, captures: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, part in pattern.variables.items():
        value = captures[name]
        if part.kind == "choice":
            value = part.options[value]
        elif part.kind == "int":
            value = int(value)
        if name.isidentifier():
            out[name] = value
    return out


def select(tree: Tree, where: Where | Sequence[Where]) -> Tree:
    """Return the part of a tree that matches, in the tree's own containers.

    Keys of mappings that do not match are left out; in sequences and fixed
    fields a `Missing()` stands for them, so nothing is renumbered.

    Args:
        tree: any tree.
        where: a pattern, a path, a predicate `(path, leaf) -> bool`, or a list of them
            of which any may match. (A tuple is one path.)

    Returns:
        A tree; of a bare leaf that does not match, `Missing()`.

    Raises:
        RuleError: a pattern matches nothing.

    >>> select({"enc": {"w": 1, "b": 2}, "head": {"w": 3}}, "**/w")
    {'enc': {'w': 1}, 'head': {'w': 3}}
    >>> select([10, 20, 30], "[1]")
    [Missing(), 20, Missing()]
    """
    flat, hit = _hits(tree, where, "select")
    return _keep(flat, hit, "select")


def drop(tree: Tree, where: Where | Sequence[Where]) -> Tree:
    """Return the tree without the part that matches: the complement of `select`.

    >>> drop({"enc": {"w": 1, "b": 2}, "head": {"w": 3}}, "head/**")
    {'enc': {'w': 1, 'b': 2}}
    """
    flat, hit = _hits(tree, where, "drop")
    everything = {*flat, *flat.structure.childless()}
    return _keep(flat, everything - hit, "drop")


def _hits(tree: Tree, where: Where | Sequence[Where], verb: str) -> tuple[Flat, set[Path]]:
    flat = walk(editable(tree, verb))
    wheres: list[Where] = list(where) if isinstance(where, list) else [where]  # type: ignore[list-item]
    rules = matcher(wheres, verb)
    check_twins(rules, flat)
    hit: set[Path] = set()
    used: set[int] = set()
    for path, leaf in flat.items():
        own = list(rules.all(path, leaf))
        used.update(own)
        if own:
            hit.add(path)
    require(rules, used, verb, flat)
    hit.update(path for path in flat.structure.childless() if any(True for _ in rules.of_place(path)))
    return flat, hit


def _keep(flat: Flat, kept: set[Path], verb: str) -> Tree:
    if () in flat and () not in kept:
        return Missing()  # a bare leaf: there is no container that could lose it
    gone = flat.structure.childless().keys() - kept
    structure = Structure({path: nodes for path, nodes in flat.structure.items() if path not in gone})
    return build(
        {path: leaf for path, leaf in flat.items() if path in kept}, structure, verb=verb, holes=True
    )


def extract(tree: Tree, at: str | Path) -> Tree:
    """Return what lies at `at`, without that prefix.

    Args:
        tree: any tree, or a module.
        at: a path, as text or tuple. `*` or `{name}` in it stands for keys that stay:
            `"*/vision_model"` takes the submodule out of every collection of a
            variables dict.

    Returns:
        For a path, the very object that stands there.

    Raises:
        PathError: nothing lies there.

    >>> extract({"params": {"backbone": {"w": 1}, "head": {"w": 2}}}, "params/backbone")
    {'w': 1}
    >>> extract({"params": {"enc": {"w": 1}}, "batch_stats": {"enc": {"mean": 0}}}, "*/enc")
    {'params': {'w': 1}, 'batch_stats': {'mean': 0}}
    """
    tree = as_tree(tree)
    pattern = parse_pattern(at) if isinstance(at, str) else pattern_of(at)
    if pattern.is_path:
        found, node = _descend(tree, pattern.segments)
        if found:
            return node
    flat = walk(tree)
    moves: list[Move] = []
    for path in ordered_paths(flat, flat.structure):
        below = _strip(pattern, path)
        if below is not None:
            moves.append((path, below))
    if not moves:
        names = {text_of(path[:end], flat.structure.sep) for path in flat for end in range(1, len(path) + 1)}
        shown = at if isinstance(at, str) else text_of(at)
        top = dict.fromkeys(text_of(path[:1], flat.structure.sep) for path in flat if path)
        hint = nearest(shown, sorted(names)) or f"at the top lie {', '.join(map(repr, [*top][:5]))}"
        raise PathError("nothing lies", verb="extract", path=shown, hint=hint if top else None)
    leaves = {target: flat[source] for source, target in moves if source in flat}
    if len(leaves) < sum(source in flat for source, _ in moves):
        raise PathError(
            f"'{pattern.text}' takes two places to one", verb="extract", hint="name the keys to keep: *"
        )
    return build(leaves, restructure(flat.structure, moves, verb="extract"), verb="extract")


def _descend(node: Tree, segments: Sequence[Segment]) -> tuple[bool, Tree]:
    """Follow literal keys through containers; (False, _) where a joined name or nothing is met."""
    for segment in segments:
        kind = kind_of(node)
        while kind is not None and kind.family == "box":
            node = next(iter(kind.open(node)[1].values()))
            kind = kind_of(node)
        children = kind.open(node)[1] if kind is not None else {}
        hits = [key for key in children if segment.match(key) is not None]
        if len(hits) != 1:
            return False, None
        node = children[hits[0]]
    return True, node


def _strip(pattern: Pattern, path: Path) -> Path | None:
    """Return `path` without the keys that `pattern` names literally, if it begins as `pattern` says."""
    deep = sum(segment.deep for segment in pattern.segments)
    lengths = range(len(pattern.segments) - deep, len(path) + 1) if deep else [len(pattern.segments)]
    for end in lengths:
        captures = pattern.match(path[:end]) if end <= len(path) else None
        if captures is None:
            continue
        kept: list[Any] = []
        position = 0
        for segment in pattern.segments:
            if segment.deep:
                many = captures[segment.parts[0].text]
                kept += many
                position += len(many)
                continue
            if any(part.kind != "text" for part in segment.parts):
                kept.append(path[position])
            position += 1
        return (*kept, *path[end:])
    return None


def require(rules: Matcher, used: set[int], verb: str, flat: Flat) -> None:
    """Raise for the first rule that matched no leaf and was not optional."""
    for error in unmet(rules, used, verb, flat):
        raise error


def unmet(rules: Matcher, used: set[int], verb: str, flat: Flat) -> Iterator[RuleError]:
    """Yield an error for each rule that matched no leaf and was not optional."""
    for n, where in enumerate(rules.wheres):
        pattern = rules.patterns.get(n)
        if n not in used and not (pattern is not None and pattern.optional):
            yield matches_nothing(verb, where, flat, flat.structure.sep)
