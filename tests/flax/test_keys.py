"""Keys as they are found in the wild (hazards A4 to A7, A12, A13)."""

from __future__ import annotations

import enum
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util
from flax.core import freeze

import surgery as sg
from tests.flax.helpers import ROUND_TRIPS, same_objects, structure_of

W = jnp.ones((2, 2))


class Group(enum.IntEnum):
    FAST = 1
    SLOW = 2


def layers(*keys: Any) -> nnx.State:
    return nnx.State({"layers": {key: {"kernel": nnx.Param(W + n)} for n, key in enumerate(keys)}})


def test_A4_int_and_text_keys_have_different_paths_and_texts() -> None:
    assert sg.paths(layers(0)) == [("layers", 0, "kernel")]
    assert list(sg.flatten(layers(0), sep="/")) == ["layers/[0]/kernel"]
    assert list(sg.flatten(layers("0"), sep="/")) == ["layers/0/kernel"]


def test_A4_a_bare_digit_in_a_pattern_means_either_and_brackets_the_int() -> None:
    for state in (layers(0), layers("0")):
        assert len(sg.matches(state, "layers/0/kernel")) == 1
    assert len(sg.matches(layers(0), "layers/[0]/*")) == 1 and not sg.matches(layers("0"), "layers/[0]/*")


def test_A4_text_keys_from_a_file_find_their_places_under_int_keys() -> None:
    state = layers(*range(11))
    from_file = {"layers": {str(n): {"kernel": np.full((2, 2), n, np.float32)} for n in range(11)}}
    out, report = sg.graft(state, from_file)
    assert structure_of(out) == structure_of(state) and len(report) == 11
    assert out["layers"][10]["kernel"][0, 0] == 10


def test_A4_a_module_that_is_really_called_0_keeps_its_text_key() -> None:
    state = layers("0", "1")
    out, _ = sg.graft(state, {"layers": [{"kernel": W}, {"kernel": W}]})
    assert sg.paths(out) == sg.paths(state) == [("layers", "0", "kernel"), ("layers", "1", "kernel")]


def test_A4_a_new_digit_key_takes_the_type_that_its_siblings_have() -> None:
    out = sg.rename(layers(0, 1), [("layers/1/**", "layers/7/**")])
    assert sg.paths(out) == [("layers", 0, "kernel"), ("layers", 7, "kernel")]


@pytest.mark.parametrize("make", [dict, nnx.State, freeze])
@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_A5_int_and_text_siblings_stand_side_by_side(way: str, make: Any) -> None:
    tree = make({"a": {0: W, "0": W + 1, "b": W + 2, 10: W + 3, 2: W + 4}})
    out = ROUND_TRIPS[way](tree)  # jax cannot sort these keys, so its treedef is no help here
    assert type(out) is type(tree)
    assert list(sg.flatten(out).items()) == list(sg.flatten(tree).items())


def test_A5_a_pattern_that_would_hit_both_twins_is_refused() -> None:
    with pytest.raises(sg.RuleError, match=r"matches both the int 0 and the string \"0\""):
        sg.select(nnx.State({0: W, "0": W}), "0")
    assert sg.paths(sg.select(nnx.State({0: W, "0": W}), "[0]")) == [(0,)]


def test_A6_a_separator_inside_a_key_loses_nothing() -> None:
    tree = {"a/b": W, "a": {"b": W + 1}}
    assert len(traverse_util.unflatten_dict(traverse_util.flatten_dict(tree, sep="/"), sep="/")["a"]) == 1
    flat = sg.flatten(tree, sep="/")
    assert list(flat) == ["a\\/b", "a/b"] and same_objects(sg.unflatten(flat), tree)
    assert list(sg.flatten(freeze(tree), sep=".")) == ["a\\/b", "a.b"]


def test_A6_haikus_names_are_ordinary_keys() -> None:
    params = {"mlp/~/linear_0": {"w": W, "b": W[0]}, "mlp/~/linear_1": {"w": W + 1, "b": W[1]}}
    assert sg.paths(params)[0] == ("mlp/~/linear_0", "w")
    out = sg.transform(params, [("mlp\\/~\\/linear_{n:int}/{rest:**}", "mlp/{rest}", sg.ops.stack())])
    assert out["mlp"]["w"].shape == (2, 2, 2)
    labels = sg.label(params, [(("mlp/~/linear_0", "w"), "frozen"), ("**", "train")])
    assert labels["mlp/~/linear_0"] == {"w": "frozen", "b": "train"}


ODD = {
    "empty_text": ["", "a/"],
    "leading_dot": [".", ".a", "a.", "../b"],
    "brackets": ["[0]", "]", "0", "[/0"],
    "pattern_letters": ["*", "**", "{a}", "a|b", "x?", "re:x"],
    "backslashes": ["\\", "a\\/\\b"],
    "quotes": ['""', "<a>", "'"],
    "blanks": [" ", "a b", "\n", "ü"],
}


def odd(name: str) -> dict[str, Any]:
    """Return a tree with the keys of one kind; a slash in the list above makes a level of its own."""
    return traverse_util.unflatten_dict({key: W + n for n, key in enumerate(ODD[name])}, sep="/")


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("way", ROUND_TRIPS)
@pytest.mark.parametrize("make", [dict, nnx.State, freeze])
def test_A7_odd_keys_come_back(way: str, name: str, make: Any) -> None:
    tree = make(odd(name))
    assert same_objects(ROUND_TRIPS[way](tree), tree)


@pytest.mark.parametrize("name", ODD)
def test_A7_the_text_of_a_path_is_a_pattern_for_it_alone(name: str) -> None:
    tree = {"t": odd(name)}
    for text, path in zip(sg.flatten(tree, sep="/"), sg.paths(tree), strict=True):
        assert list(sg.matches(tree, text)) == [path]


@pytest.mark.parametrize("way", sorted(set(ROUND_TRIPS) - {"flatten_to_text"}))
def test_A7_keys_that_are_neither_text_nor_number_are_carried(way: str) -> None:
    tree = {"labels": {Group.FAST: W, Group.SLOW: W + 1}, "pairs": {("a", "b"): W + 2, ("a", "c"): W + 3}}
    out = ROUND_TRIPS[way](tree)
    assert list(sg.flatten(out).items()) == list(sg.flatten(tree).items())


def test_A7_such_keys_are_optax_labels() -> None:
    params = {"enc": W, "head": W + 1}
    labels = sg.label(params, [("enc", Group.SLOW), ("head", Group.FAST)])
    tx = optax.multi_transform({Group.SLOW: optax.set_to_zero(), Group.FAST: optax.sgd(1.0)}, labels)
    state = tx.init(params)
    assert same_objects(sg.unflatten(sg.flatten(state)), state)
    updates, _ = tx.update(params, state, params)
    assert not updates["enc"].any() and updates["head"].all()


def test_A7_a_bare_array_is_a_tree() -> None:
    tx = optax.adam(1e-3)
    state = tx.init(W)
    assert sg.paths(W) == [()] and sg.paths(state) == [(0, "count"), (0, "mu"), (0, "nu")]
    assert sg.label(W, [("**", "train")]) == "train"
    moved = sg.plan([("", "", sg.ops.take([1, 0], axis=0))], W).apply(
        sg.TrainingState.of(params=W, opt=state)
    )
    assert structure_of(moved.opt) == structure_of(state)


def test_A12_a_leaf_and_a_container_in_one_place_are_refused_with_both_names() -> None:
    tree = freeze({"x": W, "y": {"b": W}})
    with pytest.raises(sg.SurgeryError) as caught:
        sg.rename(tree, [("x", "a"), ("y/**", "a/**")])
    assert "'a'" in str(caught.value) and "'x'" in str(caught.value) and "'y/b'" in str(caught.value)


def test_A12_two_sources_for_one_target_are_refused_with_both_names() -> None:
    with pytest.raises(sg.SurgeryError) as caught:
        sg.rename(nnx.State({"x": W, "y": W}), [("x", "z"), ("y", "z")])
    assert "'z'" in str(caught.value) and "'x'" in str(caught.value) and "'y'" in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda t: {"a": t}, lambda t: [t], lambda t: optax.TraceState(t)])
def test_A13_depth_is_bounded_by_memory_alone(wrap: Any) -> None:
    tree: Any = W
    for _ in range(3000):
        tree = wrap(tree)
    for verb in (lambda t: sg.unflatten(sg.flatten(t)), lambda t: sg.map_with_path(lambda p, x: x, t)):
        ((path, leaf),) = sg.flatten(verb(tree)).items()
        assert len(path) == 3000 and leaf is W


def test_A13_a_hundred_thousand_leaves() -> None:
    tree = freeze({f"h_{n}": {f"w_{k}": np.float32(k) for k in range(100)} for n in range(1000)})
    parts = sg.partition(tree, [("h_{n:int}/w_7", "a"), ("**", "b")])
    assert len(sg.paths(sg.merge(*parts.values()))) == 100_000
    assert len(sg.paths(parts["a"])) == 1000
