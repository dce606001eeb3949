"""Train, operate, train on: the same as never having been operated on, in float64 to 1e-12."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import surgery as sg

WIDTH, DEPTH, STEPS, CUT = 4, 11, 8, 4
EXACT = 1e-12


class Layer(nn.Module):
    """A layer whose projections are fused, separate, or fused and stored (in, out)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "separate":
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        elif kind == "in_out":
            self.kernel = nn.Parameter(torch.empty(WIDTH, 3 * WIDTH))
            self.bias = nn.Parameter(torch.empty(3 * WIDTH))
        else:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "separate":
            q, k, v = self.q(x), self.k(x), self.v(x)
        elif self.kind == "in_out":
            q, k, v = (x @ self.kernel + self.bias).chunk(3, -1)
        else:
            q, k, v = self.qkv(x).chunk(3, -1)
        return x + self.out(torch.tanh(q) * torch.sigmoid(k) + v) / 4


class Stacked(nn.Module):
    """All layers in one tensor each, as a scan over layers wants them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.qkv_weight = nn.Parameter(torch.empty(depth, 3 * WIDTH, WIDTH))
        self.qkv_bias = nn.Parameter(torch.empty(depth, 3 * WIDTH))
        self.out_weight = nn.Parameter(torch.empty(depth, WIDTH, WIDTH))
        self.out_bias = nn.Parameter(torch.empty(depth, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for a, b, c, d in zip(self.qkv_weight, self.qkv_bias, self.out_weight, self.out_bias, strict=True):
            q, k, v = (x @ a.T + b).chunk(3, -1)
            x = x + ((torch.tanh(q) * torch.sigmoid(k) + v) @ c.T + d) / 4
        return x


class Net(nn.Module):
    """Embedding tied to the head, layers of one kind, a frozen scale, a layer that is never used."""

    def __init__(self, kind: str = "fused", body: str = "layers", square: str = "out_in") -> None:
        super().__init__()
        self.embed = nn.Embedding(6, WIDTH)
        layers = Stacked(DEPTH) if kind == "stacked" else nn.Sequential(*(Layer(kind) for _ in range(DEPTH)))
        self.body = body
        setattr(self, body, layers)
        self.square, self.order = nn.Parameter(torch.empty(WIDTH, WIDTH)), square
        self.scale = nn.Parameter(torch.ones(WIDTH), requires_grad=False)
        self.unused = nn.Linear(WIDTH, 2)
        self.head = nn.Linear(WIDTH, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = getattr(self, self.body)(self.embed(ids) * self.scale)
        return self.head(x @ (self.square if self.order == "in_out" else self.square.T))


def built(**options: str) -> Net:
    torch.manual_seed(1)
    net = Net(**options).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) / 3)
    return net


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "adam": lambda groups: optim.Adam(groups, lr=1e-2),
    "adam_l2_amsgrad": lambda groups: optim.Adam(groups, lr=1e-2, weight_decay=1e-2, amsgrad=True),
    "adamw": lambda groups: optim.AdamW(groups, lr=1e-2, weight_decay=0.1),
    "sgd": lambda groups: optim.SGD(groups, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=1e-2),
}


def optimizer_of(name: str, net: Net) -> optim.Optimizer:
    """Return an optimizer with two groups, decay on matrices alone; the frozen scale is in one of them."""
    named = [*net.named_parameters()]
    biases = [(n, p) for n, p in named if "bias" in n or n == "scale"]
    matrices = [(n, p) for n, p in named if not ("bias" in n or n == "scale")]
    return OPTIMIZERS[name]([{"params": matrices}, {"params": biases, "weight_decay": 0.0, "lr": 2e-2}])


def train(net: Net, opt: optim.Optimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        batch = torch.randint(6, (4, 3), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(net(batch).flatten(0, 1), batch.roll(1, 1).flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()


SPLIT = [("layers.{i}.qkv.{p}", "layers.{i}.{q|k|v}.{p}", sg.ops.split(axis=0))]
STACK = [
    ("layers.{i:int}.{qkv|out}.{p}", "layers.{qkv|out}_{p}", sg.ops.stack(axis=0)),
]
TURN = [
    ("layers.{i}.qkv.weight", "layers.{i}.kernel", sg.ops.transpose()),
    ("layers.{i}.qkv.bias", "layers.{i}.bias"),
]


@dataclass(frozen=True)
class Case:
    """An operation: the module before, the module after, and the rules from one to the other."""

    before: dict[str, str]
    after: dict[str, str]
    rules: list[Any]


CASES = {
    "nothing": Case({}, {}, [("{p:**}", "{p}")]),
    "rename": Case({}, {"body": "trunk"}, [("layers.{r:**}", "trunk.{r}")]),
    "square": Case({}, {"square": "in_out"}, [("square", "square", sg.ops.transpose())]),
    "transpose": Case({}, {"kind": "in_out"}, TURN),
    "split": Case({}, {"kind": "separate"}, SPLIT),
    "concat": Case(
        {"kind": "separate"}, {}, [("layers.{i}.{q|k|v}.{p}", "layers.{i}.qkv.{p}", sg.ops.concat(axis=0))]
    ),
    "stack": Case({}, {"kind": "stacked"}, STACK),
    "unstack": Case(
        {"kind": "stacked"},
        {},
        [("layers.{qkv|out}_{p}", "layers.{i:int}.{qkv|out}.{p}", sg.ops.unstack(axis=0))],
    ),
}


def operated(case: Case, name: str) -> tuple[Net, optim.Optimizer, Net, optim.Optimizer, sg.Plan]:
    """Train, operate and write into fresh objects; return both sides and the plan, not trained on yet."""
    net = built(**case.before)
    opt = optimizer_of(name, net)
    train(net, opt, 0, CUT)
    state = sg.TrainingState.of((net, opt))
    plan = sg.plan(case.rules, state.params)
    other = built(**case.after)
    other_opt = optimizer_of(name, other)
    plan.apply(state).write_into(other, other_opt)
    return net, opt, other, other_opt, plan


def apart(plan: sg.Plan, net: Net, other: Net) -> float:
    """Return how far two modules are apart, one seen through the plan."""
    mine, theirs = sg.flatten(plan.apply(net.state_dict()), sep="."), sg.flatten(other.state_dict(), sep=".")
    assert mine.keys() == theirs.keys()
    return max(float((x - theirs[name]).abs().max()) for name, x in mine.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("case", CASES)
def test_2b_36_training_on_after_an_operation_equals_training_without_it(case: str, name: str) -> None:
    net, opt, other, other_opt, plan = operated(CASES[case], name)
    assert apart(plan, net, other) == 0
    train(net, opt, CUT, STEPS)
    train(other, other_opt, CUT, STEPS)
    assert apart(plan, net, other) <= EXACT
    assert other.head.weight is other.embed.weight


@pytest.mark.parametrize("name", ["adam_l2_amsgrad", "sgd"])
@pytest.mark.parametrize("case", CASES)
def test_the_way_back_gives_the_very_state_again(case: str, name: str) -> None:
    net = built(**CASES[case].before)
    opt = optimizer_of(name, net)
    train(net, opt, 0, CUT)
    state = sg.TrainingState.of((net, opt))
    plan = sg.plan(CASES[case].rules, state.params)
    back = plan.inverse().apply(plan.apply(state))
    assert sg.equal(back.params, state.params)
    for bank, old in zip(back.slots.banks, state.slots.banks, strict=True):
        assert set(bank.members) == set(old.members)
        assert {p: float(c) for p, c in bank.counts.items()} == {p: float(c) for p, c in old.counts.items()}
        for slot, held in old.slots.items():
            assert bank.slots[slot].keys() == held.keys()
            assert all(torch.equal(bank.slots[slot][path], x) for path, x in held.items())


def drop_the_moments(opt: optim.Optimizer) -> None:
    opt.state.clear()


def count_one_too_many(opt: optim.Optimizer) -> None:
    for held in opt.state.values():
        held["step"] += 1


def leave_square_moments_as_they_were(opt: optim.Optimizer) -> None:
    for p, held in opt.state.items():
        if p.shape == (WIDTH, WIDTH):
            for key in held.keys() - {"step"}:
                held[key] = held[key].T.contiguous()


@pytest.mark.parametrize(
    ("name", "spoil", "least"),
    [
        ("adam", drop_the_moments, 1e-3),
        ("sgd", drop_the_moments, 1e-4),
        ("adam", count_one_too_many, 1e-6),
        ("adamw", count_one_too_many, 1e-6),
        ("adam", leave_square_moments_as_they_were, 1e-4),
        ("sgd", leave_square_moments_as_they_were, 1e-5),
    ],
)
def test_the_same_check_detects_a_wrong_operation(
    name: str, spoil: Callable[[Any], None], least: float
) -> None:
    net, opt, other, other_opt, plan = operated(CASES["square"], name)
    spoil(other_opt)
    train(net, opt, CUT, STEPS)
    train(other, other_opt, CUT, STEPS)
    assert apart(plan, net, other) > least > 1e5 * EXACT


def test_moments_of_one_layer_in_the_place_of_another_are_detected() -> None:
    """What sorting layer names as text does: 10 before 2."""
    net, opt, other, other_opt, plan = operated(CASES["stack"], "adam")
    as_text = sorted(range(DEPTH), key=str)
    assert as_text != [*range(DEPTH)]
    for p, held in other_opt.state.items():
        if p.shape[0] == DEPTH:
            for key in held.keys() - {"step"}:
                held[key] = held[key][as_text].clone()
    train(net, opt, CUT, STEPS)
    train(other, other_opt, CUT, STEPS)
    assert apart(plan, net, other) > 1e-5


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_state_dict_of_the_edited_state_can_be_loaded_by_torch_itself(name: str) -> None:
    """The other way into a live optimizer: `optimizer.load_state_dict(state.opt)`."""
    net = built()
    opt = optimizer_of(name, net)
    train(net, opt, 0, CUT)
    state = sg.TrainingState.of((net, opt))
    plan = sg.plan(SPLIT, state.params)
    new = plan.apply(state)
    other = built(kind="separate")
    names = [n for group in new.opt["param_groups"] for n in group["param_names"]]
    named = dict(other.named_parameters())
    sizes = [len(group["params"]) for group in new.opt["param_groups"]]
    groups = [
        {"params": [named[n] for n in names[: sizes[0]]]},
        {"params": [named[n] for n in names[sizes[0] :]]},
    ]
    other_opt = OPTIMIZERS[name](groups)
    other.load_state_dict(new.params)
    other_opt.load_state_dict(copy.deepcopy(new.opt))  # torch shares memory with what it loads
    train(net, opt, CUT, STEPS)
    train(other, other_opt, CUT, STEPS)
    assert apart(plan, net, other) <= EXACT
