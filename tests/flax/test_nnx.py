"""nnx modules, states and Variables: what is read, edited, written back, and trained on (hazards C3 to C6)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.serialization import to_bytes
from jax.sharding import Mesh

import surgery as sg
from tests.flax.helpers import ROUND_TRIPS, apart, same_bytes, same_objects, structure_of

Tag = type("Tag", (nnx.Param,), {})
List: Any = getattr(nnx, "List", list)  # flax from 0.12 on wants its own


class Net(nnx.Module):
    """Layers in a list, statistics, a random stream, and a head."""

    def __init__(self, seed: int = 0, layers: int = 3) -> None:
        rngs = nnx.Rngs(seed)
        self.layers = List([nnx.Linear(4, 4, rngs=rngs) for _ in range(layers)])
        self.bn = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.head(self.drop(self.bn(x)))


class Tied(nnx.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        self.a = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
        self.tied = self.a


X = jnp.linspace(-1.0, 1.0, 20).reshape(5, 4)


def output(net: Any) -> Any:
    net.eval()
    return net(X)


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_a_state_goes_every_way_round_and_still_makes_the_module(way: str) -> None:
    net = Net()
    graphdef, state = nnx.split(net)
    out = ROUND_TRIPS[way](state)
    assert same_objects(out, state) and type(out) is nnx.State
    assert jnp.array_equal(output(nnx.merge(graphdef, out)), output(net))


def test_a_module_is_read_as_it_is_with_int_keys_and_edited_through_its_state() -> None:
    net = Net()
    assert ("layers", 2, "kernel") in sg.paths(net) and ("bn", "mean") in sg.paths(net)
    assert "layers/[{0..2}]/kernel  f32[4,4]" in str(sg.summarize(net))
    with pytest.raises(sg.StructureError, match="rename: a Net is a module, not a tree") as caught:
        sg.rename(net, [("head/**", "classifier/**")])
    assert "hint: edit its tree instead: rename(nnx.state(module), ...)" in str(caught.value)


def test_layers_are_stacked_and_come_back_under_int_keys() -> None:
    state = nnx.state(Net(), nnx.Param)
    plan = sg.plan([("layers/{i:int}/{rest:**}", "layers/{rest}", sg.ops.stack(axis=0))], state)
    stacked = plan.apply(state)
    assert (
        stacked["layers"]["kernel"][...].shape == (3, 4, 4) and type(stacked["layers"]["kernel"]) is nnx.Param
    )
    back = plan.inverse().apply(stacked)
    assert same_bytes(back, state) and list(back.raw_mapping["layers"]) == [0, 1, 2]


def test_text_keys_of_a_file_find_the_int_keys_of_a_module(tmp_path: Any) -> None:
    donor, net = Net(seed=1), Net()
    pure = nnx.to_pure_dict(nnx.state(donor, nnx.Param))
    (tmp_path / "net.msgpack").write_bytes(to_bytes(pure))
    tree = sg.load(tmp_path / "net.msgpack")
    assert ("layers", "0", "kernel") in sg.paths(tree)
    sg.flax.update(net, tree, missing=[("bn/{mean|var}", "keep-target"), ("drop/**", "keep-target")])
    assert jnp.array_equal(output(net), output(donor))


# C3: the type and the metadata of a Variable belong to the tree


def variable(kind: Any = nnx.Param, **metadata: Any) -> Any:
    return kind(jnp.ones(3), **metadata)


@pytest.mark.parametrize("other", [variable(nnx.BatchStat), variable(tag="x"), variable(Tag)])
def test_C3_a_graft_keeps_the_type_and_the_metadata_of_the_target(other: Any) -> None:
    target = nnx.State({"a": variable()})
    out, _ = sg.graft(target, nnx.State({"a": other}))
    assert structure_of(out) == structure_of(target) and out["a"][...] is other[...]
    assert jax.tree.map(lambda x, y: x + y, out, target)["a"][...].tolist() == [2.0] * 3


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (variable(nnx.BatchStat), "BatchStat (number 1)"),
        (variable(tag="x"), "Param (number 1), with other metadata"),
    ],
)
def test_C3_variables_that_differ_do_not_meet_in_one_op(other: Any, found: str) -> None:
    with pytest.raises(sg.SpecError, match="leaves that meet in one op are boxed differently") as caught:
        sg.transform(nnx.State({"a": variable(), "b": other}), [("{a|b}", "c", sg.ops.stack())])
    assert f"found     {found}" in str(caught.value)


def test_C3_diff_and_equal_see_type_and_metadata() -> None:
    a, b, c = (nnx.State({"a": x}) for x in (variable(), variable(nnx.BatchStat), variable(tag="x")))
    assert [str(row.status) for row in sg.diff(a, b).rows] == ["container"] and not sg.equal(a, b)
    assert sg.diff(a, c).rows[0].note == "with other metadata" and not sg.equal(a, c)
    assert sg.equal(c, nnx.State({"a": variable(tag="x")}))


# C4: Variables are rebuilt, never made anew


def named_outside_of_its_mesh() -> Any:
    mesh = Mesh(np.array(jax.devices()[:1]), ("x",))
    with jax.set_mesh(mesh):
        return nnx.Param(jnp.ones((2, 3)), out_sharding=("x", None), tag="kept")


needs_out_sharding = pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="jax before set_mesh")


@needs_out_sharding
def test_C4_a_variable_that_cannot_be_made_here_is_edited_here() -> None:
    state = nnx.State({"w": named_outside_of_its_mesh()})
    with pytest.raises(Exception, match=r"mesh|sharding"):
        nnx.Param(jnp.ones((2, 3)), out_sharding=("x", None))
    for name, way in ROUND_TRIPS.items():
        assert same_objects(way(state), state), name
    turned = sg.transform(state, [("w", "w", sg.ops.transpose())])["w"]
    assert turned.get_metadata()["out_sharding"] == (None, "x") and turned.get_metadata()["tag"] == "kept"
    assert state["w"].get_metadata()["out_sharding"] == ("x", None)
    filled, _ = sg.graft(state, {"w": np.zeros((2, 3), np.float32)})
    assert structure_of(filled) == structure_of(state) and not filled["w"][...].any()


@pytest.mark.filterwarnings("ignore:Variable hooks are deprecated")
def test_C4_no_hook_of_a_variable_runs() -> None:
    hook = {"on_create_value": lambda variable, value: value * 2}
    state = nnx.State({"w": nnx.Param(jnp.ones(3), **hook)})
    before = state["w"][...].tolist()
    for way in ROUND_TRIPS.values():
        assert way(state)["w"][...].tolist() == before
    assert sg.rename(state, [("w", "v")])["v"].get_metadata().keys() == state["w"].get_metadata().keys()


def test_C4_update_sets_values_in_the_variables_that_are_there() -> None:
    net, donor = Net(), Net(seed=1)
    before = dict(nnx.iter_graph(net))
    report = sg.flax.update(net, nnx.state(donor))
    assert all(before[path] is node for path, node in nnx.iter_graph(net) if isinstance(node, nnx.Variable))
    assert jnp.array_equal(output(net), output(donor)) and all(row.status == "loaded" for row in report.rows)


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "shape": (
        {"head": {"kernel": np.ones((4, 3), np.float32)}},
        {},
        "graft: the shape differs at 'head/kernel'",
    ),
    "name": ({"hed": {"kernel": np.ones((4, 2), np.float32)}}, {}, "hint: nearest: 'head/kernel'"),
    "shape_kept": (
        {"head": {"kernel": np.ones((4, 3), np.float32)}},
        {"mismatched": "keep-source"},
        "update: a live module would compute with something else here at 'head/kernel'",
    ),
    "name_added": (
        {"new": np.ones(3, np.float32)},
        {"unexpected": "keep-source"},
        "update: a live module cannot have it added at 'new'",
    ),
    "dropped": (
        {"head": {"kernel": np.ones((4, 2), np.float32)}},
        {"missing": [("head/bias", "drop"), ("**", "keep-target")]},
        "update: a live module cannot have it removed at 'head/bias'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_C4_update_changes_nothing_where_anything_is_wrong(case: str) -> None:
    tree, how, text = WRONG[case]
    net = Net()
    before = jax.tree.map(lambda x: x, nnx.state(net))
    with pytest.raises(sg.SurgeryError) as caught:
        sg.flax.update(
            net, {"bn": {"bias": np.ones(4, np.float32)}, **tree}, **{"missing": "keep-target", **how}
        )
    assert text in str(caught.value)
    assert same_objects(nnx.state(net), before)


# C5: nnx.Optimizer


def loss(net: Any) -> Any:
    return jnp.mean((net(X) - 1.0) ** 2)


def trained(net: Any, steps: int, tx: Any = None) -> Any:
    net.eval()
    optimizer = nnx.Optimizer(net, tx or optax.adam(1e-2), wrt=nnx.Param)
    train(net, optimizer, steps)
    return optimizer


def train(net: Any, optimizer: Any, steps: int) -> None:
    for _ in range(steps):
        grads = nnx.grad(loss)(net)
        if hasattr(optimizer, "model"):  # flax before 0.11
            optimizer.update(grads)
        else:
            optimizer.update(net, grads)


def test_C5_both_spellings_of_an_optimizer_state_have_the_same_paths() -> None:
    net = Net()
    optimizer = trained(net, 1)
    native = sg.paths(optimizer.opt_state)
    view = [path[1:] for path in sg.paths(nnx.state(optimizer)) if path[0] == "opt_state"]
    assert sorted(map(repr, native)) == sorted(map(repr, view)) and (0, "mu", "layers", 2, "kernel") in native
    assert same_objects(sg.unflatten(sg.flatten(optimizer.opt_state)), optimizer.opt_state)
    out, _ = sg.graft(optimizer.opt_state, sg.extract(nnx.state(optimizer), "opt_state"))
    assert same_bytes(out, optimizer.opt_state)


@pytest.mark.parametrize("spelling", ["native", "view"])
def test_C5_moments_are_not_changed_as_if_they_were_weights_in_either_spelling(spelling: str) -> None:
    net = Net()
    optimizer = trained(net, 1)
    tree = optimizer.opt_state if spelling == "native" else nnx.state(optimizer)
    with pytest.raises(sg.SpecError, match="would treat moments as weights at"):
        sg.transform(tree, [("{p:**}/mu/{rest:**}", "{p}/mu/{rest}", sg.ops.cast("bfloat16"))])


EDIT = [
    ("layers/{i:int}/kernel", "layers/{i}/kernel", sg.ops.transpose()),
    ("head/kernel", "head/weight", sg.ops.transpose()),
]


def test_C5_params_and_moments_are_edited_together_and_keep_their_variables() -> None:
    net = Net()
    state = sg.TrainingState.of((net, trained(net, 2)))
    plan = sg.plan(EDIT, state.params)
    out = plan.apply(state)
    mu = out.opt[0].mu
    assert type(out.opt[0]) is optax.ScaleByAdamState and type(mu["head"]["weight"]).__name__ == "OptVariable"
    assert jnp.array_equal(mu["layers"][1]["kernel"][...], state.opt[0].mu["layers"][1]["kernel"][...].T)
    back = plan.inverse().apply(out)
    assert same_bytes(back.params, state.params) and same_bytes(back.opt, state.opt)


def test_C5_training_goes_on_in_a_new_model_as_in_the_old_one() -> None:
    old = Net()
    optimizer = trained(old, 3)
    state = sg.TrainingState.of((old, optimizer))
    new = Net(seed=1)
    fresh = trained(new, 0)
    state.write_into(new, fresh)
    assert fresh.step[...] == 3 and fresh.opt_state[0].count[...] == 3
    train(old, optimizer, 3)
    train(new, fresh, 3)
    assert apart(nnx.state(old, nnx.Param), nnx.state(new, nnx.Param)) == 0.0
    assert same_bytes(nnx.state(fresh), nnx.state(optimizer))


def test_C5_training_goes_on_otherwise_where_the_moments_stay_behind() -> None:
    old = Net()
    optimizer = trained(old, 3)
    new = Net(seed=1)
    fresh = trained(new, 0)
    sg.flax.update(new, nnx.state(old))
    train(old, optimizer, 3)
    train(new, fresh, 3)
    assert apart(nnx.state(old, nnx.Param), nnx.state(new, nnx.Param)) > 1e-3


def test_C5_an_edit_is_written_into_a_model_of_the_new_structure() -> None:
    old, new = Net(layers=3), Net(seed=1, layers=4)
    optimizer = trained(old, 2)
    fresh = trained(new, 0)
    state = sg.TrainingState.of((old, optimizer))
    rules = [("layers/{i:int}/{r:**}", "layers/{i+1}/{r}")]
    rules += [
        (None, f"layers/[0]/{leaf}", sg.ops.new(shape)) for leaf, shape in (("kernel", [4, 4]), ("bias", [4]))
    ]
    sg.plan(rules, state.params).apply(state, fresh="zero").write_into(new, fresh)
    for n in range(3):
        assert jnp.array_equal(new.layers[n + 1].kernel[...], old.layers[n].kernel[...])
        moved = fresh.opt_state[0].nu["layers"][n + 1]["kernel"][...]
        assert jnp.array_equal(moved, optimizer.opt_state[0].nu["layers"][n]["kernel"][...]) and moved.any()
    assert not new.layers[0].kernel[...].any()


def test_C5_a_state_that_does_not_fit_is_written_nowhere() -> None:
    old, new = Net(layers=3), Net(seed=1, layers=4)
    state = sg.TrainingState.of((old, trained(old, 2)))
    fresh = trained(new, 0)
    before = jax.tree.map(lambda x: x, (nnx.state(new), nnx.state(fresh)))
    with pytest.raises(sg.StructureError, match=r"no leaf of the donor fills a place at 'layers/\[3\]/bias'"):
        state.write_into(new, fresh)
    assert same_objects((nnx.state(new), nnx.state(fresh)), before)
    other = Net()
    with pytest.raises(sg.SurgeryError):
        state.write_into(other, trained(other, 0, optax.sgd(0.1, momentum=0.9)))
    assert apart(nnx.state(other, nnx.Param), nnx.state(Net(), nnx.Param)) == 0.0
    with pytest.raises(sg.RuleError, match=r"write_into: a tuple is no nnx.Optimizer"):
        state.write_into(other, ())


# C6: one thing under two names


def test_C6_an_update_under_the_first_name_reaches_the_second_and_the_two_stay_one() -> None:
    net = Tied()
    shared = net.a.kernel
    assert sg.paths(net) == [("a", "bias"), ("a", "kernel")]
    sg.flax.update(net, {"a": {"kernel": np.ones((3, 3), np.float32), "bias": np.ones(3, np.float32)}})
    assert net.tied.kernel is net.a.kernel is shared and net.tied.kernel[...].sum() == 9


def test_C6_what_arrives_under_the_second_name_is_not_dropped_without_a_word() -> None:
    layer = {"kernel": np.ones((3, 3), np.float32), "bias": np.ones(3, np.float32)}
    with pytest.raises(sg.StructureError) as caught:
        sg.flax.update(Tied(), {"a": layer, "tied": layer})
    assert "a leaf of the donor has no place in the target at 'tied/kernel'" in str(caught.value)
    sg.flax.update(Tied(), {"tied": layer}, rules=[("tied/**", "a/**")])


def test_C6_extracting_the_second_name_says_that_nothing_is_held_there() -> None:
    with pytest.raises(sg.PathError, match="extract: nothing lies at 'tied'"):
        sg.extract(Tied(), "tied")
    assert sg.paths(sg.extract(Tied(), "a")) == [("bias",), ("kernel",)]


def test_C6_variables_that_hold_one_array_are_tied() -> None:
    shared = jnp.ones(3)
    state = nnx.State({"a": nnx.Param(shared), "b": nnx.Param(shared)})
    if state["a"][...] is not state["b"][...]:
        pytest.skip("this flax copies what it is given")
    with pytest.raises(sg.RuleError, match="one tensor under two names is treated in two ways"):
        sg.label(state, [("a", "frozen"), ("b", "train")])
    filled, _ = sg.graft(state, {"a": np.zeros(3, np.float32)}, missing="keep-target")
    assert filled["a"][...] is filled["b"][...] and not filled["b"][...].any()


# linen -> nnx


RECIPE = """
version = 1
from = "torch"
to = "linen"
rules = [
  { from = "encoder.{i}.weight", to = "params/encoder/{i}/kernel", ops = ["transpose"] },
  { from = "norm.weight", to = "params/norm/scale" },
  { from = "norm.running_mean", to = "TARGET" },
]
"""


def converted(tmp_path: Any, place: str, **how: Any) -> Any:
    file = tmp_path / "net.toml"
    file.write_text(RECIPE.replace("TARGET", place))
    tree = {
        **{f"encoder.{n}.weight": np.full((2, 2), n, np.float32) for n in range(2)},
        **{"norm.weight": np.ones(2, np.float32), "norm.running_mean": np.zeros(2, np.float32)},
    }
    return sg.convert(tree, "nnx", recipe=file, **how)


class Small(nnx.Module):
    """What the recipe above makes."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.encoder = List([nnx.Linear(2, 2, use_bias=False, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(2, use_bias=False, rngs=rngs)


def test_a_recipe_to_linen_leads_on_to_an_nnx_state(tmp_path: Any) -> None:
    state = converted(tmp_path, "batch_stats/norm/mean")
    assert type(state) is nnx.State and type(state["norm"]["mean"]) is nnx.BatchStat
    assert type(state["encoder"][1]["kernel"]) is nnx.Param and isinstance(
        state["norm"]["scale"][...], jax.Array
    )
    net = Small()
    sg.flax.update(net, state, missing=[("norm/var", "keep-target")])
    assert net.encoder[1].kernel[...].sum() == 4


def test_what_nnx_cannot_hold_is_refused(tmp_path: Any) -> None:
    with pytest.raises(
        sg.StructureError, match="nnx has no type of Variable for this collection at 'other/norm/mean'"
    ):
        converted(tmp_path, "other/norm/mean")
    with pytest.raises(sg.StructureError, match="convert: two collections hold one place at 'norm/scale'"):
        converted(tmp_path, "batch_stats/norm/scale")
    with pytest.raises(sg.RuleError, match="like= compares with linen's names where a recipe leads to nnx"):
        converted(tmp_path, "batch_stats/norm/mean", like=nnx.state(Small()))
