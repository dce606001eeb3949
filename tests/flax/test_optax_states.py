"""Optax states of every kind, as trees: they come back with the same treedef and the same objects (hazards B)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import surgery as sg
from tests.flax import zoo
from tests.flax.helpers import ROUND_TRIPS, same_bytes, same_objects, structure_of

W = jnp.ones((2, 3))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_optax_state_comes_back_as_it_was(name: str) -> None:
    state = zoo.state_of(name)
    assert [way for way, verb in ROUND_TRIPS.items() if not same_objects(verb(state), state)] == []


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_optax_state_can_be_listed_without_its_transformation(name: str) -> None:
    state = zoo.state_of(name)
    report = sg.summarize(state)
    assert len(report) == len(jax.tree.leaves(state)) and str(report)


def test_B1_positions_shift_when_a_transform_is_added_and_patterns_do_not_mind() -> None:
    params = {"w": W}
    plain = optax.adam(1e-3).init(params)
    clipped = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params)
    assert sg.paths(plain)[1] != sg.paths(clipped)[1]
    for state in (plain, clipped):
        (captures,) = sg.matches(state, "**/mu/{param:**}").values()
        assert captures == {"param": ("w",)}
        (bank,) = sg.slots(state, params).banks
        assert (bank.algorithm, bank.members, list(bank.slots)) == ("adam", (("w",),), ["mu", "nu"])


def test_B2_empty_states_keep_their_positions() -> None:
    state = zoo.state_of("chain_nested")
    kinds = [type(inner).__name__ for inner in state[1][0]]
    out = sg.merge(*sg.partition(state, [("**/mu/**", "mu"), ("**", "rest")]).values())
    assert kinds.count("EmptyState") == 1 and [type(inner).__name__ for inner in out[1][0]] == kinds


def test_B3_masked_branches_keep_their_holes() -> None:
    state = zoo.state_of("multi_transform_frozen")
    assert type(state).__name__ in ("PartitionState", "MultiTransformState")
    assert not sg.matches(state, "inner_states/a/**")  # set_to_zero has no leaf at all
    mu = sg.unflatten(sg.flatten(state)).inner_states["b"].inner_state[0].mu
    assert type(mu["enc"]["w"]) is optax.MaskedNode and mu["head"]["w"].shape == (4, 3)


def test_B4_a_masked_prefix_and_masked_leaves_mean_the_same_and_graft_onto_each_other() -> None:
    by_prefix, by_leaf = zoo.state_of("multi_transform_prefix"), zoo.state_of("multi_transform_frozen")
    assert structure_of(by_prefix) != structure_of(by_leaf)
    assert sg.paths(by_prefix) == sg.paths(by_leaf)
    trained = sg.map_with_path(lambda path, leaf: leaf + 1, by_prefix)
    out, _ = sg.graft(by_leaf, trained)
    assert structure_of(out) == structure_of(by_leaf)
    assert all(a is b for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(trained), strict=True))
    assert {row.status for row in sg.diff(by_prefix, by_leaf)} == {"container"}


def test_B5_moments_survive_a_change_of_the_freeze_mask() -> None:
    old = sg.map_with_path(lambda path, leaf: leaf + 1, zoo.state_of("multi_transform_frozen"))
    tx = optax.multi_transform({"all": optax.adam(1e-3)}, jax.tree.map(lambda _: "all", zoo.params()))
    fresh = tx.init(zoo.params())
    rules = [("inner_states/b/{rest:**}", "inner_states/all/{rest}")]
    out, report = sg.graft(fresh, old, rules=rules, missing=[("**/{mu|nu}/enc/**", "keep-target")])
    assert structure_of(out) == structure_of(fresh)
    adam = out.inner_states["all"].inner_state[0]
    assert adam.count == 1 and (adam.mu["head"]["w"] == 1).all() and not adam.mu["enc"]["w"].any()
    assert report.counts["missing"] == 4  # mu and nu of enc's two leaves, by name
    with pytest.raises(sg.StructureError, match="no leaf of the donor fills a place at 'inner_states/all/"):
        sg.graft(fresh, old, rules=rules)


def test_B6_a_map_over_raw_states_needs_neither_the_transform_nor_equal_shapes() -> None:
    names = {"lbfgs", "adafactor", "novograd", "galore", "sm3", "split_real_and_imaginary"}
    for name in sorted(names & zoo.ZOO.keys()):
        state = zoo.state_of(name)
        texts = sg.map_with_path(lambda path, leaf: f"{path[-1]}: {leaf.shape}", state)
        assert structure_of(texts) == structure_of(state)
        assert all(type(text) is str for text in jax.tree.leaves(texts))


def test_B6_a_slot_that_has_not_the_shape_of_its_parameter_is_refused() -> None:
    params = {"w": W, "b": jnp.ones(1)}
    stale = optax.ScaleByAdamState(
        jnp.zeros([], jnp.int32), {"w": W, "b": jnp.ones(2)}, {"w": W, "b": W[0, :2]}
    )
    with pytest.raises(sg.SpecError) as caught:
        sg.TrainingState.of(params=params, opt=(stale,))
    assert str(caught.value) == (
        "slots: a slot has another shape than its parameter at '[0]/mu/b'\n  expected  f32[1]\n  found     f32[2]"
    )


def test_B7_every_counter_is_found_and_keeps_its_own_value() -> None:
    named = {name: list(zoo.counts(zoo.state_of(name))) for name in zoo.ZOO}
    assert named["adamw"] == [(0, "count"), (2, "count")]
    assert named["multi_steps"] == [("mini_step",), ("inner_opt_state", 0, "count")]
    assert ("inner_states", "a", "inner_state", 0, "count") not in named["multi_transform_frozen"]
    assert zoo.counts(zoo.state_of("schedule_free")) == {
        ("base_optimizer_state", 0, "count"): 0,
        ("step_count",): 1,
    }
    state = zoo.state_of("inject_hyperparams")
    assert len(zoo.counts(state)) >= 2
    moved = sg.map_with_path(lambda path, leaf: leaf + len(path), state, where="**/count")
    assert {path: int(count) for path, count in zoo.counts(moved).items()} == {
        path: len(path) for path in zoo.counts(state)
    }


def test_B8_injected_hyperparameters_are_leaves_with_names() -> None:
    state = zoo.state_of("inject_hyperparams")
    found = {path[-1] for path in sg.matches(state, "hyperparams/*")}
    assert {"learning_rate", "b1", "b2", "eps", "weight_decay"} <= found
    out = sg.map_with_path(
        lambda path, leaf: jnp.full_like(leaf, 0.5), state, where="hyperparams/weight_decay"
    )
    assert out.hyperparams["weight_decay"] == 0.5 and structure_of(out) == structure_of(state)


def test_B12_stacking_changes_what_a_factored_state_keeps() -> None:
    tx = optax.scale_by_factored_rms()
    layers = {f"h_{n}": jnp.ones((130, 128)) for n in range(300)}
    stacked = sg.transform(layers, [("h_{n:int}", "h", sg.ops.stack())])
    each = jax.eval_shape(tx.init, layers)
    together = jax.eval_shape(tx.init, stacked)
    assert (each.v_row["h_0"].shape, each.v_col["h_0"].shape) == ((128,), (130,))
    assert (together.v_row["h"].shape, together.v_col["h"].shape) == ((130, 128), (300, 128))
    plan = sg.plan([("h_{n:int}", "h", sg.ops.stack())], layers)
    with pytest.raises(sg.AdapterError, match="FactoredState"):  # and so no plan moves it by guessing
        plan.apply(sg.TrainingState.of(params=layers, opt=tx.init(layers)))


def test_B13_muon_moves_a_stacked_kernel_to_adam() -> None:
    layers = {f"h_{n}": jnp.ones((3, 3)) for n in range(2)}
    stacked = sg.transform(layers, [("h_{n:int}", "h", sg.ops.stack())])
    tx = contrib.muon(1e-3)
    assert sg.matches(tx.init(layers), "inner_states/muon/**/mu/h_0")
    assert not sg.matches(tx.init(stacked), "inner_states/muon/**/mu/h")
    assert sg.matches(tx.init(stacked), "inner_states/adam/**/nu/h")


def test_B16_copies_of_the_weights_that_are_the_very_arrays_are_ties() -> None:
    params = {"w": W, "b": W + 1}
    both = {"params": params, "opt": contrib.sam(optax.sgd(0.1), optax.sgd(0.1)).init(params)}
    assert both["opt"].cache["w"] is params["w"]
    with pytest.raises(sg.RuleError, match="one tensor under two names is treated in two ways"):
        sg.partition(both, [("params/**", "params"), ("**", "opt")])
    rules = [("opt/{p:**}", "opt/{p}", sg.ops.untie())]
    apart = sg.transform(both, rules)
    parts = sg.partition(apart, [("params/**", "params"), ("**", "opt")])
    assert same_objects(sg.merge(*parts.values()), apart) and same_bytes(apart, both)
    donate = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    assert (donate(apart)["opt"].cache["w"] == 2).all()


def test_B17_lookahead_doubles_the_params_and_both_halves_have_names() -> None:
    params = optax.LookaheadParams.init_synced({"w": W})
    assert sg.paths(params) == [("fast", "w"), ("slow", "w")]
    assert same_objects(sg.unflatten(sg.flatten(params)), params)


def test_B18_bools_keys_and_lists_are_leaves_like_others() -> None:
    finite = zoo.state_of("apply_if_finite")
    assert sg.flatten(finite)[("last_finite",)].dtype == jnp.bool_
    noise = zoo.state_of("noise")
    assert jnp.issubdtype(sg.flatten(noise)[("rng_key",)].dtype, jax.dtypes.prng_key)
    sm3 = zoo.state_of("sm3")
    assert [path[-1] for path in sg.matches(sm3, "**/mu/head/w/*")] == [0, 1]


def test_B20_a_moment_that_would_narrow_is_refused_and_one_that_widens_is_reported() -> None:
    params = {"w": W}
    wide, narrow = optax.adam(1e-3), optax.adam(1e-3, mu_dtype=jnp.bfloat16)
    with pytest.raises(sg.SpecError, match=r"the dtype narrows at '\[0\]/mu/w'"):
        sg.graft(narrow.init(params), wide.init(params))
    out, report = sg.graft(wide.init(params), narrow.init(params))
    assert out[0].mu["w"].dtype == jnp.float32
    (row,) = report.with_status("cast")
    assert (row.path, row.before, row.after) == ((0, "mu", "w"), "bf16[2,3]", "f32[2,3]")


def test_B21_a_count_that_is_set_through_map_with_path_keeps_its_type() -> None:
    state = optax.adam(1e-3).init({"w": W})
    out = sg.map_with_path(lambda path, leaf: jnp.full_like(leaf, 5), state, where="[0]/count")
    assert out[0].count == 5 and out[0].count.dtype == jnp.int32 and not out[0].count.weak_type
    with pytest.raises(sg.SpecError, match=r"the dtype narrows at '\[0\]/count'"):
        sg.graft(state, {0: {"count": 2**31}}, missing="keep-target")
    for count in (5, np.int32(5)):
        out, _ = sg.graft(state, {0: {"count": count}}, missing="keep-target")
        assert isinstance(out[0].count, jax.Array) and out[0].count == 5
        assert out[0].count.dtype == jnp.int32 and not out[0].count.weak_type


def test_B22_a_masked_weight_decay_is_another_structure_and_diff_says_where() -> None:
    plain, masked = optax.adamw(1e-3).init(zoo.params()), zoo.state_of("adamw_masked_decay")
    assert sg.paths(plain) == sg.paths(masked) and structure_of(plain) != structure_of(masked)
    rows = {row.path: (row.before, row.after) for row in sg.diff(plain, masked)}
    assert rows[(1,)] == ("EmptyState", "MaskedState")
    out, _ = sg.graft(masked, plain)
    assert structure_of(out) == structure_of(masked)


def test_B23_momentum_that_is_turned_on_is_a_missing_leaf_and_not_a_guess() -> None:
    params = {"w": W}
    without, with_momentum = optax.sgd(0.1).init(params), optax.sgd(0.1, momentum=0.9).init(params)
    with pytest.raises(sg.StructureError, match=r"no leaf of the donor fills a place at '\[0\]/trace/w'"):
        sg.graft(with_momentum, without)
    out, report = sg.graft(with_momentum, without, missing="keep-target")
    assert structure_of(out) == structure_of(with_momentum) and report.counts["missing"] == 1
