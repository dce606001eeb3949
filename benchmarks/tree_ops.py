"""The verbs on trees, beside flax, jax, optree and equinox in the same run.

    python benchmarks/tree_ops.py --sizes 1k,10k,100k --rounds 9 --json figures.json

Every peer's result is compared with ours before anything is timed. See README.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import flax.serialization
import flax.traverse_util as ft
import jax
import optree
from _rounds import Case, Figure, compare, count_of, finish, machine, print_figures, print_machine, write_json
from _trees import adam_state, as_regex, every, rules, transformer

import surgery as sg
from surgery._paths import automaton, path, pattern

jtu = jax.tree_util
Tree = Any


def flattening(tree: Tree, size: str) -> Iterator[Case]:
    """To paths and back, by tuple and by text."""
    at_10k = {"jax tree_flatten_with_path": 2.0, "optree tree_flatten_with_path": 2.0}

    def jax_names() -> dict[str, Any]:
        leaves = jtu.tree_flatten_with_path(tree)[0]
        return {jtu.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}

    flat, named = ft.flatten_dict(tree), ft.flatten_dict(tree, sep="/")
    ours, ours_named = sg.flatten(tree), sg.flatten(tree, sep="/")
    same(flat, ours)
    same(named, ours_named)
    same(named, jax_names())
    yield Case(
        "flatten, tuple paths",
        size,
        lambda: sg.flatten(tree),
        {
            "flax flatten_dict": lambda: ft.flatten_dict(tree),
            "jax tree_flatten_with_path": lambda: jtu.tree_flatten_with_path(tree),
            "optree tree_flatten_with_path": lambda: optree.tree_flatten_with_path(tree),
        },
        {"flax flatten_dict": 3.0, **(at_10k if size == "10k" else {})},
    )
    yield Case(
        "flatten, text paths",
        size,
        lambda: sg.flatten(tree, sep="/"),
        {"flax flatten_dict(sep='/')": lambda: ft.flatten_dict(tree, sep="/"), "jax, then keystr": jax_names},
        {"flax flatten_dict(sep='/')": 3.0, **({"jax, then keystr": 5.0} if size == "10k" else {})},
    )
    same(ft.flatten_dict(sg.unflatten(ours)), flat)
    same(ft.flatten_dict(sg.unflatten(ours_named)), flat)
    yield Case(
        "unflatten, tuple paths",
        size,
        lambda: sg.unflatten(ours),
        {"flax unflatten_dict": lambda: ft.unflatten_dict(flat)},
        {"flax unflatten_dict": 0.9},
    )
    yield Case(
        "unflatten, text paths",
        size,
        lambda: sg.unflatten(ours_named),
        {"flax unflatten_dict(sep='/')": lambda: ft.unflatten_dict(named, sep="/")},
        {"flax unflatten_dict(sep='/')": 1.3} if size in ("1k", "10k") else {},
    )


def mapping(tree: Tree, size: str) -> Iterator[Case]:
    """A function of path and leaf at every leaf."""

    def chosen(path: Any, leaf: Any) -> Any:
        return leaf

    yield Case(
        "path-aware map",
        size,
        lambda: sg.map_with_path(chosen, tree),
        {
            "flax path_aware_map": lambda: ft.path_aware_map(chosen, tree),
            "jax tree_map_with_path": lambda: jtu.tree_map_with_path(chosen, tree),
            "optree tree_map_with_path": lambda: optree.tree_map_with_path(chosen, tree),
        },
        {"flax path_aware_map": 3.0, **({"jax tree_map_with_path": 2.0} if size == "10k" else {})},
    )


def forget_rules() -> None:
    """Make the next labelling a first one."""
    automaton._matcher_of_texts.cache_clear()
    pattern.parse_pattern.cache_clear()
    path.PLAIN.clear()


def labelling(tree: Tree, size: str) -> Iterator[Case]:
    """Twenty and two hundred globs, first match wins, beside the loop that users write."""

    def by_hand(count: int) -> Callable[[], Any]:
        pairs = [(as_regex(glob), value) for glob, value in rules(count)]

        def value_of(path: tuple[str, ...], leaf: Any) -> str:
            text = "/".join(path)
            return next(value for pattern, value in pairs if re.fullmatch(pattern, text))

        return lambda: ft.path_aware_map(value_of, tree)

    twenty, many = rules(20), rules(200)
    loop = "re.fullmatch per rule in flax path_aware_map"
    assert sg.label(tree, twenty) == by_hand(20)() and sg.label(tree, many) == by_hand(200)()
    goals = {"cold": {loop: 5.0}, "warm": {loop: 20.0}} if size == "10k" else {"cold": {}, "warm": {}}
    for count, pairs in ((20, twenty), (200, many)):
        for state in ("cold", "warm"):
            yield Case(
                f"label by {count} rules, {state}",
                size,
                lambda pairs=pairs: sg.label(tree, pairs),
                {loop: by_hand(count)},
                goals[state] if count == 20 else {},
                before=forget_rules if state == "cold" else None,
            )
    yield Case(
        "label by 200 rules, warm",
        size,
        lambda: sg.label(tree, many),
        {"label by 20 rules, warm (ours)": lambda: sg.label(tree, twenty)},
        {"label by 20 rules, warm (ours)": 0.5},
    )


def parting(tree: Tree, size: str) -> Iterator[Case]:
    """In two by a rule, in two by a predicate, and together again."""
    patterns = [("**/kernel", "a"), ("**", "b")]
    predicates = [(lambda path, leaf: path[-1] == "kernel", "a"), (lambda path, leaf: True, "b")]

    def flax_parts() -> list[Tree]:
        flat = ft.flatten_dict(tree)
        return [
            ft.unflatten_dict({path: leaf for path, leaf in flat.items() if (path[-1] == "kernel") is wanted})
            for wanted in (True, False)
        ]

    def equinox_parts() -> tuple[Tree, Tree]:
        mask = jtu.tree_map_with_path(lambda path, leaf: path[-1].key == "kernel", tree)
        return eqx.partition(tree, mask)

    def flax_merge(parts: list[Tree]) -> Tree:
        flat: dict[Any, Any] = {}
        for part in parts:
            flat |= ft.flatten_dict(part)
        return ft.unflatten_dict(flat)

    ours, theirs, flaxes = sg.partition(tree, patterns), equinox_parts(), flax_parts()
    for mine, other, third in zip(ours.values(), theirs, flaxes, strict=True):
        assert len(sg.paths(mine)) == len(jax.tree.leaves(other)) == len(ft.flatten_dict(third))
    same(ft.flatten_dict(sg.merge(*ours.values())), ft.flatten_dict(eqx.combine(*theirs)))
    peers = {"flax flatten, filter, unflatten": flax_parts, "equinox mask, partition": equinox_parts}
    goals = {"flax flatten, filter, unflatten": 3.0, "equinox mask, partition": 5.0}
    yield Case("partition by a pattern", size, lambda: sg.partition(tree, patterns), peers, goals)
    yield Case("partition by a predicate", size, lambda: sg.partition(tree, predicates), peers, goals)
    yield Case(
        "merge",
        size,
        lambda: sg.merge(*ours.values()),
        {
            "equinox combine": lambda: eqx.combine(*theirs),
            "flax flatten, update, unflatten": lambda: flax_merge(flaxes),
        },
        {"equinox combine": 2.0},
    )


def grafting(tree: Tree, size: str) -> Iterator[Case]:
    """One leaf in a hundred replaced."""
    donor = every(tree, 100)

    def ours() -> Tree:
        return sg.graft(tree, donor, missing="keep-target")[0]

    def by_hand() -> Tree:
        flat = ft.flatten_dict(tree)
        flat.update(ft.flatten_dict(donor))
        return ft.unflatten_dict(flat)

    same(ft.flatten_dict(ours()), ft.flatten_dict(by_hand()))
    name = "flax flatten, update, unflatten"
    yield Case("graft 1 % of the leaves", size, ours, {name: by_hand}, {name: 50.0} if size == "10k" else {})


def state_work(state: Tree, size: str) -> Iterator[Case]:
    """The same verbs on parameters with Adam's state, in optax's namedtuples."""

    def flax_paths() -> dict[Any, Any]:
        return ft.flatten_dict(flax.serialization.to_state_dict(state), keep_empty_nodes=True)

    def same_leaf(path: Any, leaf: Any) -> Any:
        return leaf

    def jax_update() -> Tree:
        leaves, treedef = jtu.tree_flatten(state)
        return jtu.tree_unflatten(
            treedef, [leaf + 1 if n in chosen else leaf for n, leaf in enumerate(leaves)]
        )

    def equinox_parts() -> Any:
        mask = jtu.tree_map_with_path(lambda path, leaf: getattr(path[-1], "key", None) == "kernel", state)
        return eqx.partition(state, mask)

    flat, flat_dict = sg.flatten(state), flax_paths()
    chosen = set(range(0, len(flat), 100))
    donor = sg.unflatten({path: leaf + 1 for n, (path, leaf) in enumerate(flat.items()) if n in chosen})
    patterns = [("**/kernel", "a"), ("**", "b")]
    ours, theirs = sg.partition(state, patterns), equinox_parts()
    assert len(flat) == len(flat_dict) - 1 == len(jax.tree.leaves(state))
    assert jtu.tree_structure(sg.unflatten(flat)) == jtu.tree_structure(state)
    assert jtu.tree_structure(sg.merge(*ours.values())) == jtu.tree_structure(state)
    size = f"Adam state, {size}"
    yield Case(
        "flatten, tuple paths",
        size,
        lambda: sg.flatten(state),
        {
            "flax to_state_dict, flatten_dict": flax_paths,
            "jax tree_flatten_with_path": lambda: jtu.tree_flatten_with_path(state),
            "optree tree_flatten_with_path": lambda: optree.tree_flatten_with_path(state),
        },
    )
    yield Case(
        "unflatten, tuple paths",
        size,
        lambda: sg.unflatten(flat),
        {
            "flax unflatten_dict, from_state_dict": lambda: flax.serialization.from_state_dict(
                state, ft.unflatten_dict(flat_dict)
            )
        },
    )
    yield Case(
        "path-aware map",
        size,
        lambda: sg.map_with_path(same_leaf, state),
        {
            "jax tree_map_with_path": lambda: jtu.tree_map_with_path(same_leaf, state),
            "optree tree_map_with_path": lambda: optree.tree_map_with_path(same_leaf, state),
        },
    )
    yield Case(
        "partition by a pattern",
        size,
        lambda: sg.partition(state, patterns),
        {"equinox mask, partition": equinox_parts},
    )
    yield Case(
        "merge", size, lambda: sg.merge(*ours.values()), {"equinox combine": lambda: eqx.combine(*theirs)}
    )
    yield Case(
        "graft 1 % of the leaves",
        size,
        lambda: sg.graft(state, donor, missing="keep-target")[0],
        {"jax flatten, replace, unflatten": jax_update},
    )


def same(a: Any, b: Any) -> None:
    """Refuse to compare ways that do not lead to the same leaves at the same paths."""
    assert a.keys() == b.keys() and all(a[path] is b[path] for path in a)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1k,10k,100k")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="")
    parser.add_argument("--json")
    options = parser.parse_args()
    about = machine("flax", "jax", "optree", "equinox", "optax", "numpy")
    print_machine(about)
    figures: list[Figure] = []
    for size in options.sizes.split(","):
        count = count_of(size)
        tree = transformer(count)
        rounds = options.rounds if count < 50_000 else max(1, options.rounds // 2)
        for group in (flattening, mapping, labelling, parting, grafting, state_work):
            if options.only not in group.__name__:
                continue
            for case in group(adam_state(count) if group is state_work else tree, size):
                found = compare(case, rounds)
                print_figures(found)
                sys.stdout.flush()
                figures += found
    finish(figures)
    write_json(options.json, about, figures)


if __name__ == "__main__":
    main()
