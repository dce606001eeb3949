"""`optimizer.state_dict()` of every torch optimizer is a tree like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim

import surgery as sg

Make = Callable[[Any], optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "Adadelta": lambda p: optim.Adadelta(p),
    "Adafactor": lambda p: optim.Adafactor(p),
    "Adagrad": lambda p: optim.Adagrad(p),
    "Adam": lambda p: optim.Adam(p),
    "Adam_amsgrad": lambda p: optim.Adam(p, amsgrad=True),
    "Adam_lr_tensor": lambda p: optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
    "AdamW": lambda p: optim.AdamW(p),
    "Adamax": lambda p: optim.Adamax(p),
    "ASGD": lambda p: optim.ASGD(p),
    "LBFGS": lambda p: optim.LBFGS(p, max_iter=2),
    "NAdam": lambda p: optim.NAdam(p),
    "RAdam": lambda p: optim.RAdam(p),
    "RMSprop": lambda p: optim.RMSprop(p),
    "RMSprop_all": lambda p: optim.RMSprop(p, momentum=0.9, centered=True),
    "Rprop": lambda p: optim.Rprop(p),
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "SGD_momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SparseAdam": lambda p: optim.SparseAdam(p),
    "Muon": lambda p: optim.Muon(p),
}
EACH = pytest.mark.parametrize("name", OPTIMIZERS)


def trained(name: str, steps: int = 2, named: bool = True) -> tuple[nn.Module, optim.Optimizer]:
    """Return a module and an optimizer that has taken some steps on it."""
    torch.manual_seed(0)
    sparse = name == "SparseAdam"
    net: nn.Module = nn.Embedding(5, 3, sparse=True) if sparse else nn.Linear(3, 2, bias=name != "Muon")
    plain = name in ("LBFGS",) or not named
    opt = OPTIMIZERS[name]([*net.parameters()] if plain else [*net.named_parameters()])
    x = torch.tensor([0, 2]) if sparse else torch.randn(4, 3)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        opt.step(closure)
    return net, opt


def test_every_optimizer_of_torch_is_tried() -> None:
    theirs = {name for name in optim.__all__ if isinstance(getattr(optim, name, None), type)} - {"Optimizer"}
    assert {name.partition("_")[0] for name in OPTIMIZERS} == theirs


@EACH
@pytest.mark.parametrize("steps", [0, 2])
def test_flatten_and_unflatten_give_the_same_state(name: str, steps: int) -> None:
    state = trained(name, steps)[1].state_dict()
    flat = sg.flatten(state)
    again = sg.unflatten(flat)
    assert sg.equal(again, state) and sg.paths(again) == sg.paths(state)
    own = sg.flatten(again)
    assert all(own[path] is leaf for path, leaf in flat.items())
    assert list(again["state"]) == list(state["state"])


@EACH
def test_a_rebuilt_state_trains_on_as_the_original(name: str) -> None:
    a_net, a_opt = trained(name, 2)
    b_net, b_opt = trained(name, 0)
    b_net.load_state_dict(a_net.state_dict())
    state = sg.map_with_path(
        lambda path, x: x.clone() if isinstance(x, torch.Tensor) else x, a_opt.state_dict()
    )
    b_opt.load_state_dict(state)
    for net, opt in ((a_net, a_opt), (b_net, b_opt)):
        if name == "LBFGS":
            continue
        for p in net.parameters():
            p.grad = torch.ones_like(p) if name != "SparseAdam" else torch.ones_like(p).to_sparse(1)
        opt.step()
    for p, q in zip(a_net.parameters(), b_net.parameters(), strict=True):
        assert torch.equal(p, q)


@EACH
def test_a_torch_file_holds_the_state_exactly(name: str, tmp_path: Path) -> None:
    state = trained(name)[1].state_dict()
    sg.save(state, tmp_path / "opt.pt")
    again = sg.load(tmp_path / "opt.pt")
    assert sg.equal(again, state)
    assert [type(x) for x in sg.flatten(again).values()] == [type(x) for x in sg.flatten(state).values()]


def test_parameter_numbers_are_int_keys_and_are_addressed_in_brackets() -> None:
    state = trained("Adam")[1].state_dict()
    assert ("state", 0, "exp_avg") in sg.flatten(state)
    assert sg.flatten(state, sep="/")["state/[1]/step"] is state["state"][1]["step"]
    assert list(sg.matches(state, "state/{i:int}/exp_avg").values()) == [{"i": 0}, {"i": 1}]


def test_structure_verbs_edit_the_raw_state() -> None:
    state = trained("RMSprop")[1].state_dict()
    dropped = sg.drop(state, "state/[0]/square_avg")
    assert list(dropped["state"][0]) == ["step"] and dropped["state"][1] is not state["state"][0]
    assert "square_avg" in state["state"][0]


def test_an_op_on_the_raw_state_is_refused() -> None:
    state = trained("Adam")[1].state_dict()
    with pytest.raises(sg.SpecError, match="would treat moments as weights"):
        sg.transform(state, [("state/[0]/exp_avg", "state/[0]/exp_avg", sg.ops.cast("float64"))])


KNOWN = {"Adam", "Adam_amsgrad", "Adam_lr_tensor", "AdamW", "SGD", "SGD_momentum"}


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in KNOWN])
@pytest.mark.parametrize("steps", [0, 2])
def test_optimizers_that_are_not_known_yet_are_refused_by_name(name: str, steps: int) -> None:
    """RAdam keeps the slots of Adam, Muon those of SGD, and both mean something else by them."""
    net, opt = trained(name, steps)
    cls = type(opt).__name__
    with pytest.raises(sg.AdapterError) as caught:
        sg.TrainingState.of((net, opt))
    assert f"the state of {cls} is not known here" in str(caught.value)
    with pytest.raises(sg.AdapterError) as caught:
        sg.TrainingState.of(
            (net.state_dict(), opt.state_dict()), names=[n for n, _ in net.named_parameters()]
        )
    assert cls in str(caught.value) and "expected  Adam, AdamW or SGD" in str(caught.value)


@pytest.mark.parametrize("name", sorted(KNOWN))
@pytest.mark.parametrize("steps", [0, 2])
def test_known_optimizers_come_back_from_slots_as_they_were(name: str, steps: int) -> None:
    net, opt = trained(name, steps)
    before = opt.state_dict()
    state = sg.TrainingState.of((net, opt)).opt
    assert sg.equal(state, before)
    flat, held = sg.flatten(state), sg.flatten(before)
    assert list(flat) == list(held)
    assert all(flat[path] is held[path] for path in held if isinstance(held[path], torch.Tensor))
