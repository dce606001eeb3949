"""Checks of sharded arrays, run by `test_sharded.py` in a process of its own that has four devices.

`python -m tests.flax.four_devices` runs every `check_...` and prints, as JSON, what failed in each.
"""

from __future__ import annotations

import json
import traceback
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import surgery as sg
from tests.flax.helpers import ROUND_TRIPS, same_objects

DEVICES = 4


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(2, 2), ("d", "m"))


def sharding(*axes: Any) -> NamedSharding:
    return NamedSharding(mesh(), P(*axes))


def array(shape: tuple[int, ...], *axes: Any, first: int = 0) -> Any:
    numbers = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + first
    return jax.device_put(numbers, sharding(*axes))


def w(first: int = 0) -> Any:
    return array((8, 4), "d", "m", first=first)


def is_laid_out(x: Any, *axes: Any) -> bool:
    return bool(x.sharding.is_equivalent_to(sharding(*axes), x.ndim))


def refused(call: Callable[[], Any], *texts: str) -> None:
    try:
        call()
    except sg.SurgeryError as error:
        assert all(text in str(error) for text in texts), str(error)
    else:
        raise AssertionError("it was not refused")


# op, its source, the layout of each result
KEPT: dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = {
    "transpose": (sg.ops.transpose(), ("d", "m"), ("m", "d")),
    "permute_axes": (sg.ops.permute_axes([1, 0]), ("d", None), (None, "d")),
    "reshape_of_one_axis": (sg.ops.reshape([2, 4, 4]), ("d", "m"), ("d", None, "m")),
    "rearrange": (sg.ops.rearrange("(h d) i -> h i d", h=4), ("d", "m"), ("d", "m", None)),
    "take_along_another_axis": (sg.ops.take([1, 0, 3, 2], axis=1), ("d", None), ("d", None)),
    "cast": (sg.ops.cast("bfloat16"), ("d", "m"), ("d", "m")),
    "untie": (sg.ops.untie(), ("d", "m"), ("d", "m")),
}


def check_one_to_one_ops_keep_the_layout_of_their_axes() -> None:
    for name, (op, before, after) in KEPT.items():
        x = array((8, 4), *before)
        plan = sg.plan([("x", "y", op)], {"x": x})
        out = plan.apply({"x": x})["y"]
        assert is_laid_out(out, *after), (name, out.sharding)
        assert sg.equal({"y": out}, plan.apply({"x": np.asarray(x)})), name


def check_an_inverse_gives_the_layout_back() -> None:
    for name, (op, before, _) in KEPT.items():
        x = array((8, 4), *before)
        plan = sg.plan([("x", "y", op)], {"x": x})
        if not plan.lost:
            back = plan.inverse().apply(plan.apply({"x": x}))["x"]
            assert is_laid_out(back, *before) and sg.equal({"x": back}, {"x": x}), (name, back.sharding)


def check_leaves_that_meet_keep_the_layout_that_they_share() -> None:
    tree = {"l": {str(n): w(n) for n in range(3)}}
    stacked = sg.transform(tree, [("l/{i:int}", "l", sg.ops.stack(axis=0))])["l"]
    assert is_laid_out(stacked, None, "d", "m")
    inner = sg.transform(tree, [("l/{i:int}", "l", sg.ops.stack(axis=1))])["l"]
    assert is_laid_out(inner, "d", None, "m")
    joined = sg.transform(tree, [("l/{i:int}", "l", sg.ops.concat(axis=1))])["l"]
    assert is_laid_out(joined, "d", "m") and np.array_equal(joined[:, 4:8], tree["l"]["1"])
    back = sg.transform({"l": stacked}, [("l", "l/{a|b|c}", sg.ops.unstack(axis=0))])["l"]
    assert all(is_laid_out(leaf, "d", "m") for leaf in back.values())
    parts = sg.transform({"l": array((8, 4), None, "m")}, [("l", "l/{a|b}", sg.ops.split(axis=0))])["l"]
    assert all(is_laid_out(leaf, None, "m") for leaf in parts.values())


def check_every_verb_hands_on_the_very_same_sharded_arrays() -> None:
    tree = {"enc": {"w": w()}, "k": jax.device_put(jax.random.split(jax.random.key(0), 4), sharding("d"))}
    for name, way in ROUND_TRIPS.items():
        assert same_objects(way(tree), tree), name


def check_what_comes_into_a_sharded_place_is_laid_out_like_it() -> None:
    donors = {
        "numpy": np.ones((8, 4), np.float32),
        "uncommitted": jnp.ones((8, 4)),
        "another_device": jax.device_put(jnp.ones((8, 4)), jax.devices()[3]),
        "another_layout": array((8, 4), "m", None) * 0 + 1,
        "another_dtype": jnp.ones((8, 4), jnp.bfloat16),
        "fortran_order": np.asfortranarray(np.ones((8, 4), np.float32)),
    }
    for name, donor in donors.items():
        grafted = sg.graft({"x": w()}, {"x": donor})[0]["x"]
        assert is_laid_out(grafted, "d", "m") and np.array_equal(grafted, np.ones((8, 4))), name
        if grafted.dtype == donor.dtype:
            put = sg.plan([("y", "x")], {"y": donor}).apply({"y": donor}, into={"x": w()})["x"]
            assert is_laid_out(put, "d", "m"), name


def check_a_donor_in_the_right_layout_is_taken_as_the_object_that_it_is() -> None:
    donor = w(1)
    assert sg.graft({"x": w()}, {"x": donor})[0]["x"] is donor


def check_a_sharded_donor_is_not_gathered_where_nobody_chose_a_place_for_the_target() -> None:
    donor = w(1)
    assert sg.graft({"x": jnp.ones((8, 4))}, {"x": donor})[0]["x"] is donor
    chosen = jax.device_put(jnp.ones((8, 4)), jax.devices()[1])
    moved = sg.graft({"x": chosen}, {"x": donor})[0]["x"]
    assert (
        moved.sharding.device_set == {jax.devices()[1]} and moved.committed and np.array_equal(moved, donor)
    )


def check_keys_are_moved_as_keys() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    target = jax.device_put(jax.random.split(jax.random.key(1), 4), sharding("d"))
    out = sg.graft({"k": target}, {"k": keys})[0]["k"]
    assert out.dtype == keys.dtype and out.sharding.is_equivalent_to(sharding("d"), 1)
    assert sg.equal({"k": out}, {"k": keys})
    elsewhere = sg.realize({"k": keys}, "jax", device=jax.devices()[2])["k"]
    assert elsewhere.dtype == keys.dtype and elsewhere.devices() == {jax.devices()[2]}


def check_new_leaves_can_be_used_with_sharded_ones() -> None:
    tree = {"x": w()}
    out = sg.transform(tree, [(None, "same", sg.ops.new([8, 4])), (None, "other", sg.ops.new([3], init=1.0))])
    assert is_laid_out(out["same"], "d", "m") and is_laid_out(out["other"])
    assert jax.jit(lambda tree: tree["x"].sum() + tree["other"].sum())(out) == w().sum() + 3


def check_params_and_moments_keep_their_layout_together() -> None:
    params = {f"h_{n}": {"w": w(n)} for n in range(2)} | {"head": array((4, 8), "m", "d")}
    tx = optax.adamw(1e-3)
    rules = [("h_{n:int}/w", "h/w", sg.ops.transpose(), sg.ops.stack()), (None, "new", sg.ops.new([8, 4]))]
    plan = sg.plan(rules, params)
    before = sg.TrainingState.of(params=params, opt=tx.init(params))
    out = plan.apply(before, fresh="zero")
    for tree in (out.params, out.opt[0].mu, out.opt[0].nu):
        assert is_laid_out(tree["h"]["w"], None, "m", "d") and is_laid_out(tree["head"], "m", "d")
        assert is_laid_out(tree["new"], "d", "m")
    updates, _ = jax.jit(tx.update)(out.params, out.opt, out.params)
    assert jax.tree.structure(updates) == jax.tree.structure(out.params)


def check_arrays_on_different_devices_do_not_meet_in_one_op() -> None:
    first, second = (jax.device_put(jnp.ones(3), device) for device in jax.devices()[1:3])
    rules = [("{a|b}", "c", sg.ops.stack())]
    refused(
        lambda: sg.transform({"a": first, "b": second}, rules),
        "transform: one op meets arrays that live on different devices at 'a'",
        "found     devices [1] and [2]",
        "hint: put them together first: realize(tree, 'jax', device=...)",
    )
    refused(lambda: sg.transform({"a": first, "b": array((3,))}, rules), "devices [0, 1, 2, 3] and [1]")
    together = sg.realize({"a": first, "b": second}, "jax", device=jax.devices()[3])
    assert sg.transform(together, rules)["c"].devices() == {jax.devices()[3]}
    assert sg.transform({"a": first, "b": jnp.ones(3)}, rules)["c"].devices() == {jax.devices()[1]}


def check_boxes_and_variables_hold_sharded_arrays() -> None:
    boxed = {"l": {str(n): nn.Partitioned(w(n), names=("d", "m")) for n in range(2)}}
    out = sg.transform(boxed, [("l/{i}", "l/{i}", sg.ops.transpose())])
    assert out["l"]["0"].names == ("m", "d") and is_laid_out(out["l"]["0"].value, "m", "d")
    module = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    module.kernel[...] = w()
    sg.flax.update(module, {"kernel": np.ones((8, 4), np.float32), "bias": np.ones(4, np.float32)})
    assert is_laid_out(module.kernel[...], "d", "m") and module.kernel[...].sum() == 32


def check_sharded_arrays_are_written_to_files_and_come_back() -> None:
    tree = {"x": w(), "y": array((4, 4), "m", None)}
    with TemporaryDirectory() as folder:
        for name in ("x.safetensors", "x.msgpack", *(["x.pt"] if find_spec("torch") else [])):
            sg.save(tree, Path(folder) / name)
            loaded = sg.load(Path(folder) / name)
            assert sg.equal(sg.realize(loaded, "numpy"), sg.realize(tree, "numpy")), name
            back = sg.graft(tree, loaded)[0]
            assert is_laid_out(back["x"], "d", "m") and is_laid_out(back["y"], "m", None), name
            placed = sg.load(Path(folder) / name, to="jax", device=sharding("d"))
            assert is_laid_out(placed["x"], "d"), name


def check_deleted_arrays_still_say_where_they_were() -> None:
    target = {"x": w()}
    jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(target)
    assert target["x"].is_deleted()
    out = sg.graft(target, {"x": np.ones((8, 4), np.float32)})[0]["x"]
    assert is_laid_out(out, "d", "m") and out.sum() == 32


def check_abstract_trees_keep_the_layout_that_they_name() -> None:
    shapes = {"x": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=sharding("d", "m"))}
    for name, way in ROUND_TRIPS.items():
        assert same_objects(way(shapes), shapes), name
    assert sg.rename(shapes, [("x", "y")])["y"].sharding == sharding("d", "m")


def check_edits_run_inside_jit_on_sharded_arrays() -> None:
    tree = {"l": {str(n): w(n) for n in range(2)}}
    plan = sg.plan([("l/{i:int}", "l", sg.ops.transpose(), sg.ops.stack())], tree)
    out = jax.jit(plan.apply)(tree)
    assert sg.equal(out, plan.apply(tree)) and out["l"].sharding.device_set == set(jax.devices())
    donated = jax.jit(plan.apply, donate_argnums=0)(jax.tree.map(jnp.copy, tree))
    assert sg.equal(donated, out)


CHECKS = {name: check for name, check in list(globals().items()) if name.startswith("check_")}


def main() -> None:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Some donated buffers were not usable")
    assert len(jax.devices()) == DEVICES
    failed = {}
    for name, check in CHECKS.items():
        try:
            check()
        except Exception:
            failed[name] = traceback.format_exc()
    print(json.dumps(failed))


if __name__ == "__main__":
    main()
