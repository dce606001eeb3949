"""Labels from where-rules, and a tree taken apart by them and put together again."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from surgery._errors import Problem, RuleError, StructureError, raise_problems
from surgery._paths.automaton import NONE, Matcher, Where, check_twins, matcher
from surgery._paths.path import text_of
from surgery._trees.flat import Flat
from surgery._trees.modules import as_tree, editable
from surgery._trees.structure import build
from surgery._trees.ties import tie_groups, treated_differently
from surgery._trees.walk import Irregular
from surgery._types import Leaf, Path, Tree
from surgery._verbs.division import HOLE, Division
from surgery._verbs.select import unmet
from surgery._verbs.tree import walk

WhereRules: TypeAlias = "Sequence[tuple[Where, Any]]"


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
        found: dict[Path, int] = {}
        used: set[int] = set()
        for path, leaf in flat.items():
            hits = [*rules.all(path, leaf)]
            found[path] = hits[0] if hits else NONE
            used.update(hits)
        sep = flat.structure.sep
        unused = unmet(rules, used, self.verb, flat)
        problems = [problem for error in unused for problem in error.problems]
        problems += [
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
        check_twins(rules, flat)
        if ties:
            groups = tie_groups(flat)
            shown = {path: repr(self.values[found[path]]) for group in groups for path in group}
            unlike = (treated_differently(group, shown, sep) for group in groups)
            raise_problems(self.verb, [problem for problem in unlike if problem is not None])
        return found


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
        return Division(ready.matcher, ready.values).label(tree)
    except (Irregular, StructureError):
        pass  # the general way names the place
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
    values = _distinct(ready.values.values())
    number = {value: k for k, value in enumerate(values)}
    place = {n: number[value] for n, value in ready.values.items()}
    try:
        parts = Division(ready.matcher, place).parts(tree, len(values))
        return dict(zip(values, parts, strict=True))
    except (Irregular, StructureError):
        pass  # the general way names the place
    flat = walk(tree)
    found = ready.labels(flat)
    return {
        value: build(
            {path: leaf if found[path] == value else HOLE for path, leaf in flat.items()},
            flat.structure,
            verb="partition",
        )
        for value in values
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Return each value once, in order: they become the keys of the parts."""
    out: dict[Any, None] = {}
    for value in values:
        try:
            out[value] = None
        except TypeError:
            raise RuleError(
                f"{value!r} cannot name a part: it is not hashable",
                verb="partition",
                hint="a text, a number, a tuple; label(tree, rules) takes any value",
            ) from None
    return list(out)
