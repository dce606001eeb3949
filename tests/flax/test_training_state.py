"""Training goes on after an edit as if there had been none, in float64, where nothing hides in the noise.

Train a few steps, edit parameters and moments together, train on: the loss and every number of the
state must be those of the uninterrupted run. The same test must see it when the moments are lost, or
moved otherwise than their weights.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze
from flax.training.train_state import TrainState

import surgery as sg
from tests.flax.helpers import apart, same_bytes, structure_of

WIDTH, LAYERS = 4, 11
EXACT = 1e-12


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def array(rng: np.random.Generator, *shape: int) -> Any:
    return jnp.asarray(rng.normal(size=shape) * 0.3)


def model_params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    layers = {
        f"layer_{n}": {
            "qkv": {"kernel": array(rng, WIDTH, 3 * WIDTH), "bias": array(rng, 3 * WIDTH)},
            "out": {"kernel": array(rng, WIDTH, WIDTH)},
        }
        for n in range(LAYERS)
    }
    return {**layers, "head": {"kernel": array(rng, WIDTH, 3)}}


def loss(params: Any) -> Any:
    rng = np.random.default_rng(1)
    h, wanted = array(rng, 8, WIDTH), array(rng, 8, 3)
    for n in range(LAYERS):
        layer = params[f"layer_{n}"]
        q, k, v = jnp.split(h @ layer["qkv"]["kernel"] + layer["qkv"]["bias"], 3, axis=-1)
        h = h + jnp.tanh(q * k + v) @ layer["out"]["kernel"]
    return jnp.mean((h @ params["head"]["kernel"] - wanted) ** 2)


def train(tx: Any, params: Any, state: Any, steps: int, to_model: Any = lambda params: params) -> Any:
    def step(params: Any, state: Any) -> Any:  # not jitted: compiling it would take longer than running it
        value, grads = jax.value_and_grad(lambda p: loss(to_model(p)))(params)
        updates, state = tx.update(grads, state, params)
        return value, optax.apply_updates(params, updates), state

    value = None
    for _ in range(steps):
        value, params, state = step(params, state)
    return value, params, state


OPTIMIZERS: dict[str, Any] = {
    "adam": optax.adam(1e-2),
    "adamw_on_a_schedule": optax.adamw(optax.cosine_decay_schedule(1e-2, 20), weight_decay=0.1),
    "sgd_momentum": optax.sgd(1e-2, momentum=0.9, nesterov=True),
    "clipped_chain": optax.chain(optax.clip_by_global_norm(0.1), optax.chain(optax.adam(1e-2))),
    "named_chain": optax.named_chain(("z_clip", optax.clip(0.01)), ("a_adam", optax.adam(1e-2))),
    "adamax": optax.adamax(1e-2),
    "nadam": optax.nadam(1e-2),
    "radam": optax.radam(1e-2),
    "yogi": optax.yogi(1e-2),
}
EDITS: dict[str, list[Any]] = {
    "rename": [("layer_{n:int}/{rest:**}", "block_{n+1}/{rest}")],
    "transpose_square_kernels": [("layer_{n:int}/out/kernel", "layer_{n}/out/kernel", sg.ops.transpose())],
    "split_qkv": [("{at}/qkv/{leaf}", "{at}/{query|key|value}/{leaf}", sg.ops.split(axis=-1))],
    "interleave_qkv": [
        (
            "{at}/qkv/kernel",
            "{at}/qkv/kernel",
            sg.ops.rearrange("i (three h d) -> i (h three d)", three=3, h=2),
        )
    ],
    "concat_eleven_layers": [("layer_{n:int}/out/kernel", "out/kernel", sg.ops.concat(axis=0))],
    "stack_eleven_layers": [("layer_{n:int}/{rest:**}", "layers/{rest}", sg.ops.stack(axis=0))],
    "stack_on_the_second_axis": [("layer_{n:int}/{r:**}/kernel", "layers/{r}/kernel", sg.ops.stack(axis=1))],
    "all_of_it": [
        ("layer_{n:int}/qkv/{leaf}", "layers/{q|k|v}/{leaf}", sg.ops.stack(axis=0), sg.ops.split(axis=-1)),
        ("layer_{n:int}/out/kernel", "layers/out/kernel", sg.ops.transpose(), sg.ops.stack(axis=1)),
        ("head/kernel", "classifier/weight", sg.ops.permute_axes([1, 0])),
    ],
}


@functools.cache
def uninterrupted(tx: Any) -> Any:
    params = model_params()
    _, params, state = train(tx, params, tx.init(params), 2)
    return params, state, train(tx, params, state, 3)


def check_that_training_goes_on(optimizer: str, edit: str) -> None:
    tx = OPTIMIZERS[optimizer]
    params, state, (value, *end) = uninterrupted(tx)
    plan = sg.plan(EDITS[edit], params)
    edited = plan.apply(sg.TrainingState.of(params=params, opt=state))
    assert structure_of(edited.opt) == structure_of(tx.init(edited.params))
    same_value, *there = train(tx, edited.params, edited.opt, 3, to_model=plan.inverse().apply)
    back = plan.inverse().apply(sg.TrainingState.of(params=there[0], opt=there[1]))
    assert abs(float(value - same_value)) < EXACT
    assert apart((back.params, back.opt), tuple(end)) < EXACT


@pytest.mark.parametrize("edit", EDITS)
def test_training_goes_on_as_if_nothing_had_happened(edit: str) -> None:
    check_that_training_goes_on("adam", edit)


@pytest.mark.parametrize("optimizer", ["adamw_on_a_schedule", "sgd_momentum", "clipped_chain", "named_chain"])
def test_training_goes_on_with_every_chain_that_is_known(optimizer: str) -> None:
    check_that_training_goes_on(optimizer, "all_of_it")


@pytest.mark.parametrize("optimizer", ["adamax", "nadam", "radam", "yogi"])
def test_B15_relayouts_are_exact_for_every_optimizer_that_shares_adams_state_class(optimizer: str) -> None:
    check_that_training_goes_on(optimizer, "all_of_it")


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_edit_and_its_inverse_give_the_same_bytes_and_classes(optimizer: str, edit: str) -> None:
    tx = OPTIMIZERS[optimizer]
    params = model_params()
    state = jax.tree.map(lambda x: x + jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), tx.init(params))
    plan = sg.plan(EDITS[edit], params)
    back = plan.inverse().apply(plan.apply(sg.TrainingState.of(params=params, opt=state)))
    assert same_bytes(back.params, params) and same_bytes(back.opt, state)


WRONG: dict[str, Any] = {
    "moments_dropped": lambda plan, tx, params, state: tx.init(plan.apply(params)),
    "moments_zeroed_under_the_old_count": lambda plan, tx, params, state: sg.map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf), plan.apply(state, params=params), where="**/{mu|nu|trace}/**"
    ),
    "moments_not_transposed": lambda plan, tx, params, state: sg.rename(
        state, [("{pre:**}/layer_{n:int}/out/kernel", "{pre}/layer_{n}/out/kernel")]
    ),
    "count_off_by_one": lambda plan, tx, params, state: sg.map_with_path(
        lambda path, leaf: leaf - 1, plan.apply(state, params=params), where="**/count"
    ),
}


@pytest.mark.parametrize(
    ("optimizer", "fault"),
    [
        (optimizer, fault)
        for optimizer in ("adam", "adamw_on_a_schedule", "sgd_momentum")
        for fault in WRONG
        if not (optimizer == "sgd_momentum" and fault == "count_off_by_one")
    ],
)
def test_the_same_comparison_sees_what_goes_wrong(optimizer: str, fault: str) -> None:
    tx = OPTIMIZERS[optimizer]
    params, state, (value, *end) = uninterrupted(tx)
    plan = sg.plan(EDITS["transpose_square_kernels"], params)
    wrong = WRONG[fault](plan, tx, params, state)
    edited = plan.apply(params)
    assert structure_of(wrong) == structure_of(tx.init(edited))  # no library would notice
    same_value, *there = train(tx, edited, wrong, 3, to_model=plan.inverse().apply)
    gap = apart(plan.inverse().apply(there[0]), end[0])
    assert abs(float(value - same_value)) > 1e-7 and gap > 1e-4


@pytest.mark.parametrize("wrap", [dict, freeze])
def test_a_train_state_is_edited_as_a_whole(wrap: Any) -> None:
    state = TrainState.create(apply_fn=len, params=wrap(model_params()), tx=optax.adamw(1e-2))
    state = state.apply_gradients(grads=state.params)
    plan = sg.plan(EDITS["all_of_it"], state.params)
    new = plan.apply(sg.TrainingState.of(state)).native
    assert type(new) is TrainState and new.apply_fn is len and new.tx is state.tx and new.step == 1
    assert structure_of(new) == structure_of(
        TrainState.create(apply_fn=len, params=plan.apply(state.params), tx=state.tx)
    )
    back = plan.inverse().apply(sg.TrainingState.of(new)).native
    assert same_bytes(back, state)


def test_the_state_alone_is_edited_with_the_params_it_belongs_to() -> None:
    params = model_params()
    state = optax.adam(1e-2).init(params)
    plan = sg.plan(EDITS["all_of_it"], params)
    whole = plan.apply(sg.TrainingState.of(params=params, opt=state))
    assert same_bytes(plan.apply(state, params=params), whole.opt)


def test_a_bare_tree_of_moments_is_edited_as_what_it_is() -> None:
    params = {"w": jnp.ones(2)}
    plan = sg.plan([("w", ["a", "b"])], params)
    assert plan.apply(params)["a"].tolist() == [1.0, 1.0]
    assert plan.apply(params, kind="covector")["a"].tolist() == [0.5, 0.5]  # the two share a gradient
    assert plan.apply(params, kind="covector_sq")["a"].tolist() == [0.25, 0.25]


def test_into_and_kind_are_refused_for_a_training_state() -> None:
    params = {"w": jnp.ones(2)}
    plan = sg.plan([("w", "v")], params)
    with pytest.raises(sg.RuleError, match="into= and kind= are for bare trees"):
        plan.apply(sg.TrainingState.of(params=params), kind="covector")


RAW: dict[str, Any] = {
    "state": lambda params, state: (state, "[0]/mu/w"),
    "chain": lambda params, state: ((optax.EmptyState(), state), "[1]/[0]/mu/w"),
    "named_chain": lambda params, state: ({"clip": optax.EmptyState(), "adam": state}, "adam/[0]/mu/w"),
    "train_state": lambda params, state: (
        TrainState(step=0, apply_fn=None, params=params, tx=None, opt_state=state),
        "opt_state/[0]/mu/w",
    ),
    "dict": lambda params, state: ({"params": params, "opt": state}, "opt/[0]/mu/w"),
    "list_of_states": lambda params, state: ([1.0, {"here": [state]}], "[1]/here/[0]/[0]/mu/w"),
}


@pytest.mark.parametrize("name", RAW)
def test_an_op_that_changes_values_is_refused_on_raw_moments_wherever_they_stand(name: str) -> None:
    params = {"w": jnp.ones(2)}
    tree, place = RAW[name](params, optax.adam(1e-2).init(params))
    everything = sg.ops.cast("float64", integers=True)  # the count too, which would be refused before
    for rules in ([(place, place, sg.ops.cast("bfloat16"))], [("**", "**", everything)]):
        with pytest.raises(sg.SpecError) as caught:
            sg.transform(tree, rules)
        assert "apply: cast(" in str(caught.value)
        assert "would treat moments as weights at '" in str(caught.value)
        assert "hint: plan on the parameters, then plan.apply(opt_state, params=params)" in str(caught.value)


def test_params_beside_a_state_may_be_cast_and_the_state_stays() -> None:
    state = TrainState.create(apply_fn=None, params={"w": jnp.ones(2)}, tx=optax.adam(1e-2))
    out = sg.transform(state, [("params/**", "params/**", sg.ops.cast("bfloat16"))])
    assert out.params["w"].dtype == jnp.bfloat16 and out.opt_state[0].mu["w"] is state.opt_state[0].mu["w"]


def test_casting_weights_leaves_the_moments_as_they_are() -> None:
    params = {"w": jnp.ones(2)}
    state = sg.TrainingState.of(params=params, opt=optax.adam(1e-2).init(params))
    out = sg.plan([("w", "w", sg.ops.cast("bfloat16"))], params).apply(state)
    assert out.params["w"].dtype == jnp.bfloat16
    assert out.opt[0].mu["w"].dtype == out.opt[0].nu["w"].dtype == jnp.float64


def boxed(params: Any) -> Any:
    return jax.tree.map(lambda x: nn.Partitioned(x, names=("d",) * x.ndim), params)


MIXED: dict[str, Any] = {
    "frozen_params_dict_moments": (freeze, dict),
    "dict_params_frozen_moments": (dict, freeze),
    "boxed_params_bare_moments": (boxed, dict),
}


@pytest.mark.parametrize("mix", MIXED)
def test_moments_keep_their_own_containers_where_they_differ_from_those_of_the_params(mix: str) -> None:
    of_params, of_moments = MIXED[mix]
    plain = {f"h_{n}": {"w": jnp.ones((2, 3)) * n} for n in range(3)}
    params, tx = of_params(plain), optax.adam(1e-2)
    state = tx.init(of_moments(plain))
    rules = [("h_{n:int}/w", "layers/w", sg.ops.transpose(), sg.ops.stack())]
    plan = sg.plan(rules, params)
    out = plan.apply(sg.TrainingState.of(params=params, opt=state))
    moved = sg.transform(of_moments(plain), rules)
    assert structure_of(out.opt) == structure_of(tx.init(moved))
    back = plan.inverse().apply(sg.TrainingState.of(params=out.params, opt=out.opt))
    assert same_bytes(back.opt, state) and same_bytes(back.params, params)


def test_all_parameters_may_be_dropped() -> None:
    params = {"w": jnp.ones(2)}
    tx = optax.adam(1e-2)
    out = sg.plan([("w", None)], params).apply(sg.TrainingState.of(params=params, opt=tx.init(params)))
    assert structure_of(out.opt) == structure_of(tx.init({}))


def test_B19_new_parameters_under_an_old_count_need_a_policy() -> None:
    params = {"w": jnp.ones(2)}
    tx = optax.adam(1e-2)
    state = sg.TrainingState.of(params=params, opt=tx.init(params))
    plan = sg.plan([(None, "b", sg.ops.new([3], dtype="float64"))], params)
    with pytest.raises(
        sg.RuleError, match="a new leaf has no history, and no policy says what to put in its place"
    ):
        plan.apply(state)
    with pytest.raises(
        sg.SpecError, match="one step count for all parameters: one of them cannot begin anew"
    ):
        plan.apply(state, fresh="reset")
    out = plan.apply(state, fresh="zero")
    assert structure_of(out.opt) == structure_of(tx.init(out.params)) and not out.opt[0].nu["b"].any()


def refuses(tx: Any, *, shape: tuple[int, ...] = (128, 128), name: str) -> None:
    params = {"w": jnp.ones(shape)}
    with pytest.raises(sg.AdapterError) as caught:
        sg.TrainingState.of(params=params, opt=tx.init(params))
    assert f"slots: the optax state {name} is not known here" in str(caught.value)
    assert "hint: known: ScaleByAdamState" in str(caught.value)


def test_B9_accumulated_gradients_are_not_taken_for_moments() -> None:
    refuses(optax.MultiSteps(optax.adam(1e-2), 2), name="MultiStepsState")


@pytest.mark.parametrize("shape", [(127, 512), (128, 512), (512,)])
def test_B10_a_factored_state_is_refused_in_both_its_regimes(shape: tuple[int, ...]) -> None:
    refuses(optax.adafactor(1e-2), shape=shape, name="FactoredState")


def test_B10_a_vocabulary_that_grows_into_the_other_regime_is_seen_slot_by_slot() -> None:
    tx = optax.adafactor(1e-2)
    old, new = (tx.init({"w": jnp.ones((rows, 512))}) for rows in (127, 128))
    with pytest.raises(sg.SpecError) as caught:
        sg.graft(new, old)
    found = {problem.path: (problem.expected, problem.found) for problem in caught.value.problems}
    (row,) = [texts for path, texts in found.items() if "v_row" in str(path)]
    assert "f64[128]" in str(row[0]) and "f64[1]" in str(row[1])
    (full,) = [texts for path, texts in found.items() if str(path).endswith("/v/w")]
    assert "f64[1]" in str(full[0]) and "f64[127,512]" in str(full[1])


def test_B11_no_op_on_raw_paths_moves_row_and_column_statistics_as_if_they_were_weights() -> None:
    tx = optax.adafactor(1e-2)
    states = [tx.init({"w": jnp.ones(shape)}) for shape in ((128, 512), (512, 128))]
    assert sg.spec(states[0][0].v_row) == sg.spec(states[1][0].v_row)  # shapes do not give it away
    refuses(tx, shape=(128, 512), name="FactoredState")
    with pytest.raises(sg.SpecError, match="would treat moments as weights at"):
        sg.transform(states[0], [("{p:**}/v_row/w", "{p}/v_row/w", sg.ops.cast("float32"))])


OTHER_FIELDS: dict[str, Any] = {
    "ScaleByAmsgradState": optax.amsgrad(1e-2),
    "ScaleByAdanState": optax.adan(1e-2),
    "ScaleByAdemamixState": optax.contrib.ademamix(1e-2) if hasattr(optax.contrib, "ademamix") else None,
    "ProdigyState": optax.contrib.prodigy(),
    "DoGState": optax.contrib.dog(1.0),
    "MomoAdamState": optax.contrib.momo_adam(),
    "MechanicState": optax.contrib.mechanize(optax.adam(1e-2)),
    "ScaleByLBFGSState": optax.lbfgs(),
}


@pytest.mark.parametrize("name", OTHER_FIELDS)
def test_B14_states_with_other_fields_are_refused_by_name(name: str) -> None:
    if OTHER_FIELDS[name] is None:
        pytest.skip("this optax has it not yet")
    refuses(OTHER_FIELDS[name], name=name)


def test_B16_a_second_copy_of_the_weights_is_not_taken_for_a_moment() -> None:
    refuses(optax.contrib.schedule_free(optax.adam(1e-2), 1e-2), name="ScheduleFreeState")


def test_B18_lists_of_vectors_are_not_taken_for_moments() -> None:
    refuses(optax.sm3(1e-2), name="ScaleBySM3State")


def test_a_plan_for_parameters_on_a_bare_state_asks_for_them() -> None:
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
    plan = sg.plan([("a", "z")], params)
    with pytest.raises(sg.StructureError, match=r"(?s)this is an optimizer's state.*params=params"):
        plan.apply(optax.adam(1e-3).init(params))


def test_an_unknown_state_is_named_where_it_stands_not_by_what_is_in_it() -> None:
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
    labels = {"a": "x", "b": "y"}
    tx = optax.multi_transform({"x": optax.adam(1e-3), "y": optax.set_to_zero()}, labels)
    with pytest.raises(
        sg.AdapterError, match=r"the optax state (PartitionState|MultiTransformState) is not known"
    ):
        sg.TrainingState.of(params=params, opt=tx.init(params))
