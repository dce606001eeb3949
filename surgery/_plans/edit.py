"""The two everyday edits: rename, and transform by any rules."""

from __future__ import annotations

from surgery._errors import RuleError
from surgery._plans.plan import make_plan
from surgery._rules.resolve import Rest
from surgery._rules.rules import Rules, as_rule
from surgery._trees.modules import editable
from surgery._types import Tree


def rename(tree: Tree, rules: Rules, *, rest: Rest = "keep") -> Tree:
    """Return the tree under new paths. No leaf is touched: a rename of 70 GB moves 0 bytes.

    Args:
        tree: any tree.
        rules: `[(source, target), ...]`.
        rest: what becomes of leaves that no rule takes: `"keep"`, `"error"`, `"drop"`.

    Raises:
        RuleError: a rule matches nothing, holds ops, or two sources go to one place.

    >>> rename({"fc": {"w": 1.0}, "enc": {"w": 2.0}}, [("fc/**", "head/**")])
    {'head': {'w': 1.0}, 'enc': {'w': 2.0}}
    """
    for n, rule in enumerate(rules, 1):
        if as_rule(rule, "rename").ops:
            raise RuleError(f"rule {n} has ops", verb="rename", hint="use transform(tree, rules)")
    tree = editable(tree, "rename")
    return make_plan(rules, tree, rest=rest, verb="rename").apply(tree)


def transform(tree: Tree, rules: Rules, *, rest: Rest = "keep") -> Tree:
    """Return the tree edited by rules: `plan(rules, tree).apply(tree)`.

    >>> import numpy as np
    >>> tree = {"attn": {"qkv": np.arange(6.0)}}
    >>> transform(tree, [("attn/qkv", "attn/{q|k|v}", ops.split())])["attn"]["k"]
    array([2., 3.])
    """
    tree = editable(tree, "transform")
    return make_plan(rules, tree, rest=rest, verb="transform").apply(tree)
