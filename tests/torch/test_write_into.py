"""Writing a training state into a live module and optimizer: refused as a whole, or done as a whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn, optim

import surgery as sg
from tests.torch.nets import TiedNet, same_tensors
from tests.torch.states import DATA, OracleNet, names_of, optimizer_for


def trained(make: Callable[..., optim.Optimizer], net: nn.Module, steps: int = 3) -> optim.Optimizer:
    """Return an optimizer that has taken some steps on a module."""
    opt = make(net.named_parameters())
    for _ in range(steps):
        for p in net.parameters():
            p.grad = torch.randn_like(p)
        opt.step()
    return opt


def adam(params: object) -> optim.Optimizer:
    return optim.Adam(params, lr=0.01)


def untouched(net: nn.Module, opt: optim.Optimizer, call: Callable[[], None]) -> str:
    """Return the message of the error that `call` raises, having seen that nothing was written."""
    state = {name: x.clone() for name, x in net.state_dict().items()}
    held = sg.map_with_path(lambda path, x: x.clone() if isinstance(x, torch.Tensor) else x, opt.state_dict())
    with pytest.raises(sg.SurgeryError) as caught:
        call()
    assert same_tensors(net.state_dict(), state) and sg.equal(opt.state_dict(), held)
    return str(caught.value)


def test_other_groups_than_the_states_are_refused_by_parameter() -> None:
    a, b = TiedNet(), TiedNet()
    state = sg.TrainingState.of((a, trained(adam, a)))
    opt = optim.Adam(
        [{"params": [b.embed.weight]}, {"params": [p for p in b.parameters() if p is not b.embed.weight]}]
    )
    message = untouched(b, opt, lambda: state.write_into(b, opt))
    assert (
        "the optimizer groups its parameters in another way than the state at 'blocks.0.linear.weight'"
        in message
    )
    assert "expected  group 0" in message and "found     group 1" in message


def test_a_parameter_that_the_optimizer_does_not_have_is_named() -> None:
    a, b = TiedNet(), TiedNet()
    state = sg.TrainingState.of((a, trained(adam, a)))
    opt = optim.Adam([p for p in b.parameters() if p is not b.bn.bias])
    message = untouched(b, opt, lambda: state.write_into(b, opt))
    assert "at 'bn.bias'" in message and "found     in no group" in message


def test_another_kind_of_optimizer_is_refused() -> None:
    a, b = TiedNet(), TiedNet()
    state = sg.TrainingState.of((a, trained(adam, a)))
    opt = optim.SGD(b.parameters(), lr=0.1, momentum=0.9)
    message = untouched(b, opt, lambda: state.write_into(b, opt))
    assert message.startswith("write_into: the optimizer is of another kind than the state")
    assert "expected  adam, as in group 0 of the state" in message and "found     SGD" in message


@pytest.mark.parametrize("cls", [optim.RMSprop, optim.RAdam, optim.Adamax])
def test_an_optimizer_that_is_not_known_is_refused(cls: type[optim.Optimizer]) -> None:
    a, b = TiedNet(), TiedNet()
    state = sg.TrainingState.of((a, trained(adam, a)))
    opt = cls(b.parameters())
    assert f"the state of {cls.__name__} is not known here" in untouched(
        b, opt, lambda: state.write_into(b, opt)
    )


def test_a_module_of_another_shape_is_refused() -> None:
    a, b = TiedNet(), TiedNet(vocabulary=9)
    state = sg.TrainingState.of((a, trained(adam, a)))
    opt = adam(b.parameters())
    assert "the shape differs at 'embed.weight'" in untouched(b, opt, lambda: state.write_into(b, opt))


def test_a_module_without_one_of_the_states_parameters_is_refused_with_the_nearest() -> None:
    a = TiedNet()
    state = sg.TrainingState.of((a, trained(adam, a)))
    b = nn.ModuleDict({"embeds": nn.Embedding(7, 4)})
    opt = adam(b.parameters())
    message = untouched(b, opt, lambda: state.write_into(b, opt))
    assert "moments for a parameter that the module does not have" in message
    assert "nearest: 'embeds.weight'" in message


def test_an_optimizer_over_meta_parameters_is_refused() -> None:
    a = TiedNet()
    state = sg.TrainingState.of((a, trained(adam, a)))
    with torch.device("meta"):
        b = TiedNet()
    opt = adam(b.parameters())
    with pytest.raises(sg.SurgeryError, match="the optimizer holds a meta parameter"):
        state.write_into(b, opt)
    assert b.embed.weight.is_meta


def test_2b_33_an_optimizer_over_parameters_that_were_replaced_is_refused() -> None:
    """Torch would go on without an error, and the new weight would never move."""
    a, b = TiedNet(), TiedNet()
    state = sg.TrainingState.of((a, trained(adam, a)))
    opt = adam(b.parameters())
    b.bn.bias = nn.Parameter(torch.zeros(4))
    assert "is not a parameter of the module" in untouched(b, opt, lambda: state.write_into(b, opt))


def test_a_tied_parameter_may_be_known_by_either_of_its_names() -> None:
    a, b = TiedNet(), TiedNet()
    opt = trained(adam, a)
    names = ["head.weight" if name == "embed.weight" else name for name, _ in a.named_parameters()]
    state = sg.TrainingState.of((a.state_dict(), opt.state_dict()), names=names)
    fresh = adam(b.parameters())
    state.write_into(b, fresh)
    assert torch.equal(fresh.state[b.embed.weight]["exp_avg"], opt.state[a.embed.weight]["exp_avg"])
    assert b.head.weight is b.embed.weight and len(fresh.state) == len(opt.state)


def test_2b_29_moments_keep_their_dtype() -> None:
    """The optimizer's own loading would round moments to the dtype of the parameters."""
    a, b = (nn.Linear(3, 2).bfloat16() for _ in range(2))
    opt = trained(adam, a)
    for held in opt.state.values():
        held["exp_avg"] = held["exp_avg"].float() + 1e-4
    fresh = adam(b.parameters())
    sg.TrainingState.of((a, opt)).write_into(b, fresh)
    assert fresh.state[b.weight]["exp_avg"].dtype is torch.float32
    assert torch.equal(fresh.state[b.weight]["exp_avg"], opt.state[a.weight]["exp_avg"])


@pytest.mark.parametrize("number", [3, 3.0, torch.tensor(3), torch.tensor(3.0), torch.tensor([3.0])])
def test_2b_28_a_step_that_is_a_number_becomes_a_tensor_that_counts_on(number: object) -> None:
    """Old checkpoints have Python numbers; torch would add to a copy of one and never count on."""
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    opt = trained(adam, a)
    state = opt.state_dict()
    for held in state["state"].values():
        held["step"] = number.clone() if isinstance(number, torch.Tensor) else number
    fresh = adam(b.parameters())
    sg.TrainingState.of((a.state_dict(), state), names=["weight", "bias"]).write_into(b, fresh)
    for p in b.parameters():
        p.grad = torch.ones_like(p)
    fresh.step()
    assert [float(fresh.state[p]["step"]) for p in b.parameters()] == [4.0, 4.0]


def test_2b_37_hyperparameters_are_written_and_those_of_schedulers_too() -> None:
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    opt = trained(lambda p: optim.AdamW(p, lr=0.3, weight_decay=0.2, betas=(0.8, 0.9)), a)
    optim.lr_scheduler.StepLR(opt, 10)
    fresh = optim.AdamW(b.parameters())
    sg.TrainingState.of((a, opt)).write_into(b, fresh)
    group = fresh.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"], group["initial_lr"]) == (
        0.3,
        0.2,
        (0.8, 0.9),
        0.3,
    )


def test_a_learning_rate_that_is_a_tensor_is_not_shared() -> None:
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    rate = torch.tensor(0.1)
    opt = trained(lambda p: optim.Adam(p, lr=rate, foreach=False), a)
    fresh = adam(b.parameters())
    sg.TrainingState.of((a, opt)).write_into(b, fresh)
    fresh.param_groups[0]["lr"].fill_(9)
    assert float(rate) == pytest.approx(0.1)


def test_adam_written_into_adamw_keeps_decoupling_its_decay() -> None:
    """In torch the two differ in one flag of the group, and AdamW sets it again after loading."""
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    opt = trained(lambda p: optim.Adam(p, weight_decay=0.1), a)
    fresh = optim.AdamW(b.parameters())
    sg.TrainingState.of((a, opt)).write_into(b, fresh)
    expected = optim.AdamW(nn.Linear(3, 2).parameters())
    expected.load_state_dict(opt.state_dict())
    assert (
        fresh.param_groups[0]["decoupled_weight_decay"] == expected.param_groups[0]["decoupled_weight_decay"]
    )


def test_moments_in_numpy_are_written_as_tensors() -> None:
    held = sg.realize(sg.load(DATA / "adam_named.pt"), "numpy")
    net = OracleNet()
    opt = optimizer_for("adam_named", net)
    sg.TrainingState.of(held).write_into(net, opt)
    assert all(isinstance(x, torch.Tensor) for own in opt.state.values() for x in own.values())
    assert len(names_of("adam_named")) == sum(len(g["params"]) for g in opt.param_groups)


def test_2b_32_old_state_of_the_live_optimizer_is_replaced_and_not_mixed_in() -> None:
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    state = sg.TrainingState.of((a, adam(a.named_parameters())))  # no step taken: no state at all
    opt = trained(adam, b)
    state.write_into(b, opt)
    assert opt.state_dict()["state"] == {}


def test_a_state_without_an_optimizer_writes_the_parameters_alone() -> None:
    a, b = TiedNet(), TiedNet()
    opt = trained(adam, b)
    before = opt.state_dict()["state"][0]["exp_avg"].clone()
    sg.TrainingState.of(params=a.state_dict()).write_into(b, opt)
    assert same_tensors(a.state_dict(), b.state_dict())
    assert torch.equal(opt.state_dict()["state"][0]["exp_avg"], before)


def test_what_is_no_module_is_refused() -> None:
    a = TiedNet()
    state = sg.TrainingState.of((a, trained(adam, a)))
    with pytest.raises(sg.AdapterError, match="a dict is no module to write into"):
        state.write_into({}, None)
