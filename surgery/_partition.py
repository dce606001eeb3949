"""Labels from where-rules, and a tree taken apart by them and put together again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

from surgery._automaton import NONE, Matcher, State, Where, check_twins, matcher
from surgery._errors import Problem, RuleError, raise_problems
from surgery._flat import Flat
from surgery._gc import without_gc
from surgery._modules import as_tree, editable
from surgery._path import all_plain, text_of
from surgery._registry import OBJECT_LEAVES, kind_of
from surgery._select import require
from surgery._structure import build
from surgery._ties import tie_groups, treated_differently
from surgery._tree import walk
from surgery._types import Key, Leaf, Missing, Path, Tree
from surgery._walk import DEEP

WhereRules: TypeAlias = "Sequence[tuple[Where, Any]]"

HOLE = Missing()


class Required:
    """The default that says there is none."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = Required()


class Rules:
    """An ordered list of where-rules: the first whose pattern matches gives the value."""

    def __init__(self, rules: WhereRules | Mapping[Where, Any], default: Any, verb: str) -> None:
        pairs = list(rules.items()) if isinstance(rules, Mapping) else list(rules)
        for pair in pairs:
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise RuleError(
                    f"{pair!r} is no where-rule",
                    verb=verb,
                    hint="a rule is a pair: ('backbone/**', 'frozen')",
                )
        self.verb = verb
        self.matcher: Matcher = matcher([where for where, _ in pairs], verb)
        self.values: dict[int, Any] = dict(enumerate(value for _, value in pairs))
        if not isinstance(default, Required):
            self.values[NONE] = default

    def of(self, path: Path, leaf: Leaf) -> Any:
        """Return the value for one leaf, `REQUIRED` where no rule matches and there is no default."""
        return self.values.get(self.matcher.first(path, leaf), REQUIRED)

    def labels(self, flat: Flat) -> dict[Path, Any]:
        """Return the value of each leaf, checked as `assign` does."""
        return {path: self.values[n] for path, n in self.assign(flat).items()}

    def assign(self, flat: Flat, *, ties: bool = True) -> dict[Path, int]:
        """Return the number of the rule that decides each leaf, checked.

        Raises:
            RuleError: a leaf matches no rule, a rule matches no leaf, or the names of
                one tied tensor get different values.
        """
        rules = self.matcher
        found = {path: rules.first(path, leaf) for path, leaf in flat.items()}
        sep = flat.structure.sep
        problems = [
            Problem(
                "no rule matches a leaf",
                text_of(path, sep),
                hint="add a rule for it, a last rule ('**', value), or default=",
                error=RuleError,
            )
            for path, n in found.items()
            if n not in self.values
        ]
        raise_problems(self.verb, problems, of=f"{len(flat)} leaves")
        used = {n for path, leaf in flat.items() for n in rules.all(path, leaf)}
        require(rules, used, self.verb, flat)
        check_twins(rules, flat)
        if ties:
            shown = {path: repr(self.values[n]) for path, n in found.items()}
            unlike = (treated_differently(group, shown, sep) for group in tie_groups(flat))
            raise_problems(self.verb, [problem for problem in unlike if problem is not None])
        return found


class _Irregular(Exception):
    """Something that the fast walk leaves to the general way, which also explains errors."""


def label(tree: Tree, rules: WhereRules | Mapping[Where, Any], *, default: Any = REQUIRED) -> Tree:
    """Return a tree of labels in the tree's own node types.

    Args:
        tree: any tree, or a module.
        rules: `[(pattern, value), ...]`; the first that matches a leaf gives its label.
        default: the label of leaves that no rule matches; without it they are an error.

    Returns:
        The tree with labels for leaves, as `optax.multi_transform` takes it.

    Raises:
        RuleError: a leaf matches no rule, a rule matches no leaf, or the names of one
            tied tensor would get different labels.

    >>> label({"backbone": {"w": 1.0}, "head": {"w": 2.0}}, [("backbone/**", "frozen"), ("**", "train")])
    {'backbone': {'w': 'frozen'}, 'head': {'w': 'train'}}
    """
    tree = as_tree(tree)
    ready = Rules(rules, default, "label")
    try:
        return _FastWalk(ready, 1).label(tree)
    except _Irregular:
        flat = walk(tree)
        return build(ready.labels(flat), flat.structure, verb="label")


def partition(
    tree: Tree, rules: WhereRules | Mapping[Where, Hashable], *, default: Any = REQUIRED
) -> dict[Any, Tree]:
    """Take a tree apart: one part per value, each with `Missing()` where others have a leaf.

    Args and errors are those of `label`; values must be hashable. `merge` is the
    exact inverse. Leaves are shared, not copied.

    >>> parts = partition({"enc": {"w": 1.0}, "head": {"w": 2.0}}, [("head/**", "train"), ("**", "frozen")])
    >>> parts["train"]
    {'enc': {'w': Missing()}, 'head': {'w': 2.0}}
    >>> merge(*parts.values())
    {'enc': {'w': 1.0}, 'head': {'w': 2.0}}
    """
    tree = editable(tree, "partition")
    ready = Rules(rules, default, "partition")
    values = list(dict.fromkeys(ready.values.values()))
    if values and type(tree) is dict:
        try:
            parts = _FastWalk(ready, len(values)).parts(tree)
            return dict(zip(values, parts, strict=True))
        except _Irregular:
            pass
    flat = walk(tree)
    found = {path: ready.values[n] for path, n in ready.assign(flat).items()}
    return {
        value: build(
            {path: leaf if found[path] == value else HOLE for path, leaf in flat.items()},
            flat.structure,
            verb="partition",
        )
        for value in values
    }


class _FastWalk:
    """Label or part nested exact dicts in one walk; anything else is `_Irregular`.

    Holds what must be checked after the walk: which rules were used, and whether
    any two leaves are one object.
    """

    def __init__(self, rules: Rules, count: int) -> None:
        if rules.matcher.tests or rules.matcher.doubtful:
            raise _Irregular
        self.rules = rules
        self.count = count
        self.values = rules.values
        self.ends: set[State] = set()
        self.ids: list[int] = []

    @without_gc
    def label(self, tree: Tree) -> Tree:
        if type(tree) is not dict:
            raise _Irregular
        out = self._label(tree, self.rules.matcher.start, 0)
        self._check()
        return out

    @without_gc
    def parts(self, tree: Tree) -> list[Tree]:
        values = list(dict.fromkeys(self.values.values()))
        place = {n: values.index(value) for n, value in self.values.items()}
        out = self._parts(tree, self.rules.matcher.start, 0, place)
        self._check()
        return out

    def _check(self) -> None:
        patterns = self.rules.matcher.patterns
        required = {n for n, pattern in patterns.items() if not pattern.optional}
        used = {n for state in self.ends for n in state.matching}
        if not required <= used or len(set(self.ids)) < len(self.ids):
            raise _Irregular

    def _label(self, node: dict[Key, Tree], state: State, depth: int) -> dict[Key, Tree]:
        if depth > DEEP or not all_plain(node):
            raise _Irregular
        out: dict[Key, Tree] = {}
        step, steps, values = self.rules.matcher.step, state.next, self.values
        ends, seen = self.ends.add, self.ids.append
        for key, child in node.items():
            if type(key) is not str:
                raise _Irregular
            after = steps[key] if key in steps else step(state, key)
            if type(child) is dict:
                out[key] = self._label(child, after, depth + 1)
            elif type(child) in OBJECT_LEAVES or self._is_simple_leaf(child):
                n = after.first
                if n not in values:
                    raise _Irregular
                out[key] = values[n]
                ends(after)
                seen(id(child))
        return out

    def _parts(
        self, node: dict[Key, Tree], state: State, depth: int, place: Mapping[int, int]
    ) -> list[dict[Key, Tree]]:
        if depth > DEEP or not all_plain(node):
            raise _Irregular
        outs: list[dict[Key, Tree]] = [dict.fromkeys(node, HOLE) for _ in range(self.count)]
        step, steps = self.rules.matcher.step, state.next
        ends, seen = self.ends.add, self.ids.append
        for key, child in node.items():
            if type(key) is not str:
                raise _Irregular
            after = steps[key] if key in steps else step(state, key)
            if type(child) is dict:
                for out, part in zip(outs, self._parts(child, after, depth + 1, place), strict=True):
                    out[key] = part
            elif type(child) in OBJECT_LEAVES or self._is_simple_leaf(child):
                n = after.first
                if n not in place:
                    raise _Irregular
                outs[place[n]][key] = child
                ends(after)
                seen(id(child))
        return outs

    def _is_simple_leaf(self, child: Tree) -> bool:
        """Whether this is a leaf tied by identity alone, seen for the first time; else `_Irregular`."""
        if kind_of(child) is None and type(child) in OBJECT_LEAVES:
            return True
        raise _Irregular
