"""Leaves of jax as they really are: keys, narrow numbers, abstract, traced, deleted, shared, read-only (hazards D)."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.serialization import msgpack_restore, to_bytes
from flax.training.train_state import TrainState

import surgery as sg
from tests.flax.helpers import ROUND_TRIPS, same_objects

TORCH = pytest.param(
    "torch", marks=pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
)
FILES = ["msgpack", "safetensors", pytest.param("pt", marks=TORCH.marks)]
KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 6)
W = jnp.arange(12.0).reshape(3, 4)


def deleted(shape: tuple[int, ...] = (3, 4)) -> Any:
    array = jnp.ones(shape)
    array.delete()
    return array


# D1: typed PRNG keys


def test_D1_keys_go_every_way_round_and_are_named_by_their_type() -> None:
    tree = {"rngs": {"dropout": KEY, "layers": KEYS}, "w": W}
    for way in ROUND_TRIPS.values():
        assert same_objects(way(tree), tree)
    assert [str(spec) for spec in sg.flatten(sg.spec(tree)).values()] == [
        "key<fry>[]",
        "key<fry>[6]",
        "f32[3,4]",
    ]
    assert "rngs/layers" in str(sg.summarize(tree))


KEY_EDITS: dict[str, Any] = {
    "stack": (
        [("l/{i:int}", "k", sg.ops.stack(axis=0))],
        lambda x: {"k": jnp.stack([x["l"][n] for n in "01"])},
    ),
    "unstack": (
        [("many", "{a|b|c|d|e|f}", sg.ops.unstack(axis=0))],
        lambda x: dict(zip("abcdef", x["many"], strict=True)),
    ),
    "reshape": ([("many", "k", sg.ops.reshape([2, 3]))], lambda x: {"k": x["many"].reshape(2, 3)}),
    "transpose": (
        [("many", "k", sg.ops.reshape([2, 3]), sg.ops.transpose())],
        lambda x: {"k": x["many"].reshape(2, 3).T},
    ),
    "take": ([("many", "k", sg.ops.take([4, 1], axis=0))], lambda x: {"k": x["many"][jnp.array([4, 1])]}),
    "split": ([("many", "{p|q}", sg.ops.split(axis=0))], lambda x: {"p": x["many"][:3], "q": x["many"][3:]}),
    "copy": ([("many", ["p", "q"])], lambda x: {"p": x["many"], "q": x["many"]}),
}


@pytest.mark.parametrize("edit", KEY_EDITS)
def test_D1_relayouts_move_whole_keys_and_undo_it(edit: str) -> None:
    rules, wanted = KEY_EDITS[edit]
    tree = {"l": {"0": KEYS[0], "1": KEYS[1]}, "many": KEYS}
    plan = sg.plan(rules, tree, rest="drop")
    out = plan.apply(tree)
    for name, leaf in wanted(tree).items():
        assert out[name].dtype == KEY.dtype
        assert jnp.array_equal(jax.random.key_data(out[name]), jax.random.key_data(leaf))
    there_and_back = sg.plan(rules, tree)
    if not there_and_back.lost:
        assert sg.equal(there_and_back.inverse().apply(there_and_back.apply(tree)), tree)


def test_D1_keys_compare_by_their_numbers_and_their_kind() -> None:
    again = jax.random.wrap_key_data(jax.random.key_data(KEY))
    assert sg.equal({"k": KEY}, {"k": again}) and not sg.equal({"k": KEY}, {"k": jax.random.key(1)})
    assert not sg.equal({"k": KEY}, {"k": jax.random.key_data(KEY)})
    assert sg.diff({"k": KEY}, {"k": jax.random.key(0, impl="rbg")}).rows[0].status == "dtype"


def test_D1_raw_numbers_do_not_go_where_a_key_is() -> None:
    with pytest.raises(sg.SpecError, match=r"(?s)the shape differs at 'k'.*key<fry>\[\].*u32\[2\]"):
        sg.graft({"k": KEY}, {"k": jax.random.key_data(KEY)})


@pytest.mark.parametrize("to", ["numpy", TORCH])
def test_D1_no_other_library_is_given_the_bare_numbers_of_a_key(to: str) -> None:
    with pytest.raises(sg.SpecError, match=f"realize: {to} has no key<fry> at 'rngs/dropout'") as caught:
        sg.realize({"rngs": {"dropout": KEY}, "w": W}, to)
    assert "hint: take jax.random.key_data(key)" in str(caught.value)


@pytest.mark.parametrize("ending", FILES)
def test_D1_no_file_is_given_the_bare_numbers_of_a_key(ending: str, tmp_path: Path) -> None:
    with pytest.raises(sg.FileError, match="cannot hold this dtype at 'rngs/dropout'") as caught:
        sg.save({"rngs": {"dropout": KEY}}, tmp_path / f"x.{ending}")
    assert "hint: save a PRNG key as jax.random.key_data(key)" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_D1_a_key_is_no_number_and_is_not_cast() -> None:
    with pytest.raises(sg.SpecError, match="cannot round what is no number at 'k'"):
        sg.transform({"k": KEY}, [("k", "k", sg.ops.cast("float32"))])


# D2: bfloat16, float8, and narrower

NARROW = [
    name
    for name in (
        *("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float8_e3m4"),
        *("float8_e8m0fnu", "float4_e2m1fn", "int2", "uint2", "int4", "uint4", "bool", "complex64"),
    )
    if hasattr(jnp, name)
]
LAYOUTS: dict[str, Any] = {
    "transpose": [("{x}", "{x}", sg.ops.transpose())],
    "stack": [("{a|b}", "c", sg.ops.stack(axis=1))],
    "concat": [("{a|b}", "c", sg.ops.concat(axis=0))],
    "split": [("a", "{p|q}", sg.ops.split(axis=1)), ("b", "b")],
    "reshape": [("{x}", "{x}", sg.ops.reshape([2, -1]))],
}


def narrow(name: str) -> dict[str, Any]:
    numbers = np.arange(24).reshape(4, 6) % (2 if name in ("bool", "int2") else 4)
    return {"a": jnp.asarray(numbers).astype(name), "b": jnp.asarray(numbers[::-1].copy()).astype(name)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NARROW)
def test_D2_every_dtype_moves_as_in_numpy_and_back(name: str, layout: str) -> None:
    tree = narrow(name)
    plan = sg.plan(LAYOUTS[layout], tree)
    out = plan.apply(tree)
    on_the_host = plan.apply({key: np.asarray(leaf) for key, leaf in tree.items()})
    assert {str(leaf.dtype) for leaf in out.values()} == {name}
    assert sg.equal(out, on_the_host) and sg.equal(plan.inverse().apply(out), tree)


@pytest.mark.parametrize("name", NARROW)
def test_D2_every_dtype_is_realized_and_grafted_bit_for_bit(name: str) -> None:
    tree = narrow(name)
    host = sg.realize(tree, "numpy")
    assert all(type(leaf) is np.ndarray and leaf.dtype.name == name for leaf in host.values())
    there = sg.realize(host, "jax")
    assert all(isinstance(leaf, jax.Array) for leaf in there.values()) and sg.equal(there, tree)
    grafted, report = sg.graft({key: jnp.zeros_like(leaf) for key, leaf in tree.items()}, host)
    assert sg.equal(grafted, tree) and [row.status for row in report.rows] == ["loaded", "loaded"]


@pytest.mark.parametrize("name", [one for one in NARROW if one not in ("int2", "uint2", "float4_e2m1fn")])
def test_D2_every_dtype_is_the_same_after_a_msgpack_file(name: str, tmp_path: Path) -> None:
    sg.save(narrow(name), tmp_path / "x.msgpack")
    assert sg.equal(sg.load(tmp_path / "x.msgpack", to="jax"), narrow(name))


def test_D2_bfloat16_counts_as_a_float_when_casts_are_judged() -> None:
    out, report = sg.graft({"w": jnp.zeros(3)}, {"w": jnp.ones(3, jnp.bfloat16)})
    assert out["w"].dtype == jnp.float32 and report.rows[0].status == "cast"
    with pytest.raises(sg.SpecError, match="the dtype narrows at 'w'"):
        sg.graft({"w": jnp.zeros(3, jnp.bfloat16)}, {"w": jnp.ones(3)})


# D3: scalars, and 64 bits where jax has 32


def test_D3_scalars_of_every_kind_are_leaves_and_stay_what_they_are() -> None:
    tree = {"i": 3, "f": 0.5, "b": True, "n": np.float32(2), "z": jnp.array(1), "weak": jnp.asarray(2.0)}
    for way in ROUND_TRIPS.values():
        assert same_objects(way(tree), tree) and way(tree)["weak"].weak_type


def test_D3_relayouts_keep_weak_types() -> None:
    weak = jnp.broadcast_to(jnp.asarray(2.0), (2, 3))
    out = sg.transform({"a": weak, "b": weak + 1}, [("{a|b}", "c", sg.ops.transpose(), sg.ops.stack(axis=0))])
    assert weak.weak_type and out["c"].weak_type
    assert not sg.transform({"a": weak, "b": jnp.ones((2, 3))}, [("{a|b}", "c", sg.ops.stack())])[
        "c"
    ].weak_type


WIDE: dict[str, Callable[[], Any]] = {
    "realize": lambda: sg.realize({"w": np.ones(2), "n": np.arange(3)}, "jax"),
    "cast": lambda: sg.transform({"w": W, "n": W + 1}, [("{x}", "{x}", sg.ops.cast("float64"))]),
    "cast_of_shapes": lambda: sg.transform(
        jax.eval_shape(lambda: {"w": W, "n": W}), [("{x}", "{x}", sg.ops.cast("float64"))]
    ),
    "into": lambda: sg.plan([("w", "w")], {"w": np.ones(2), "n": np.ones(2)}).apply(
        {"w": np.ones(2), "n": np.ones(2)}, into={"w": W[0, :2], "n": W[0, :2]}
    ),
    "graft": lambda: sg.graft({"w": W, "n": W}, {"w": np.ones((3, 4)), "n": np.ones((3, 4))}),
}


@pytest.mark.parametrize("way", WIDE)
def test_D3_numbers_of_64_bits_are_not_narrowed_without_a_word(way: str) -> None:
    with pytest.raises(sg.SpecError) as caught:
        WIDE[way]()
    assert sorted(problem.path or "" for problem in caught.value.problems) == ["n", "w"]
    assert re.search("would narrow|the dtype narrows", str(caught.value))


def test_D3_64_bits_go_where_jax_has_been_told_to_have_them() -> None:
    jax.config.update("jax_enable_x64", True)
    try:
        out = sg.realize({"w": np.ones(2), "n": np.arange(3)}, "jax")
        assert out["w"].dtype == np.float64 and out["n"].dtype == np.int64
    finally:
        jax.config.update("jax_enable_x64", False)


def test_D3_a_step_that_was_trained_on_goes_into_a_fresh_train_state() -> None:
    fresh = TrainState.create(apply_fn=len, params={"w": W}, tx=optax.sgd(0.1))
    trained = jax.jit(lambda state: state.apply_gradients(grads=state.params))(fresh)
    assert type(fresh.step) is int and trained.step.dtype == jnp.int32
    state, _ = sg.graft(fresh, trained)
    assert type(state.step) is int and state.step == 1
    state, _ = sg.graft(trained, fresh)
    assert state.step.dtype == jnp.int32 and state.step == 0


NUMBERS: list[tuple[Any, str, bool]] = [
    (7, "int32", True),
    (2**31, "int32", False),
    (-1, "uint8", False),
    (7, "float32", True),
    (2**24 + 1, "float32", False),
    (0.5, "bfloat16", True),
    (0.1, "float32", False),
    (float("inf"), "float32", True),
    (1.0, "int32", False),
    (1, "bool", False),
    (True, "int32", True),
]


@pytest.mark.parametrize(("number", "dtype", "fits"), NUMBERS)
def test_D3_a_python_number_goes_into_an_array_that_holds_its_value(
    number: Any, dtype: str, fits: bool
) -> None:
    target = {"x": jnp.zeros((), dtype)}
    if not fits:
        with pytest.raises(sg.SpecError, match="the dtype narrows at 'x'"):
            sg.graft(target, {"x": number})
        return
    out = sg.graft(target, {"x": number})[0]["x"]
    assert out.dtype == dtype and out == number


def test_D3_a_donor_is_cast_in_numpy_where_jax_lacks_the_dtype() -> None:
    out, report = sg.graft({"w": np.zeros((3, 4))}, {"w": W})
    assert type(out["w"]) is np.ndarray and out["w"].dtype == np.float64 and np.array_equal(out["w"], W)
    assert report.rows[0].status == "cast"


# D4: abstract trees


def test_D4_a_plan_is_made_and_run_on_shapes_and_tells_what_the_arrays_will_be() -> None:
    real = {f"layer_{n}": {"k": KEYS[n], "w": W + n} for n in range(3)}  # jax sorts keys
    shapes = jax.eval_shape(lambda: real)
    rules = [("layer_{n:int}/w", "w", sg.ops.transpose(), sg.ops.cast("bfloat16"), sg.ops.stack(axis=1))]
    on_shapes, on_arrays = sg.plan(rules, shapes), sg.plan(rules, real)
    assert on_shapes.hash == on_arrays.hash and str(on_shapes) == str(on_arrays)
    made = on_shapes.apply(shapes)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(made))
    assert sg.spec(made) == sg.spec(on_shapes.apply(real)) == sg.spec(jax.eval_shape(on_arrays.apply, real))


def test_D4_structure_verbs_and_reports_work_on_shapes() -> None:
    shapes = jax.eval_shape(lambda: {"enc": {"w": W, "b": W[0]}, "head": W})
    for way in ROUND_TRIPS.values():
        assert same_objects(way(shapes), shapes)
    assert "enc/w" in str(sg.summarize(shapes)) and sg.equal(shapes, sg.map_with_path(lambda p, x: x, shapes))
    assert sg.label(shapes, [("enc/**", "a"), ("**", "b")]) == {"enc": {"w": "a", "b": "a"}, "head": "b"}


def test_D4_an_abstract_optimizer_state_is_moved_with_its_params() -> None:
    tx, params = optax.adam(1e-3), jax.eval_shape(lambda: {"h_0": W, "h_1": W})
    state = sg.TrainingState.of(params=params, opt=jax.eval_shape(tx.init, params))
    out = sg.plan([("h_{n:int}", "h", sg.ops.transpose(), sg.ops.stack())], params).apply(state)
    assert sg.spec(out.opt) == sg.spec(jax.eval_shape(tx.init, out.params))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(out.opt))


@pytest.mark.parametrize("ending", FILES)
def test_D4_shapes_are_not_saved(ending: str, tmp_path: Path) -> None:
    with pytest.raises(sg.FileError, match=r"(a leaf has no data|the file cannot hold this leaf) at 'w'"):
        sg.save(jax.eval_shape(lambda: {"w": W}), tmp_path / f"x.{ending}")
    assert not list(tmp_path.iterdir())


# D6: deleted and donated arrays


def test_D6_structure_verbs_carry_a_deleted_array_and_reports_describe_it() -> None:
    tree = {"a": {"w": deleted()}, "b": W}
    for way in ROUND_TRIPS.values():
        assert same_objects(way(tree), tree)
    assert "f32[3,4]" in str(sg.summarize(tree)) and "f32[3,4]" in sg.summarize(tree)._repr_html_()
    assert "a/w" in str(sg.plan([("a/w", "c", sg.ops.transpose())], tree))
    assert str(sg.diff(tree, {"b": W})) and str(sg.graft(tree, {"a": {"w": W}, "b": W})[1])


DATA_VERBS: dict[str, Callable[[Any], Any]] = {
    "transpose": lambda x: sg.transform({"w": x}, [("w", "w", sg.ops.transpose())]),
    "reshape": lambda x: sg.transform({"w": x}, [("w", "w", sg.ops.reshape([12]))]),
    "take": lambda x: sg.transform({"w": x}, [("w", "w", sg.ops.take([0], axis=0))]),
    "split": lambda x: sg.transform({"w": x}, [("w", "w/{p|q}", sg.ops.split(axis=1))]),
    "stack": lambda x: sg.transform({"w": x, "v": W}, [("{w|v}", "s", sg.ops.stack())]),
    "stack_last": lambda x: sg.transform({"v": W, "w": x}, [("{v|w}", "s", sg.ops.stack())]),
    "cast": lambda x: sg.transform({"w": x}, [("w", "w", sg.ops.cast("bfloat16"))]),
    "untie": lambda x: sg.transform({"w": x}, [("w", "w", sg.ops.untie())]),
    "copies": lambda x: sg.transform({"w": x}, [("w", ["w", "v"])]),
    "share_of_a_gradient": lambda x: sg.plan([("w", ["w", "v"])], {"w": W}).apply({"w": x}, kind="covector"),
    "same": lambda x: sg.plan([("a", ["w", "v"])], {"a": W}).inverse().apply({"w": x, "v": W}),
    "tie": lambda x: sg.transform({"w": x, "v": W}, [("w", None, sg.ops.tie("v"))]),
    "equal": lambda x: sg.equal({"w": x}, {"w": W}),
    "equal_to_another": lambda x: sg.equal({"w": W}, {"w": x}),
    "diff": lambda x: sg.diff({"w": x}, {"w": W}, values=True),
    "realize": lambda x: sg.realize({"w": x}, "numpy"),
}


if find_spec("torch") is not None:
    DATA_VERBS["realize_torch"] = lambda x: sg.realize({"w": x}, "torch")


@pytest.mark.parametrize("verb", DATA_VERBS)
def test_D6_what_needs_the_data_of_a_deleted_array_says_so_and_where(verb: str) -> None:
    with pytest.raises(sg.SpecError, match=r"the array was deleted or donated at '[wv]'") as caught:
        DATA_VERBS[verb](deleted())
    assert "hint: use the tree before it is donated" in str(caught.value)


def test_D6_two_deleted_arrays_are_not_called_equal() -> None:
    with pytest.raises(sg.SpecError, match="equal: the array was deleted or donated at 'w'"):
        sg.equal({"w": deleted()}, {"w": deleted()})


@pytest.mark.parametrize("ending", FILES)
def test_D6_a_deleted_array_is_not_saved(ending: str, tmp_path: Path) -> None:
    with pytest.raises(sg.FileError, match=r"(a leaf has no data|the file cannot hold this leaf) at 'w'"):
        sg.save({"w": deleted()}, tmp_path / f"x.{ending}")
    assert not list(tmp_path.iterdir())


def test_D6_a_donated_tree_is_filled_again_from_a_file() -> None:
    target = {"w": jax.device_put(np.ones((3, 4), np.float32), jax.devices()[0])}
    jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(target)
    assert target["w"].is_deleted()
    out, _ = sg.graft(target, {"w": np.ones((3, 4), np.float32)})
    assert isinstance(out["w"], jax.Array) and out["w"].committed and out["w"].sum() == 12


ERRORS: dict[str, Callable[[Any], Any]] = {
    "shape": lambda tree: sg.graft({"w": jnp.zeros(2), "v": W}, tree),
    "missing": lambda tree: sg.graft({"z": W, "v": W}, tree),
    "rule": lambda tree: sg.rename(tree, [("nowhere", "x")]),
    "label": lambda tree: sg.label(tree, [("v", "x")]),
    "merge": lambda tree: sg.merge(tree, tree),
    "conflict": lambda tree: sg.unflatten({("w",): tree["w"], ("w", "x"): tree["w"]}),
    "not_planned_for": lambda tree: sg.plan([("v", "x")], {"v": W}).apply(tree),
    "extract": lambda tree: sg.extract(tree, "u"),
    "training_state": lambda tree: sg.TrainingState.of(tree["w"]),
    "optimizer_state": lambda tree: sg.slots(tree, {"v": W}),
    "not_the_same_place": lambda tree: sg.transform(tree, [("{v|w}", "x")]),
}


@pytest.mark.parametrize("error", ERRORS)
def test_D6_no_error_prints_a_leaf(error: str) -> None:
    with pytest.raises(sg.SurgeryError):
        ERRORS[error]({"w": deleted(), "v": W})


# D7: one array in two places


def test_D7_a_donor_that_is_tied_stays_tied_and_untie_makes_it_ready_to_be_donated() -> None:
    shared, step = jnp.ones(3), jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    tied, _ = sg.graft({"a": jnp.zeros(3), "b": jnp.zeros(3)}, {"a": shared, "b": shared})
    assert tied["a"] is tied["b"]
    untied = sg.transform(tied, [("b", "b", sg.ops.untie())])
    assert untied["b"] is not shared and untied["b"].unsafe_buffer_pointer() != shared.unsafe_buffer_pointer()
    assert step(untied)["b"].tolist() == [2.0] * 3


def test_D7_copies_to_two_places_share_no_memory() -> None:
    out = sg.transform({"w": W}, [("w", ["a", "b"])])
    assert out["a"].unsafe_buffer_pointer() != out["b"].unsafe_buffer_pointer()


def test_D7_a_policy_that_treats_two_names_of_one_array_differently_is_refused() -> None:
    shared = jnp.ones(3)
    with pytest.raises(sg.RuleError, match="one tensor under two names is treated in two ways at 'b'"):
        sg.label({"a": shared, "b": shared}, [("a", "frozen"), ("b", "train")])


# D8: tracers


UNDER_JIT: dict[str, Callable[[Any], Any]] = {
    **{name: way for name, way in ROUND_TRIPS.items() if name not in ("graft_onto_itself",)},
    "rename": lambda x: sg.rename(sg.rename(x, [("l/**", "m/**")]), [("m/**", "l/**")]),
    "select": lambda x: {**x, **sg.select(x, "l/**")},
    "graft": lambda x: sg.graft(x, {"l": dict(x["l"])}, missing="keep-target")[0],
    "stack_and_back": lambda x: (
        (plan := sg.plan([("l/{i:int}", "s", sg.ops.transpose(), sg.ops.stack())], x))
        .inverse()
        .apply(plan.apply(x))
    ),
    "summarize_and_diff": lambda x: (str(sg.summarize(x)), str(sg.diff(x, x)), x)[-1],
}


@pytest.mark.parametrize("verb", UNDER_JIT)
def test_D8_structure_verbs_and_ops_work_inside_jit(verb: str) -> None:
    tree = {"l": {"0": W, "1": W + 1}, "k": KEY}
    assert sg.equal(jax.jit(UNDER_JIT[verb])(tree), tree)


@pytest.mark.parametrize("verb", ["same", "tie", "equal", "equal_to_another", "diff", "realize"])
def test_D8_what_needs_the_data_of_a_traced_value_says_so(verb: str) -> None:
    with pytest.raises(sg.SpecError, match=r"a traced value has no data yet at '[wv]'") as caught:
        jax.jit(lambda x: (DATA_VERBS[verb](x), x)[1])(W)
    assert "hint: only structure verbs work inside jit" in str(caught.value)


def test_D8_a_training_state_is_edited_inside_jit() -> None:
    params, tx = {"a": W, "b": W + 1}, optax.adam(1e-3)
    plan = sg.plan([("{a|b}", "c", sg.ops.transpose(), sg.ops.stack())], params)

    def edit(params: Any, opt: Any) -> Any:
        out = plan.apply(sg.TrainingState.of(params=params, opt=opt))
        return out.params, out.opt

    opt = tx.init(params)
    params_there, opt_there = jax.jit(edit)(params, opt)
    here = plan.apply(sg.TrainingState.of(params=params, opt=opt))
    assert sg.equal(params_there, here.params) and sg.equal(opt_there, here.opt)


def test_D8_gradients_flow_through_an_edit() -> None:
    plan = sg.plan([("{a|b}", "c", sg.ops.transpose(), sg.ops.stack())], {"a": W, "b": W + 1})
    weights = jnp.arange(24.0).reshape(2, 4, 3)
    grads = jax.grad(lambda tree: (plan.apply(tree)["c"] * weights).sum())({"a": W, "b": W + 1})
    assert sg.equal(grads, plan.inverse().apply({"c": weights}))
    assert jax.vmap(plan.apply)({"a": jnp.stack([W] * 5), "b": jnp.stack([W] * 5)})["c"].shape == (5, 2, 4, 3)


def test_D8_a_traced_step_goes_into_the_place_of_a_python_number() -> None:
    assert jax.jit(lambda step: sg.graft({"step": 0}, {"step": step})[0]["step"] + 1)(jnp.array(4)) == 5
    zeros = {"w": np.zeros((3, 4), np.float32)}
    assert jnp.array_equal(jax.jit(lambda w: sg.graft(zeros, {"w": w})[0]["w"])(W), W)


# D9: leaves that are not there yet


class OnDemand:
    """What some loaders put in place of an array: it has nothing but `__array__`."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise AssertionError("nobody asked for it")


def test_D9_placeholders_and_loaders_objects_are_carried_unread() -> None:
    tree = {"a": ..., "b": {"w": OnDemand(), "v": W}}
    for way in ROUND_TRIPS.values():
        assert same_objects(way(tree), tree)
    assert "OnDemand" in str(sg.summarize(tree))


def test_D9_an_op_on_a_leaf_that_nobody_knows_is_refused() -> None:
    with pytest.raises(sg.SurgeryError, match="at 'w'"):
        sg.transform({"w": OnDemand()}, [("w", "w", sg.ops.transpose())])


def test_D9_a_lazy_leaf_is_read_once_for_each_use_and_not_by_structure_verbs(tmp_path: Path) -> None:
    (tmp_path / "x.msgpack").write_bytes(to_bytes({"l": {"0": W, "1": W + 1}, "odd": W}))
    tree = sg.load(tmp_path / "x.msgpack")
    stacked = sg.transform(sg.drop(tree, "odd"), [("l/{i:int}", "s", sg.ops.transpose(), sg.ops.stack())])
    assert "f32[2,4,3]" in repr(stacked["s"]) and jnp.array_equal(
        jnp.asarray(stacked["s"]), jnp.stack([W.T, W.T + 1])
    )
    (tmp_path / "x.msgpack").write_bytes(b"gone")
    assert [str(spec) for spec in sg.flatten(sg.spec(sg.rename(tree, [("odd", "even")]))).values()] == [
        "f32[3,4]"
    ] * 3
    with pytest.raises(sg.FileError, match="changed since it was loaded"):
        np.asarray(tree["odd"])


def test_D9_lazy_leaves_are_arrays_to_jax(tmp_path: Path) -> None:
    (tmp_path / "x.msgpack").write_bytes(to_bytes({"w": W}))
    tree = dict(sg.load(tmp_path / "x.msgpack"))
    assert jnp.array_equal(jnp.asarray(tree["w"]) + 1, W + 1)
    assert jax.tree.map(jnp.asarray, tree)["w"].dtype == jnp.float32


# D10: read-only arrays


def test_D10_what_is_realized_in_numpy_can_be_written_to_and_the_source_stays(tmp_path: Path) -> None:
    (tmp_path / "x.msgpack").write_bytes(to_bytes({"w": W}))
    for source in ({"w": W}, sg.load(tmp_path / "x.msgpack")):
        tree = sg.realize(source, "numpy")
        tree["w"][0, 0] = 7
        assert tree["w"][0, 0] == 7 and W[0, 0] == 0 and np.asarray(source["w"])[0, 0] == 0


def test_D10_read_only_arrays_pass_through_every_verb_as_they_are() -> None:
    tree = {"w": msgpack_restore(to_bytes({"w": W}))["w"]}
    assert not tree["w"].flags.writeable
    for way in ROUND_TRIPS.values():
        assert same_objects(way(tree), tree)
    out = sg.transform(tree, [("w", "w", sg.ops.transpose())])
    out["w"][0, 0] = 7
    assert tree["w"][0, 0] == 0


@pytest.mark.parametrize("device", [None, "cpu"])
def test_D10_an_array_given_to_jax_does_not_change_when_its_source_does(device: str | None) -> None:
    memory = np.zeros(1024 * 4 + 64, np.uint8)  # aligned to 64 bytes, jax would take it as it lies
    start = -memory.ctypes.data % 64
    source = memory[start : start + 1024 * 4].view(np.float32)
    place = None if device is None else jax.devices(device)[0]
    there = sg.realize({"w": source}, "jax", device=place)
    into, _ = sg.graft({"w": jax.device_put(np.zeros(1024, np.float32), place)}, {"w": source})
    source[:] = 1
    assert not there["w"].any() and not into["w"].any()
