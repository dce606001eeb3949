"""Plans on torch training states: what moves, what is refused, what is never shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn, optim

import surgery as sg
from tests.torch.nets import TiedNet


def layers(count: int) -> nn.Module:
    """Return layers of one shape under natural-order names."""
    return nn.ModuleDict({"h": nn.ModuleList(nn.Linear(3, 3) for _ in range(count))})


def trained(
    net: nn.Module, make: Any = optim.Adam, steps: int = 2, skip: tuple[str, ...] = ()
) -> optim.Optimizer:
    """Return an optimizer that has taken some steps, in which the parameters of `skip` had no gradient."""
    torch.manual_seed(0)
    opt = make([*net.named_parameters()])
    for _ in range(steps):
        for name, p in net.named_parameters():
            p.grad = None if name in skip else torch.randn_like(p)
        opt.step()
    return opt


def momentum(params: Any) -> optim.Optimizer:
    return optim.SGD(params, lr=0.1, momentum=0.9)


STACK = [("h.{i:int}.{p}", "h.{p}", sg.ops.stack(axis=0))]


def steps_of(opt: dict[str, Any]) -> list[torch.Tensor]:
    return [held["step"] for held in opt["state"].values()]


def test_moments_of_twelve_layers_are_stacked_in_natural_order() -> None:
    net = layers(12)
    opt = trained(net)
    state = sg.TrainingState.of((net, opt))
    new = sg.plan(STACK, state.params).apply(state)
    expected = torch.stack([opt.state[layer.weight]["exp_avg"] for layer in net["h"]])
    assert torch.equal(new.slots.banks[0].slots["mu"]["h", "weight"], expected)
    assert [float(step) for step in steps_of(new.opt)] == [2.0, 2.0]
    assert new.opt["param_groups"][0]["param_names"] == ["h.weight", "h.bias"]


@pytest.mark.parametrize(
    ("rules", "count"),
    [
        ([("h.0.weight", ["h.0.a", "h.0.b", "h.0.c"])], 12),
        ([("h.{i}.weight", "h.{i}.{q|k|v}", sg.ops.split(axis=0))], 16),
        (STACK, 2),
    ],
)
def test_2b_28_no_two_parameters_share_a_step_tensor(rules: list[Any], count: int) -> None:
    """The optimizer adds to it in place, once per parameter."""
    net = layers(5)
    state = sg.TrainingState.of((net, trained(net)))
    try:
        new = sg.plan(rules, state.params).apply(state)
    except sg.SpecError as error:
        assert "cannot be moved exactly" in str(error)
        return
    found = steps_of(new.opt)
    assert len({step.data_ptr() for step in found}) == len(found)


def test_2b_28_unstacked_layers_count_their_steps_each_for_itself() -> None:
    net = nn.ParameterDict({"w": nn.Parameter(torch.randn(11, 3)), "b": nn.Parameter(torch.randn(3))})
    opt = trained(net)
    state = sg.TrainingState.of((net, opt))
    new = sg.plan([("w", "h.{i:int}.w", sg.ops.unstack(axis=0))], state.params).apply(state)
    assert len({step.data_ptr() for step in steps_of(new.opt)}) == 12
    named = {".".join(path): nn.Parameter(x.clone()) for path, x in sg.flatten(new.params).items()}
    names = new.opt["param_groups"][0]["param_names"]
    fresh = optim.Adam([(name, named[name]) for name in names])
    fresh.load_state_dict(new.opt)
    for p in named.values():
        p.grad = torch.ones_like(p)
    fresh.step()
    assert {float(held["step"]) for held in fresh.state.values()} == {3.0}


def test_a_rename_shares_every_moment_and_moves_nothing() -> None:
    net = layers(3)
    opt = trained(net)
    state = sg.TrainingState.of((net, opt))
    new = sg.plan([("h.{r:**}", "layers.{r}")], state.params).apply(state)
    before, after = sg.flatten(state.opt["state"]), sg.flatten(new.opt["state"])
    assert list(before) == list(after) and all(after[path] is x for path, x in before.items())
    assert new.opt["param_groups"][0]["param_names"][0] == "layers.0.weight"


def test_the_state_before_is_not_changed() -> None:
    net = layers(3)
    opt = trained(net)
    state = sg.TrainingState.of((net, opt))
    before = sg.map_with_path(lambda path, x: x.clone() if isinstance(x, torch.Tensor) else x, state.opt)
    sg.plan(STACK, state.params).apply(state)
    assert sg.equal(state.opt, before) and sg.equal(opt.state_dict()["state"], before["state"])


def test_parameters_of_which_only_some_have_state_are_not_joined() -> None:
    net = layers(3)
    state = sg.TrainingState.of((net, trained(net, skip=("h.1.weight",))))
    with pytest.raises(sg.SpecError) as caught:
        sg.plan(STACK, state.params).apply(state)
    assert "one op joins parameters of which only some have 'mu' at 'h/weight'" in str(caught.value)


def test_parameters_that_all_have_no_state_are_joined_without_one() -> None:
    net = layers(2)
    state = sg.TrainingState.of((net, trained(net, skip=("h.0.weight", "h.1.weight"))))
    new = sg.plan(STACK, state.params).apply(state)
    assert ("h", "weight") in new.slots.banks[0].members
    assert ("h", "weight") not in new.slots.banks[0].slots["mu"]
    assert list(new.opt["state"]) == [new.opt["param_groups"][0]["param_names"].index("h.bias")]


def test_parameters_with_different_counts_are_not_joined() -> None:
    net = layers(2)
    opt = trained(net)
    opt.state[net["h"][1].weight]["step"] += 5
    state = sg.TrainingState.of((net, opt))
    with pytest.raises(sg.SpecError) as caught:
        sg.plan(STACK, state.params).apply(state)
    assert "have taken different numbers of steps at 'h/weight'" in str(caught.value)
    assert "found     2, 7" in str(caught.value)


def test_parameters_of_two_groups_are_not_joined() -> None:
    net = layers(2)
    opt = optim.Adam(
        [{"params": [*layer.named_parameters(prefix=f"h.{n}")]} for n, layer in enumerate(net["h"])]
    )
    state = sg.TrainingState.of((net, opt))
    with pytest.raises(sg.SpecError, match="joins parameters of which this optimizer updates only some"):
        sg.plan(STACK, state.params).apply(state)


def test_each_group_moves_its_own_members() -> None:
    net = layers(11)
    weights = [(name, p) for name, p in net.named_parameters() if name.endswith("weight")]
    biases = [(name, p) for name, p in net.named_parameters() if name.endswith("bias")]
    opt = trained(net, lambda _: optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0}]))
    state = sg.TrainingState.of((net, opt))
    new = sg.plan(STACK, state.params).apply(state)
    assert [bank.members for bank in new.slots.banks] == [(("h", "weight"),), (("h", "bias"),)]
    assert [group["weight_decay"] for group in new.opt["param_groups"]] == [0.01, 0.0]


def test_a_dropped_parameter_takes_its_state_with_it() -> None:
    net = layers(3)
    state = sg.TrainingState.of((net, trained(net)))
    new = sg.plan([("h.1.**", None)], state.params).apply(state)
    assert len(new.opt["state"]) == 4
    assert new.opt["param_groups"][0]["param_names"] == ["h.0.weight", "h.0.bias", "h.2.weight", "h.2.bias"]
    assert new.opt["param_groups"][0]["params"] == [0, 1, 2, 3]


NEW = [(None, "h.9.weight", sg.ops.new([3, 3])), (None, "h.9.bias", sg.ops.new([3]))]


def test_a_new_parameter_needs_a_policy_where_others_have_moments() -> None:
    net = layers(2)
    state = sg.TrainingState.of((net, trained(net)))
    with pytest.raises(sg.RuleError) as caught:
        sg.plan(NEW, state.params).apply(state)
    assert "a new leaf has no history, and no policy says what to put in its place" in str(caught.value)


def test_reset_begins_anew_and_zero_goes_on_counting() -> None:
    net = layers(2)
    state = sg.TrainingState.of((net, trained(net)))
    new = sg.plan(NEW, state.params).apply(state, fresh=[("**.weight", "reset"), ("**.bias", "zero")])
    bank = new.slots.banks[0]
    assert ("h", "9", "weight") in bank.members and ("h", "9", "weight") not in bank.counts
    assert float(bank.counts["h", "9", "bias"]) == 2
    assert torch.equal(bank.slots["mu"]["h", "9", "bias"], torch.zeros(3))
    assert len({step.data_ptr() for step in steps_of(new.opt)}) == 5
    grown = layers(10)
    grown["h"] = nn.ModuleDict({key: nn.Linear(3, 3) for key in ("0", "1", "9")})
    opt = optim.Adam([*grown.named_parameters()])
    new.write_into(grown, opt)
    for p in grown.parameters():
        p.grad = torch.ones_like(p)
    opt.step()
    steps = {name: float(opt.state[p]["step"]) for name, p in grown.named_parameters()}
    assert steps["h.9.weight"] == 1 and steps["h.9.bias"] == steps["h.0.weight"] == 3


def test_a_cast_rounds_the_weight_and_not_its_moments() -> None:
    net = layers(1)
    opt = trained(net)
    state = sg.TrainingState.of((net, opt))
    plan = sg.plan([("{p:**}", "{p}", sg.ops.cast("bfloat16"))], state.params)
    new = plan.apply(state)
    other = layers(1).bfloat16()
    fresh = optim.Adam([*other.named_parameters()])
    new.write_into(other, fresh)
    assert torch.equal(other["h"][0].weight, net["h"][0].weight.bfloat16())
    assert torch.equal(fresh.state[other["h"][0].weight]["exp_avg"], opt.state[net["h"][0].weight]["exp_avg"])


def test_the_group_of_a_new_parameter_is_not_guessed() -> None:
    net = layers(2)
    opt = trained(
        net,
        lambda p: optim.Adam([{"params": p[:2]}, {"params": p[2:]}]),
    )
    state = sg.TrainingState.of((net, opt))
    with pytest.raises(sg.RuleError) as caught:
        sg.plan(NEW, state.params).apply(state, fresh="reset")
    assert "which part of the optimizer a new parameter belongs to cannot be told" in str(caught.value)
    assert "found     group 0, group 1" in str(caught.value)


def test_a_tied_parameter_has_one_state_through_a_rename() -> None:
    net = TiedNet()
    opt = trained(net)
    state = sg.TrainingState.of((net, opt))
    rules = [("embed.weight", "wte.weight"), ("head.weight", "lm_head.weight"), ("blocks.{r:**}", "h.{r}")]
    new = sg.plan(rules, state.params).apply(state)
    assert len(new.opt["state"]) == len(opt.state)
    assert new.opt["param_groups"][0]["param_names"][0] == "wte.weight"
    assert new.params["wte.weight"].data_ptr() == new.params["lm_head.weight"].data_ptr()


def test_dropping_one_name_of_a_tied_parameter_keeps_its_state() -> None:
    net = TiedNet()
    opt = trained(net)
    state = sg.TrainingState.of((net, opt))
    for name, other in (("head.weight", "embed.weight"), ("embed.weight", "head.weight")):
        new = sg.plan([(name, None, sg.ops.tie(other))], state.params).apply(state)
        assert len(new.opt["state"]) == len(opt.state)
        assert other in new.opt["param_groups"][0]["param_names"]
        assert name not in new.params


def test_buffers_move_with_the_plan_and_have_no_state() -> None:
    net = TiedNet()
    state = sg.TrainingState.of((net, trained(net)))
    new = sg.plan([("bn.{r}", "norm.{r}")], state.params).apply(state)
    assert new.params["norm.num_batches_tracked"] is state.params["bn.num_batches_tracked"]
    assert ("norm", "running_mean") not in new.slots.banks[0].members


@pytest.mark.parametrize("make", [optim.Adam, momentum])
def test_a_raw_optimizer_state_is_edited_through_its_parameters(make: Any) -> None:
    net = layers(11)
    opt = trained(net, make)
    params = net.state_dict()
    plan = sg.plan(STACK, params)
    new = plan.apply(opt.state_dict(), params=params)
    through_state = plan.apply(sg.TrainingState.of((net, opt))).opt
    assert sg.equal(new, through_state)
    with pytest.raises(sg.SurgeryError):
        plan.apply(opt.state_dict())


def test_2b_22_a_parameter_listed_twice_comes_back_twice() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    net = nn.ModuleDict({"a": a, "b": b})
    with pytest.warns(UserWarning, match="duplicate parameters"):
        opt = optim.SGD([{"params": [a.weight, a.weight]}, {"params": [b.weight]}], lr=0.1, momentum=0.9)
    for p in (a.weight, b.weight):
        p.grad = torch.ones_like(p)
    opt.step()
    state = opt.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[1, 1], [2]]
    found = sg.TrainingState.of((net, opt)).opt
    assert [group["params"] for group in found["param_groups"]] == [[1, 1], [2]]
    assert sg.equal(found["state"], state["state"])


def test_2b_34_a_state_for_a_module_in_another_order_can_be_loaded_by_torch_which_goes_by_position() -> None:
    net = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "abc"})
    other = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "zyx"})
    opt = trained(net)
    state = sg.TrainingState.of((net, opt))
    rules = [("{n=a|b|c}.weight", "{n=x|y|z}.weight")]
    plan = sg.plan(rules, net.state_dict(), other.state_dict())
    new = plan.apply(state)
    assert new.opt["param_groups"][0]["param_names"] == ["z.weight", "y.weight", "x.weight"]
    fresh = optim.Adam(other.parameters())
    fresh.load_state_dict(new.opt)
    for old, name in zip("abc", "xyz", strict=True):
        expected = opt.state[net[old].weight]["exp_avg"]
        assert torch.equal(fresh.state[other[name].weight]["exp_avg"], expected)
    assert sg.equal(plan.inverse().apply(new).opt, state.opt)


def test_members_in_an_order_of_their_own_keep_it() -> None:
    net = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "abc"})
    opt = optim.Adam([net[name].weight for name in "cab"])
    state = sg.TrainingState.of((net, opt))
    new = sg.plan([("{n}.weight", "layer_{n}.weight")], state.params).apply(state)
    names = ["layer_c.weight", "layer_a.weight", "layer_b.weight"]
    assert new.opt["param_groups"][0]["param_names"] == names


def test_zero_moments_under_the_old_count_need_one_count() -> None:
    net = layers(2)
    state = sg.TrainingState.of((net, trained(net)))
    later = sg.TrainingState.of(
        params=state.params,
        opt={
            **state.opt,
            "state": {n: {**held, "step": held["step"] + n} for n, held in state.opt["state"].items()},
        },
    )
    plan = sg.plan([(None, "new.weight", sg.ops.new((3, 3), "float32", "zeros"))], state.params)
    assert float(steps_of(plan.apply(state, fresh="zero").opt)[-1]) == 2.0
    with pytest.raises(sg.SpecError, match="different numbers of steps") as caught:
        plan.apply(later, fresh="zero")
    assert "2, 3, 4, 5" in str(caught.value)
    assert len(plan.apply(later, fresh="reset").opt["state"]) == 4


def test_moments_that_an_op_cannot_move_exactly_are_refused_and_not_carried_along() -> None:
    """How the two roles of a tied weight shared its gradient is stored nowhere."""
    net = layers(1)
    state = sg.TrainingState.of((net, trained(net)))
    plan = sg.plan([("h.0.bias", "h.0.bias", sg.ops.untie())], state.params)
    with pytest.raises(sg.SpecError, match=r"'mu' cannot be moved exactly by untie\(\)") as caught:
        plan.apply(state)
    assert "'nu' cannot be moved exactly" in str(caught.value)
