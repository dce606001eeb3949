"""Any other pytree that is registered with jax, through jax's own key paths (hazards A8, C7, C8)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import struct
from flax.training.train_state import TrainState

import surgery as sg
from tests.flax.helpers import ROUND_TRIPS, same_objects, structure_of

W = jnp.arange(6.0).reshape(2, 3)


@struct.dataclass
class Struct:
    w: Any
    bias: Any = None
    name: str = struct.field(pytree_node=False, default="layer")


@struct.dataclass
class NoData:
    name: str = struct.field(pytree_node=False, default="nothing")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Registered:
    w: Any
    size: int = dataclasses.field(metadata={"static": True}, default=3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AlsoAMapping(Mapping[str, Any]):
    """As chex makes them: a dataclass that can be read like a dict, and made like none."""

    w: Any
    size: int = dataclasses.field(metadata={"static": True}, default=3)

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(("w", "size"))

    def __len__(self) -> int:
        return 2


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static:
    size: int = 1


@jax.tree_util.register_pytree_with_keys_class
class Keyed:
    """Keys of every type that jax has."""

    def __init__(self, *children: Any) -> None:
        self.children = children

    def tree_flatten_with_keys(self) -> Any:
        keys = [jax.tree_util.GetAttrKey("a"), jax.tree_util.DictKey("b/c"), jax.tree_util.SequenceKey(2)]
        return list(zip(keys, self.children, strict=True)), None

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> Keyed:
        return cls(*children)


@jax.tree_util.register_pytree_with_keys_class
class Twice(Keyed):
    """Two children under one key, which jax allows."""

    def tree_flatten_with_keys(self) -> Any:
        keys = [jax.tree_util.GetAttrKey("a"), jax.tree_util.DictKey("a")]
        return list(zip(keys, self.children, strict=True)), None


@jax.tree_util.register_pytree_node_class
class Keyless:
    def __init__(self, *children: Any) -> None:
        self.children = children

    def tree_flatten(self) -> Any:
        return self.children, None

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> Keyless:
        return cls(*children)


@jax.tree_util.register_pytree_node_class
class Tagged(dict[str, Any]):
    """A registered subclass of dict, with something beside its items."""

    tag: str = ""

    def tree_flatten(self) -> Any:
        return tuple(self.values()), (tuple(self), self.tag)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> Tagged:
        out = cls(zip(aux[0], children, strict=True))
        out.tag = aux[1]
        return out


def tagged() -> Tagged:
    out = Tagged(w=W, b=W + 1)
    out.tag = "kept"
    return out


class Encoder(eqx.Module):
    first: eqx.nn.Linear
    blocks: list[Any]
    activation: Any = jax.nn.relu
    width: int = eqx.field(static=True, default=4)

    def __call__(self, x: Any) -> Any:
        x = self.activation(self.first(x))
        for block in self.blocks:
            x = block(x)
        return x


def encoder() -> Encoder:
    keys = jax.random.split(jax.random.key(0), 3)
    linear = eqx.nn.Linear
    return Encoder(
        linear(3, 4, use_bias=False, key=keys[0]), [linear(4, 4, key=keys[1]), linear(4, 4, key=keys[2])]
    )


TREES: dict[str, Any] = {
    "struct": Struct(W),
    "struct_with_a_tree": Struct({"w": [W]}, bias=(W + 1,), name="other"),
    "struct_without_data": NoData("x"),
    "struct_without_data_inside": {"a": NoData("x"), "w": W},
    "register_dataclass": Registered(W, size=7),
    "dataclass_that_is_a_mapping": AlsoAMapping({"w": W}, size=7),
    "register_static": {"s": Static(5), "w": W},
    "with_keys": Keyed(W, {"w": W + 1}, [W + 2]),
    "without_keys": Keyless(W, {"w": W + 1}),
    "two_children_of_one_key": Twice(W, {"w": W + 1}),
    "dict_subclass": {"t": tagged()},
    "equinox": encoder(),
    "partial": jax.tree_util.Partial(max, W),
}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_a_registered_pytree_comes_back_as_it_was(way: str, name: str) -> None:
    tree = TREES[name]
    assert same_objects(ROUND_TRIPS[way](tree), tree)


def test_paths_are_those_of_jax() -> None:
    assert sg.paths(Keyed(W, {"w": W}, [W])) == [("a",), ("b/c", "w"), (2, 0)]
    assert sg.paths(Keyless(W, {"w": W})) == [(0,), (1, "w")]
    assert sg.paths(Struct(W, bias=W)) == [("w",), ("bias",)]


def test_two_children_of_one_key_have_each_a_path_of_its_own() -> None:
    assert sg.paths(Twice(W, W)) == [(0,), (1,)]


def test_static_fields_are_no_leaves_and_stay() -> None:
    doubled = sg.map_with_path(lambda path, leaf: 2 * leaf, {"a": Registered(W, size=7), "b": tagged()})
    assert doubled["a"].size == 7 and doubled["b"].tag == "kept"
    assert (doubled["a"].w == 2 * W).all()


def test_A8_nodes_without_data_fields_keep_what_they_are() -> None:
    tree = {"a": NoData("x"), "s": Static(5), "w": W}
    assert sg.paths(tree) == [("w",)]
    out = sg.map_with_path(lambda path, leaf: leaf, tree)
    assert out["a"] == NoData("x") and out["s"] == Static(5)
    assert not sg.equal(tree, {**tree, "a": NoData("y")})


def test_fixed_fields_refuse_other_keys_and_name_them() -> None:
    with pytest.raises(sg.StructureError) as caught:
        sg.rename({"layer": Struct(W, bias=W + 1)}, [("layer/w", "layer/kernel")])
    assert str(caught.value) == (
        "rename: a Struct cannot hold these keys at 'layer'\n"
        "  expected  ['w', 'bias']\n"
        "  found     ['kernel', 'bias']\n"
        "  hint: move the whole container, or turn it into a dict first"
    )


def test_C8_an_equinox_model_still_computes_after_every_way_round() -> None:
    model, x = encoder(), jnp.ones(3)
    for way in ROUND_TRIPS.values():
        assert (way(model)(x) == model(x)).all()


def test_C8_an_absent_bias_is_structure() -> None:
    model = encoder()
    assert ("first", "bias") not in sg.paths(model)
    assert sg.map_with_path(lambda path, leaf: leaf, model).first.bias is None


def test_C8_labels_and_masks_fit_an_equinox_model() -> None:
    model = eqx.filter(encoder(), eqx.is_array)
    labels = sg.label(model, [("first/**", "frozen"), ("**", "train")])
    transforms = {"frozen": optax.set_to_zero(), "train": optax.adam(1e-3)}
    tx = optax.multi_transform(transforms, lambda _: labels)  # optax would call a tree that can be called
    updates, _ = tx.update(model, tx.init(model), model)
    assert not updates.first.weight.any() and updates.blocks[1].weight.any()


def test_C8_a_plan_edits_an_equinox_model_in_place_of_tree_at() -> None:
    model = encoder()
    edited = sg.transform(model, [("blocks/1/weight", "blocks/1/weight", sg.ops.transpose())])
    by_equinox = eqx.tree_at(lambda m: m.blocks[1].weight, model, model.blocks[1].weight.T)
    assert structure_of(edited) == structure_of(by_equinox)
    assert (edited.blocks[1].weight == by_equinox.blocks[1].weight).all()
    assert edited.first.weight is model.first.weight


def train_state(tx: Any = None) -> TrainState:
    def apply_fn(*args: Any) -> None:
        return None

    return TrainState.create(apply_fn=apply_fn, params={"w": W, "b": W[0]}, tx=tx or optax.adam(1e-3))


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_C7_a_train_state_comes_back_with_its_functions(way: str) -> None:
    state = train_state()
    out = ROUND_TRIPS[way](state)
    assert same_objects(out, state)
    assert out.apply_fn is state.apply_fn and out.tx is state.tx
    assert type(out.step) is int  # as TrainState.create makes it


def test_C7_a_graft_between_train_states_keeps_the_functions_of_the_target() -> None:
    old, new = train_state(), train_state(optax.adam(1e-2))
    assert structure_of(old) != structure_of(new)  # functions compare by identity
    trained = old.apply_gradients(grads=old.params)
    out, report = sg.graft(new, trained.replace(step=int(trained.step)))
    assert out.tx is new.tx and out.step == 1 and out.params["w"] is trained.params["w"]
    assert not report.with_status("missing", "unexpected", "mismatched")


def test_C7_what_stands_beside_the_params_is_part_of_the_tree() -> None:
    params = {"params": {"w": W}, "_overwrite_with_gradient": {"scale": jnp.ones(1)}}
    state = TrainState.create(apply_fn=None, params=params, tx=optax.sgd(0.1, momentum=0.9))
    assert ("params", "_overwrite_with_gradient", "scale") in sg.paths(state)
    assert same_objects(sg.unflatten(sg.flatten(state)), state)
