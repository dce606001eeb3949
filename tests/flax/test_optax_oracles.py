"""Real optimizer states, saved by flax after three steps: restored into a fresh state, edited, trained on.

`tests/data/optax/<kind>.msgpack` is `flax.serialization.to_bytes` of params, opt_state, grads and the
params after one more step; the `.json` beside it lists key path, shape and dtype of every leaf.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze
from flax.serialization import from_state_dict, msgpack_restore
from optax import contrib

import surgery as sg
from tests.flax.helpers import apart, same_bytes, same_objects, structure_of

DATA = Path(__file__).parents[1] / "data" / "optax"
RATE = 0.03


def is_matrix(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, params)


def groups(params: Any) -> Any:
    rules = [("embed/**", "frozen"), ("**/ln/**", "slow"), ("**", "fast")]
    return sg.label(params, rules)


# The transformations that made the states.
KINDS: dict[str, Callable[[], Any]] = {
    "adafactor": lambda: optax.adafactor(RATE, min_dim_size_to_factor=4, momentum=0.9),
    "adam": lambda: optax.adam(RATE),
    "adam_bf16_mu": lambda: optax.adam(RATE, mu_dtype=jnp.bfloat16),
    "adamw_mask": lambda: optax.adamw(RATE, weight_decay=0.1, mask=is_matrix),
    "chain_clip_adamw_ema": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(RATE), optax.ema(0.9)
    ),
    "inject_adamw": lambda: optax.inject_hyperparams(optax.adamw)(optax.linear_schedule(RATE, 0.0, 10)),
    "lion": lambda: optax.lion(RATE, weight_decay=0.1),
    "multi_transform": lambda: optax.multi_transform(
        {"fast": optax.adamw(RATE), "slow": optax.sgd(RATE, momentum=0.9), "frozen": optax.set_to_zero()},
        groups,
    ),
    "multisteps_adam": lambda: optax.MultiSteps(optax.adam(RATE), 2),
    "muon": lambda: contrib.muon(RATE),
    "schedule_free": lambda: contrib.schedule_free_adamw(RATE, warmup_steps=2),
    "sgd_plain": lambda: optax.sgd(RATE),
}
if tuple(map(int, optax.__version__.split(".")[:3])) < (
    0,
    2,
    8,
):  # which made the files: these states changed
    del KINDS["multisteps_adam"], KINDS["muon"]
# Those whose every hyperparameter is known: one more step must give the params of the file.
STEPPED = [
    kind
    for kind in ("adafactor", "adam", "adamw_mask", "lion", "multisteps_adam", "muon", "sgd_plain")
    if kind in KINDS
]
# Here leaves became float32 while training under a bf16 parameter, so a fresh state has narrower places.
WIDER = {"inject_adamw": [("inner_state/[0]/{mu|nu}/head/bias", "keep-source"), ("**", "error")]}


def part(kind: str, name: str, frozen: bool = False) -> Any:
    tree = dict(sg.extract(sg.load(DATA / f"{kind}.msgpack", to="jax"), name))
    return freeze(tree) if frozen else tree


def restored(kind: str, frozen: bool = False) -> tuple[Any, Any, Any]:
    """Return the transformation, the params, and the state out of the file in the classes of a fresh one."""
    tx, params = KINDS[kind](), part(kind, "params", frozen)
    fresh, saved = tx.init(params), part(kind, "opt_state")
    state, _ = sg.graft(fresh, saved, mismatched=WIDER.get(kind, "error"))
    assert structure_of(state) == structure_of(fresh)
    return tx, params, state


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_restores_into_a_fresh_one_as_flax_restores_it(kind: str, frozen: bool) -> None:
    tx, params, state = restored(kind, frozen)
    untyped = msgpack_restore((DATA / f"{kind}.msgpack").read_bytes())
    assert same_bytes(state, from_state_dict(tx.init(params), untyped["opt_state"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_state_has_every_key_path_shape_and_dtype_of_the_original(kind: str) -> None:
    state = restored(kind)[2]
    found = [
        [jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]
    assert found == json.loads((DATA / f"{kind}.json").read_text())["leaves"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_state_goes_apart_and_together_again(kind: str) -> None:
    state = restored(kind)[2]
    if not jax.tree.leaves(state):
        assert sg.unflatten(sg.flatten(state)) == state
        return
    parts = sg.partition(state, [("**/block_{n:int}/**", "blocks"), ("**", "rest")])
    assert same_objects(sg.merge(*parts.values()), state)


def step(tx: Any, params: Any, state: Any, grads: Any) -> Any:
    @jax.jit
    def run(params: Any, state: Any, grads: Any) -> Any:
        updates, _ = tx.update(grads, state, params)
        return optax.apply_updates(params, updates)

    return run(params, state, grads)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", STEPPED)
def test_one_more_step_from_the_restored_state_gives_the_params_of_the_file(kind: str, frozen: bool) -> None:
    tx, params, state = restored(kind, frozen)
    after = step(tx, params, state, part(kind, "grads", frozen))
    assert apart(after, part(kind, "params_next", frozen)) < 5e-7


EDIT = [
    ("{block}/attn/qkv/{leaf}", "{block}/attn/{q|k|v}/{leaf}", sg.ops.split(axis=-1)),
    ("embed/embedding", "embed/table", sg.ops.transpose()),
    ("odd\\/name.with dots/w", "plain/w", sg.ops.permute_axes([1, 0]), sg.ops.reshape([10])),
    ("head/**", "classifier/**"),
]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["adam", "adam_bf16_mu"])
def test_an_edit_carried_through_training_gives_the_edited_params_of_the_file(
    kind: str, frozen: bool
) -> None:
    tx, params, state = restored(kind, frozen)
    plan = sg.plan(EDIT, params)
    edited = plan.apply(sg.TrainingState.of(params=params, opt=state))
    assert structure_of(edited.opt) == structure_of(tx.init(edited.params))
    grads = plan.apply(part(kind, "grads", frozen), kind="covector")
    after = step(tx, edited.params, edited.opt, grads)
    by_hand = plan.apply(step(tx, params, state, part(kind, "grads", frozen)))
    assert apart(after, by_hand) == 0.0
    if kind == "adam":
        assert apart(after, plan.apply(part(kind, "params_next", frozen))) < 5e-7


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["adam", "adam_bf16_mu"])
def test_an_edit_undone_gives_the_same_bytes_in_the_same_classes(kind: str, frozen: bool) -> None:
    _, params, state = restored(kind, frozen)
    plan = sg.plan(EDIT, params)
    edited = plan.apply(sg.TrainingState.of(params=params, opt=state))
    back = plan.inverse().apply(edited)
    assert same_bytes(back.opt, state) and same_bytes(back.params, params)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"sgd_plain"}))
def test_renames_of_raw_paths_reach_every_copy_of_a_parameter_and_can_be_undone(kind: str) -> None:
    state = restored(kind)[2]
    plan = sg.plan([("{pre:**}/block_{n:int}/{rest:**}", "{pre}/h_{n}/{rest}")], state)
    renamed = plan.apply(state)
    before, after = sg.matches(state, "**/block_{n:int}/**"), sg.matches(renamed, "**/h_{n:int}/**")
    assert len(before) == len(after) > 0 and not sg.matches(renamed, "**/block_{n:int}/**")
    assert same_objects(plan.inverse().apply(renamed), state)


def test_a_gap_in_the_blocks_is_refused_when_they_are_stacked() -> None:
    params = part("adam", "params")
    with pytest.raises(sg.RuleError, match="there is a gap in what is collected") as caught:
        sg.plan([("block_{n:int}/{rest:**}", "blocks/{rest}", sg.ops.stack())], params)
    assert "no leaf for n = 1" in str(caught.value)


def test_arrays_of_a_file_are_read_when_used() -> None:
    tree = sg.load(DATA / "adam.msgpack")
    assert type(tree["params"]["temperature"]).__name__ == "Lazy"
    assert isinstance(np.asarray(tree["params"]["temperature"]), np.ndarray)
