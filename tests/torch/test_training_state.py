"""A torch training state: read from live objects and files, written back into live ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn, optim

import surgery as sg
from tests.torch.nets import same_tensors
from tests.torch.states import DATA, KNOWN, UNKNOWN, OracleNet, facts, names_of, optimizer_for, raw

EACH = pytest.mark.parametrize("kind", KNOWN)


def loaded(kind: str) -> sg.TrainingState:
    """Return the training state in a checkpoint file."""
    return sg.TrainingState.of(sg.load(DATA / f"{kind}.pt"), names=names_of(kind))


def live(kind: str) -> tuple[nn.Module, optim.Optimizer]:
    """Return a fresh module and optimizer that the checkpoint has been written into."""
    net = OracleNet()
    opt = optimizer_for(kind, net)
    loaded(kind).write_into(net, opt)
    return net, opt


def take_the_next_step(kind: str, net: nn.Module, opt: optim.Optimizer) -> None:
    grads = raw(kind)["grads"]
    for name, p in net.named_parameters():
        p.grad = grads[name].clone() if name in grads and name != "left_out" else None
    opt.step()


@EACH
def test_a_checkpoint_gives_its_parameters_and_its_state_back_as_they_are(kind: str) -> None:
    state, file = loaded(kind), sg.load(DATA / f"{kind}.pt")
    assert same_tensors(state.params, raw(kind)["model"])
    held = file["optimizer"]
    assert sg.equal(state.opt["state"], held["state"])
    names = [name for group in state.opt["param_groups"] for name in group["param_names"]]
    assert names == names_of(kind)
    bare = [{k: v for k, v in group.items() if k != "param_names"} for group in state.opt["param_groups"]]
    assert bare == [{k: v for k, v in group.items() if k != "param_names"} for group in held["param_groups"]]


@EACH
def test_2b_26_each_group_is_a_bank_and_a_parameter_without_state_has_none(kind: str) -> None:
    state, about = loaded(kind), facts(kind)
    banks = state.slots.banks
    assert [".".join(path) for bank in banks for path in bank.members] == about["param_order"]
    assert [bank.algorithm for bank in banks] == ["sgd" if kind.startswith("sgd") else "adam"] * 2
    without = {tuple(name.split(".")) for name in about["no_state"]}
    for bank in banks:
        for slot in bank.slots.values():
            assert set(slot) == set(bank.members) - without
        assert without.isdisjoint(bank.counts)
        assert bank.hyper["lr"] in (0.03, 0.015)


@EACH
def test_written_into_live_objects_the_next_step_gives_the_recorded_parameters(kind: str) -> None:
    """To the bit what torch's own loading gives here; to rounding what the recording machine got."""
    net, opt = live(kind)
    reference = OracleNet()
    own_opt = optimizer_for(kind, reference)
    reference.load_state_dict(raw(kind)["model"])
    own_opt.load_state_dict(raw(kind)["optimizer"])
    take_the_next_step(kind, net, opt)
    take_the_next_step(kind, reference, own_opt)
    recorded = raw(kind)["model_next"]
    for name, p in net.named_parameters(remove_duplicate=False):
        assert torch.equal(p, reference.state_dict()[name]), name
        assert torch.allclose(p, recorded[name], rtol=1e-6, atol=1e-8), name
    assert not torch.allclose(net.embed.weight, raw(kind)["model"]["embed.weight"], rtol=1e-4)


@EACH
def test_written_into_live_objects_the_state_dict_is_that_of_the_file(kind: str) -> None:
    net, opt = live(kind)
    assert same_tensors(net.state_dict(), raw(kind)["model"])
    written, held = opt.state_dict(), raw(kind)["optimizer"]
    assert sg.equal(written["state"], held["state"])  # no empty states, and steps as they were
    for ours, theirs in zip(written["param_groups"], held["param_groups"], strict=True):
        assert {key: ours[key] for key in theirs if key != "param_names"} == {
            key: value for key, value in theirs.items() if key != "param_names"
        }


@EACH
def test_2b_31_what_is_written_shares_no_memory_with_the_state(kind: str) -> None:
    state = loaded(kind)
    before = sg.map_with_path(lambda path, x: x.clone() if isinstance(x, torch.Tensor) else x, state.opt)
    net = OracleNet()
    opt = optimizer_for(kind, net)
    state.write_into(net, opt)
    take_the_next_step(kind, net, opt)
    assert sg.equal(state.opt, before)


@EACH
def test_2b_23_live_objects_are_read_by_identity_and_not_by_name_or_order(kind: str) -> None:
    net, opt = live(kind)
    for group in opt.param_groups:
        group["param_names"] = ["a lie"] * len(group["params"])  # what a positional load can leave behind
    state = sg.TrainingState.of((net, opt))
    names = [name for group in state.opt["param_groups"] for name in group["param_names"]]
    assert names == names_of(kind)


def test_a_checkpoint_that_names_its_parameters_needs_no_names() -> None:
    state = sg.TrainingState.of(sg.load(DATA / "adam_named.pt"))
    assert [".".join(p) for bank in state.slots.banks for p in bank.members] == names_of("adam_named")


@pytest.mark.parametrize("kind", ["adam", "sgd_momentum"])
def test_a_checkpoint_that_does_not_is_refused_without_them(kind: str) -> None:
    with pytest.raises(sg.AdapterError) as caught:
        sg.TrainingState.of(sg.load(DATA / f"{kind}.pt"))
    assert str(caught.value) == (
        "slots: this optimizer state does not name its parameters, and order or shape cannot tell them\n"
        "  hint: TrainingState.of(..., names=[...]) in the order of its groups; "
        "or build optimizers with model.named_parameters()"
    )


def test_too_few_names_are_refused() -> None:
    with pytest.raises(sg.AdapterError, match="the names do not fit") as caught:
        sg.TrainingState.of(sg.load(DATA / "adam.pt"), names=names_of("adam")[:-1])
    assert "expected  14 names" in str(caught.value) and "found     13" in str(caught.value)


def test_a_name_that_is_no_parameter_is_refused_with_the_nearest_ones() -> None:
    names = ["embed.weights", *names_of("adam")[1:]]
    with pytest.raises(sg.StructureError) as caught:
        sg.TrainingState.of(sg.load(DATA / "adam.pt"), names=names)
    assert "the optimizer names a parameter that is not there at 'embed.weights'" in str(caught.value)
    assert "nearest: 'embed.weight'" in str(caught.value)


def test_2b_24_names_in_another_order_are_caught_by_shape_where_shapes_differ() -> None:
    names = names_of("adam")
    names[0], names[1] = names[1], names[0]
    with pytest.raises(sg.SpecError) as caught:
        sg.TrainingState.of(sg.load(DATA / "adam.pt"), names=names)
    assert "the slot 'exp_avg' has another shape than its parameter at 'blocks.0.qkv.weight'" in str(
        caught.value
    )


def test_one_name_for_two_parameters_is_refused() -> None:
    names = names_of("adam")
    names[2] = names[1]
    with pytest.raises(
        sg.StructureError, match=r"two parameters of the optimizer have one name at 'blocks\.0"
    ):
        sg.TrainingState.of(sg.load(DATA / "adam.pt"), names=names)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_2b_35_the_state_of_an_optimizer_that_is_not_known_is_refused_by_name(kind: str) -> None:
    with pytest.raises(sg.AdapterError, match=f"the state of {UNKNOWN[kind]} is not known here"):
        loaded(kind)


@pytest.mark.parametrize("key", ["optimizer", "optimizer_state_dict", "optimizer_state"])
@pytest.mark.parametrize("wrapper", ["module", "module._orig_mod", "_orig_mod.module"])
def test_wrapper_prefixes_go_from_the_model_and_from_the_optimizers_names(key: str, wrapper: str) -> None:
    held = raw("adam_named")
    model = {f"{wrapper}.{name}": x for name, x in held["model"].items()}
    groups = [
        {**g, "param_names": [f"{wrapper}.{n}" for n in g["param_names"]]}
        for g in held["optimizer"]["param_groups"]
    ]
    state = sg.TrainingState.of(
        {"epoch": 1, "model": model, key: {**held["optimizer"], "param_groups": groups}}
    )
    assert same_tensors(state.params, held["model"])
    assert [".".join(p) for bank in state.slots.banks for p in bank.members] == names_of("adam_named")
    net = OracleNet()
    opt = optimizer_for("adam_named", net)
    state.write_into(net, opt)
    take_the_next_step("adam_named", net, opt)
    assert torch.allclose(net.embed.weight, held["model_next"]["embed.weight"], rtol=1e-6, atol=1e-8)


def test_a_pair_of_trees_is_a_training_state() -> None:
    held = raw("adam_named")
    for state in (
        sg.TrainingState.of((held["model"], held["optimizer"])),
        sg.TrainingState.of(params=held["model"], opt=held["optimizer"]),
    ):
        assert sg.equal(state.opt, held["optimizer"]) and sg.equal(state.params, held["model"])


def test_an_optimizer_over_parameters_of_another_module_is_refused() -> None:
    net, other = OracleNet(), OracleNet()
    with pytest.raises(sg.AdapterError, match="parameter 0 of group 0 is not a parameter of the module"):
        sg.TrainingState.of((net, optim.Adam(other.parameters())))


def spoiled(kind: str, change: Any) -> dict[str, Any]:
    held = raw(kind)
    change(held["optimizer"])
    return held


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["state"][0].pop("step"), "a part of its state, without 'step', at 'embed.weight'"),
        (
            lambda o: o["state"][0].pop("exp_avg_sq"),
            "a part of its state, without 'exp_avg_sq', at 'embed.weight'",
        ),
        (lambda o: o["param_groups"][0].update(amsgrad=True), "without 'max_exp_avg_sq', at 'embed.weight'"),
        (
            lambda o: o["state"][0].update(ema=torch.ones(7, 4)),
            "the slot 'ema' is not known here at 'embed.weight'",
        ),
        (lambda o: o["state"][0].update(exp_avg=torch.ones(4, 7)), "has another shape than its parameter"),
        (
            lambda o: o["param_groups"][0].update(param_names=["x"]),
            "a group has not as many names as parameters",
        ),
    ],
)
def test_2b_27_a_damaged_state_is_refused_when_it_is_read(change: Any, message: str) -> None:
    with pytest.raises(sg.SurgeryError) as caught:
        sg.TrainingState.of(spoiled("adam_named", change))
    assert message in str(caught.value)


@pytest.mark.parametrize("orphan", [99, torch.ones(1)], ids=["number", "tensor"])
def test_2b_32_state_of_a_parameter_in_no_group_is_refused(orphan: object) -> None:
    """An orphan number takes the place of a real parameter's state at the next state_dict() of torch."""
    with pytest.raises(sg.StructureError, match="there is state for a parameter in no group at"):
        sg.TrainingState.of(spoiled("adam_named", lambda o: o["state"].update({orphan: o["state"][0]})))


@pytest.mark.parametrize("number", [lambda n: 3 * n + 7, lambda n: f"p{n}"], ids=["holes", "text"])
def test_2b_22_numbers_need_be_neither_dense_nor_begin_at_zero(number: Any) -> None:
    """Torch itself loads any hashable; old checkpoints have memory addresses."""

    def renumber(opt: dict[str, Any]) -> None:
        opt["state"] = {number(n): held for n, held in reversed(opt["state"].items())}
        for group in opt["param_groups"]:
            group["params"] = [number(n) for n in group["params"]]

    state = sg.TrainingState.of(spoiled("adam_named", renumber))
    net = OracleNet()
    opt = optimizer_for("adam_named", net)
    state.write_into(net, opt)
    assert sg.equal(opt.state_dict()["state"], raw("adam_named")["optimizer"]["state"])


def test_2b_26_absent_zero_and_zero_with_steps_behind_it_stay_three_things() -> None:
    def change(opt: dict[str, Any]) -> None:
        del opt["state"][1]
        for key in ("exp_avg", "exp_avg_sq"):
            opt["state"][0][key].zero_()
            opt["state"][2][key].zero_()
        opt["state"][2]["step"].zero_()

    state = sg.TrainingState.of(spoiled("adam_named", change))
    bank = state.slots.banks[0]
    first, second, third, fourth = bank.members
    assert first in bank.slots["mu"] and float(bank.counts[first]) == 3
    assert second not in bank.slots["mu"] and second not in bank.counts
    assert third in bank.slots["mu"] and float(bank.counts[third]) == 0
    assert fourth not in bank.counts
    net = OracleNet()
    opt = optimizer_for("adam_named", net)
    state.write_into(net, opt)
    assert list(opt.state_dict()["state"]) == [0, 2, *range(4, 6), *range(8, 13)]


def test_names_that_belong_to_other_parameters_of_a_live_pair_are_refused() -> None:
    """Shapes cannot tell them apart: the moments of one would be taken for those of the other."""
    net = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "ab"})
    opt = torch.optim.AdamW(net.parameters())
    assert sg.TrainingState.of((net, opt), names=["a.weight", "b.weight"]).slots is not None
    with pytest.raises(sg.StructureError, match="the name is that of another parameter") as caught:
        sg.TrainingState.of((net, opt), names=["b.weight", "a.weight"])
    assert "at 'b.weight'" in str(caught.value) and "expected  a.weight" in str(caught.value)


def test_2b_25_names_that_contradict_those_in_the_state_are_refused() -> None:
    net = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "ab"})
    saved = {"model": net.state_dict(), "optimizer": torch.optim.AdamW(net.named_parameters()).state_dict()}
    assert sg.TrainingState.of(saved, names=["a.weight", "b.weight"]).slots is not None
    with pytest.raises(sg.AdapterError, match="the state has these names itself, in another order"):
        sg.TrainingState.of(saved, names=["b.weight", "a.weight"])


def test_a_parameter_in_two_groups_is_refused() -> None:
    net = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "ab"})
    opt = torch.optim.AdamW(net.named_parameters()).state_dict()
    opt["param_groups"].append({**opt["param_groups"][0], "params": [0], "param_names": ["a.weight"]})
    with pytest.raises(sg.StructureError, match=r"stands in two groups of the optimizer at 'a\.weight'"):
        sg.TrainingState.of(params=net.state_dict(), opt=opt)
