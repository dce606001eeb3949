"""Where-rules as torch wants them: `param_groups` and `freeze`; lines of a guide on transfer learning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgery as sg
from tests.torch.nets import TiedNet, mlp


def residual() -> nn.Module:
    """Return a tiny network with the names of a ResNet: stem, layer1..4 with BatchNorm, fc."""
    layers = {
        f"layer{n}": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)) for n in range(1, 5)
    }
    net = nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 3), **layers, "fc": nn.Linear(4, 10)})
    return net


def bert_classifier() -> nn.Module:
    """Return a small encoder called `bert` under an MLP head."""
    bert = nn.ModuleDict({"embeddings": nn.Embedding(20, 8), "layer": nn.Linear(8, 8)})
    head = nn.Sequential(nn.Dropout(), nn.Linear(8, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3))
    return nn.ModuleDict({"bert": bert, "head": head})


def test_d1_freeze_all_but_the_last_layer_trains_330_of_8874_parameters() -> None:
    net = mlp()
    report = sg.torch.freeze(net, [("4.**", "train"), ("**", "frozen")])
    assert str(report).splitlines()[0] == "freeze: 330 of 8,874 parameters are trained"
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 330
    assert sum(p.numel() for p in net.parameters()) == 8874
    assert report.counts == {"frozen": 4, "trained": 2}


def test_d1_frozen_parameters_do_not_move_and_the_last_layer_does() -> None:
    net = mlp()
    sg.torch.freeze(net, [("4.**", "train"), ("**", "frozen")])
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    opt = torch.optim.Adam(p for p in net.parameters() if p.requires_grad)
    net(torch.randn(8, 100)).square().mean().backward()
    opt.step()
    moved = [name for name, p in net.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["4.weight", "4.bias"]


def test_d4_three_groups_with_their_own_learning_rates() -> None:
    net = residual()
    rules = [("{conv1|layer1|layer2}.**", "early"), ("{layer3|layer4}.**", "later"), ("fc.**", "head")]
    options = {"early": {"lr": 1e-5}, "later": {"lr": 1e-4}, "head": {"lr": 1e-3}}
    groups = sg.torch.param_groups(net, rules, options)
    opt = torch.optim.AdamW(groups, weight_decay=1e-4)
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in opt.param_groups}
    assert found == {"early": (1e-5, 1e-4), "later": (1e-4, 1e-4), "head": (1e-3, 1e-4)}
    counts = {group["name"]: sum(p.numel() for p in group["params"]) for group in opt.param_groups}
    parts = {name: sum(p.numel() for p in net[name].parameters()) for name in net}
    assert counts == {
        "early": parts["conv1"] + parts["layer1"] + parts["layer2"],
        "later": parts["layer3"] + parts["layer4"],
        "head": parts["fc"],
    }
    assert sum(counts.values()) == sum(p.numel() for p in net.parameters())
    assert opt.param_groups[2]["param_names"] == ["fc.weight", "fc.bias"]


def test_d5_gradual_unfreezing_adds_a_layer_at_a_time_and_keeps_the_moments_of_the_others() -> None:
    """The guide builds a new Adam at each phase, which throws the moments away."""
    torch.manual_seed(0)
    net = residual()
    order = ["fc", "layer4", "layer3", "layer2"]

    def train(opt: torch.optim.Optimizer) -> None:
        x = net["conv1"](torch.randn(2, 3, 8, 8))
        for n in range(1, 5):
            x = net[f"layer{n}"](x)
        net["fc"](x.mean((2, 3))).square().mean().backward()
        opt.step()
        opt.zero_grad()

    state: sg.TrainingState | None = None
    for depth in range(1, len(order) + 1):
        chosen = order[:depth]
        rules = [*((f"{name}.**", name) for name in chosen), ("**", "frozen")]
        options = {name: {"lr": 1e-3 / 2**n} for n, name in enumerate(chosen)}
        sg.torch.freeze(net, [*((f"{name}.**", "train") for name in chosen), ("**", "frozen")])
        opt = torch.optim.Adam(sg.torch.param_groups(net, rules, {**options, "frozen": None}))
        if state is not None:
            held = state.opt
            for group in opt.param_groups[:-1]:
                for p, name in zip(group["params"], group["param_names"], strict=True):
                    old = next(g for g in held["param_groups"] if name in g["param_names"])
                    number = old["params"][old["param_names"].index(name)]
                    opt.state[p] = {key: x.clone() for key, x in held["state"][number].items()}
        train(opt)
        state = sg.TrainingState.of((net, opt))
    steps = {
        bank.hyper["name"]: {float(count) for count in bank.counts.values()} for bank in state.slots.banks
    }
    assert steps == {"fc": {4.0}, "layer4": {3.0}, "layer3": {2.0}, "layer2": {1.0}}


def test_d6_backbone_and_head_learn_at_different_rates_and_the_state_dict_loads_again() -> None:
    net, fresh = bert_classifier(), bert_classifier()
    groups = sg.torch.param_groups(
        net, [("bert.**", "backbone"), ("head.**", "head")], {"backbone": {"lr": 2e-5}, "head": {"lr": 1e-3}}
    )
    opt = torch.optim.AdamW(groups)
    assert [(group["name"], group["lr"]) for group in opt.param_groups] == [
        ("backbone", 2e-5),
        ("head", 1e-3),
    ]
    assert opt.param_groups[0]["param_names"] == [
        "bert.embeddings.weight",
        "bert.layer.weight",
        "bert.layer.bias",
    ]
    sg.torch.load_into(fresh, net.state_dict())
    x = torch.randn(4, 8)
    assert torch.equal(fresh["head"].eval()(x), net["head"].eval()(x))


def test_d8_batch_norm_parameters_are_frozen_by_their_place_and_counted() -> None:
    net = residual()
    names = [f"layer{n}.1.{leaf}" for n in range(1, 5) for leaf in ("weight", "bias")]
    report = sg.torch.freeze(net, [("layer*.1.**", "frozen"), ("**", "train")])
    assert (
        report.counts["frozen"] == 8
        and [name for name, p in net.named_parameters() if not p.requires_grad] == names
    )


def test_the_rules_that_freeze_a_flax_tree_freeze_a_torch_module() -> None:
    rules = [("backbone/**", "frozen"), ("**", "train")]
    net = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    groups = sg.torch.param_groups(net, rules, {"train": {"lr": 5e-3}, "frozen": None})
    assert [name for name, _ in groups[0]["params"]] == ["head.weight", "head.bias"]
    tree = {"backbone": {"kernel": 1.0}, "head": {"kernel": 2.0}}
    assert sg.label(tree, rules) == {"backbone": {"kernel": "frozen"}, "head": {"kernel": "train"}}


def test_2a_03_a_tied_parameter_is_in_one_group_once_by_its_first_name() -> None:
    net = TiedNet()
    groups = sg.torch.param_groups(
        net, [("embed.**", "e"), ("head.**", "e"), ("**", "rest")], {"e": {}, "rest": {}}
    )
    assert [name for name, _ in groups[0]["params"]] == ["embed.weight"]
    torch.optim.SGD(groups, lr=0.1)


def test_a_tied_parameter_under_two_labels_is_refused() -> None:
    with pytest.raises(sg.RuleError) as caught:
        sg.torch.freeze(TiedNet(), [("head.**", "train"), ("**", "frozen")])
    assert "one tensor under two names is treated in two ways at 'head.weight'" in str(caught.value)


def test_param_groups_changes_nothing_in_the_module() -> None:
    net = mlp()
    sg.torch.param_groups(net, [("4.**", "train"), ("**", "frozen")], {"train": {}, "frozen": None})
    assert all(p.requires_grad for p in net.parameters())


def test_freeze_can_be_undone_and_says_so() -> None:
    net = mlp()
    sg.torch.freeze(net, [("**", "frozen")])
    assert not any(p.requires_grad for p in net.parameters())
    report = sg.torch.freeze(net, [("**", "train")])
    assert str(report).startswith("freeze: 8,874 of 8,874 parameters are trained")


def test_any_value_can_mean_trained() -> None:
    net = mlp()
    sg.torch.freeze(net, [("4.**", True), ("**", False)], train=True)
    assert [p.requires_grad for p in net.parameters()] == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("rules", "options", "message"),
    [
        ([("4.**", "a")], {"a": {}}, "param_groups: 4 problems"),
        ([("5.**", "a"), ("**", "b")], {"a": {}, "b": {}}, "param_groups: '5.**' matches none of 6 leaves"),
        ([("4.**", "a"), ("**", "b")], {"a": {}}, "no options are given for 'b'"),
    ],
)
def test_what_is_not_covered_is_an_error(rules, options, message: str) -> None:
    with pytest.raises(sg.RuleError) as caught:
        sg.torch.param_groups(mlp(), rules, options)
    assert message in str(caught.value)


def test_nothing_is_frozen_when_a_rule_is_wrong() -> None:
    net = mlp()
    with pytest.raises(sg.RuleError):
        sg.torch.freeze(net, [("0.**", "frozen")])
    assert all(p.requires_grad for p in net.parameters())


def test_options_of_a_label_that_no_rule_gives_are_an_error() -> None:
    with pytest.raises(sg.RuleError, match="no rule gives the label 'heads'"):
        sg.torch.param_groups(mlp(), [("**", "head")], {"head": {}, "heads": {"lr": 1.0}})


def test_names_with_a_slash_are_grouped_too() -> None:
    net = nn.ModuleDict({"en/de": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    groups = sg.torch.param_groups(net, [(("en/de", "weight"), "a"), ("**", "b")], {"a": {}, "b": {}})
    assert [name for name, _ in groups[0]["params"]] == ["en/de.weight"]


def test_a_module_without_parameters_is_refused() -> None:
    with pytest.raises(sg.RuleError, match="the module has no parameters"):
        sg.torch.freeze(nn.ReLU(), [("**", "train")])
