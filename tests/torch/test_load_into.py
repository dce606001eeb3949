"""Writing a tree into a live module: all of it or nothing, ties and requires_grad as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import surgery as sg
from tests.torch.nets import Extra, TiedNet, same_tensors


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of everything that a module holds."""
    return {name: x.clone() for name, x in (*module.named_parameters(), *module.named_buffers())}


def test_a_module_takes_the_state_dict_of_another_as_torch_itself_would() -> None:
    net, other, expected = TiedNet(), TiedNet(), TiedNet()
    expected.load_state_dict(other.state_dict())
    report = sg.torch.load_into(net, other.state_dict())
    assert same_tensors(net.state_dict(), expected.state_dict())
    assert report.counts["loaded"] == len(other.state_dict())


def test_parameters_stay_the_objects_they_are() -> None:
    net = TiedNet()
    net.embed.weight.requires_grad_(False)
    before = {name: (p, p.requires_grad) for name, p in net.named_parameters(remove_duplicate=False)}
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    sg.torch.load_into(net, TiedNet().state_dict())
    for name, p in net.named_parameters(remove_duplicate=False):
        assert p is before[name][0] and p.requires_grad is before[name][1]
    assert net.head.weight is net.embed.weight
    assert {id(p) for p in opt.param_groups[0]["params"]} == {id(p) for p in net.parameters()}


def test_2a_03_one_name_of_a_tied_parameter_fills_all_of_them() -> None:
    net, other = TiedNet(), TiedNet()
    report = sg.torch.load_into(net, sg.drop(other.state_dict(), "head.weight"))
    assert torch.equal(net.head.weight, other.embed.weight) and net.head.weight is net.embed.weight
    assert [row.path for row in report.with_status("tied").rows] == [("head", "weight")]


def test_2a_03_two_different_tensors_for_one_tied_parameter_are_refused() -> None:
    net, other = TiedNet(), TiedNet()
    state = other.state_dict()
    state["head.weight"] = state["head.weight"] + 1
    before = bits(net)
    with pytest.raises(
        sg.RuleError, match=r"two different leaves go to two names of one tensor at 'head\.weight'"
    ):
        sg.torch.load_into(net, state)
    assert same_tensors(bits(net), before)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("bn.bias"), "no leaf of the donor fills a place at 'bn.bias'"),
        (
            lambda s: s.update({"more": torch.ones(1)}),
            "a leaf of the donor has no place in the target at 'more'",
        ),
        (lambda s: s.update({"bn.bias": torch.ones(5)}), "the shape differs at 'bn.bias'"),
        (lambda s: s.update({"bn.bias": torch.ones(())}), "the shape differs at 'bn.bias'"),
        (lambda s: s.update({"bn.bias": torch.ones(4).double()}), "the dtype narrows at 'bn.bias'"),
        (lambda s: s.update({"bn.bias": torch.ones(4) * 1j}), "the dtype narrows at 'bn.bias'"),
        (
            lambda s: s.update({"bn.num_batches_tracked": torch.tensor(1.0)}),
            "the dtype narrows at 'bn.num_batch",
        ),
    ],
)
def test_nothing_is_written_when_anything_is_wrong(spoil, message: str) -> None:
    net, state = TiedNet(), TiedNet().state_dict()
    spoil(state)
    before = bits(net)
    with pytest.raises(sg.SurgeryError) as caught:
        sg.torch.load_into(net, state)
    assert message in str(caught.value)
    assert same_tensors(bits(net), before)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(sg.SurgeryError) as caught:
        sg.torch.load_into(
            nn.Linear(2, 3), {"weight": torch.ones(3, 3), "bias": torch.ones(3).half(), "b": 1}
        )
    assert [problem.path for problem in caught.value.problems] == ["weight", "b"]


def test_2a_13_a_wider_dtype_is_cast_and_the_report_says_so() -> None:
    layer = nn.Linear(2, 1)
    donor = {"weight": torch.tensor([[1.5, 2.5]], dtype=torch.bfloat16), "bias": torch.zeros(1)}
    report = sg.torch.load_into(layer, donor)
    assert layer.weight.tolist() == [[1.5, 2.5]] and layer.weight.dtype is torch.float32
    assert [(row.before, row.after) for row in report.with_status("cast").rows] == [("bf16[1,2]", "f32[1,2]")]


def test_2a_13_narrowing_can_be_skipped_and_never_rounds() -> None:
    layer = nn.Linear(2, 1).half()
    before = bits(layer)
    donor = {"weight": torch.full((1, 2), 1e6), "bias": torch.ones(1).half()}
    report = sg.torch.load_into(layer, donor, mismatched="keep-target")
    assert torch.equal(layer.weight, before["weight"]) and layer.bias.item() == 1
    assert [row.path for row in report.with_status("mismatched").rows] == [("weight",)]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"missing": "drop"}, "a policy drops what the module needs at 'bias'"),
        (
            {"unexpected": "keep-source", "missing": "keep-target"},
            "a policy adds what the module does not have",
        ),
        (
            {"mismatched": "keep-source", "missing": "keep-target", "unexpected": "drop"},
            "own tensor at 'weight'",
        ),
    ],
)
def test_no_policy_can_change_the_module_itself(policy: dict[str, str], message: str) -> None:
    layer = nn.Linear(2, 1)
    before = bits(layer)
    donor = {
        "weight": torch.ones(1, 3) if "mismatched" in policy else torch.ones(1, 2),
        "more": torch.ones(1),
    }
    if policy == {"missing": "drop"}:
        del donor["more"]
    with pytest.raises(sg.SpecError) as caught:
        sg.torch.load_into(layer, donor, **policy)
    assert message in str(caught.value)
    assert same_tensors(bits(layer), before)


def test_non_persistent_buffers_are_kept_and_loaded_where_the_tree_has_them() -> None:
    net = TiedNet()
    net.table.fill_(7)
    sg.torch.load_into(net, TiedNet().state_dict())
    assert net.table.tolist() == [7, 7, 7]
    sg.torch.load_into(net, sg.unflatten(sg.flatten(TiedNet())))
    assert net.table.tolist() == [0, 1, 2]


def test_policies_still_hold_beside_non_persistent_buffers() -> None:
    net, other = TiedNet(), TiedNet()
    with pytest.raises(sg.StructureError, match=r"fills a place at 'bn\.bias'"):
        sg.torch.load_into(net, sg.drop(other.state_dict(), "bn.bias"), missing=[("offset", "keep-target")])
    report = sg.torch.load_into(
        net, sg.drop(other.state_dict(), "offset"), missing=[("offset", "keep-target")]
    )
    assert {row.path for row in report.with_status("missing").rows} == {("offset",), ("table",)}


def test_2a_02_extra_state_is_given_to_its_module() -> None:
    net = nn.Sequential(Extra({"scale": 1}), nn.Linear(2, 2))
    sg.torch.load_into(net, nn.Sequential(Extra({"scale": 2}), nn.Linear(2, 2)).state_dict())
    assert net[0].extra == {"scale": 2}


def test_a_module_that_refuses_its_extra_state_leaves_everything_as_it_was() -> None:
    net = nn.Sequential(Extra(1), Extra(2))
    before = bits(net)
    with pytest.raises(sg.SpecError) as caught:
        sg.torch.load_into(net, nn.Sequential(Extra(8), Extra("refused")).state_dict())
    assert str(caught.value) == (
        "load_into: the module refuses its extra state: ValueError: this extra state is refused at '1._extra_state'"
    )
    assert (net[0].extra, net[1].extra) == (1, 2) and same_tensors(bits(net), before)


def test_two_layers_of_one_module_can_change_places() -> None:
    """The tree shares memory with the module: writing the first name must not change the second's tensor."""
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    before = bits(net)
    sg.torch.load_into(net, sg.rename(net.state_dict(), [("a.{p}", "b.{p}"), ("b.{p}", "a.{p}")]))
    assert torch.equal(net.a.weight, before["b.weight"]) and torch.equal(net.b.weight, before["a.weight"])
    assert torch.equal(net.a.bias, before["b.bias"]) and torch.equal(net.b.bias, before["a.bias"])


def test_a_view_of_the_modules_own_weight_can_be_loaded_into_it() -> None:
    layer = nn.Linear(3, 3)
    before = layer.weight.detach().clone()
    sg.torch.load_into(layer, {"weight": layer.weight.detach().T, "bias": layer.bias})
    assert torch.equal(layer.weight, before.T)


def test_donors_in_numpy_and_in_a_file_are_written(tmp_path: Path) -> None:
    net, other = TiedNet(), TiedNet()
    sg.torch.load_into(net, sg.realize(other.state_dict(), "numpy"))
    assert same_tensors(net.state_dict(), other.state_dict())
    third = TiedNet()
    sg.save(third.state_dict(), tmp_path / "m.safetensors")
    sg.torch.load_into(net, sg.load(tmp_path / "m.safetensors"))
    assert same_tensors(net.state_dict(), third.state_dict())


@pytest.mark.parametrize("donor", ["torch", "numpy", "file"])
def test_2a_12_a_meta_module_becomes_real_with_its_ties_and_requires_grad(donor: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        net = TiedNet()
    net.bn.weight.requires_grad_(False)
    net.table = torch.arange(3.0)
    other = TiedNet()
    tree = other.state_dict()
    if donor == "numpy":
        tree = sg.realize(tree, "numpy")
    if donor == "file":
        sg.save(tree, tmp_path / "m.safetensors")
        tree = sg.load(tmp_path / "m.safetensors")
    sg.torch.load_into(net, tree)
    assert same_tensors(net.state_dict(), other.state_dict())
    assert net.head.weight is net.embed.weight and isinstance(net.embed.weight, nn.Parameter)
    assert not net.bn.weight.requires_grad and net.bn.bias.requires_grad
    assert net(torch.tensor([[1, 2]]).expand(3, 2)[:, 0]).shape == (3, 7)


def test_a_meta_module_shares_no_memory_with_the_tree_that_filled_it() -> None:
    with torch.device("meta"):
        layer, second = nn.Linear(2, 1), nn.Linear(2, 1)
    tree = {"weight": torch.ones(1, 2), "bias": torch.ones(1)}
    arrays = {"weight": np.ones((1, 2), np.float32), "bias": np.ones(1, np.float32)}
    sg.torch.load_into(layer, tree)
    sg.torch.load_into(second, arrays)
    with torch.no_grad():
        layer.weight.add_(1)
        second.weight.add_(1)
    assert tree["weight"].tolist() == [[1, 1]] and arrays["weight"].tolist() == [[1, 1]]


def test_a_meta_buffer_that_no_state_dict_holds_must_be_computed_first() -> None:
    with torch.device("meta"):
        net = TiedNet()
    with pytest.raises(sg.StructureError) as caught:
        sg.torch.load_into(net, TiedNet().state_dict())
    assert "no leaf of the donor fills a place at 'table'" in str(caught.value)
    assert "missing=[('table', 'keep-target')]" in str(caught.value)


def test_2a_12_a_meta_tree_cannot_fill_a_real_module() -> None:
    with torch.device("meta"):
        donor = nn.Linear(2, 1).state_dict()
    layer = nn.Linear(2, 1)
    before = bits(layer)
    with pytest.raises(sg.SpecError, match="the tree has no data at 'weight'"):
        sg.torch.load_into(layer, donor)
    assert same_tensors(bits(layer), before)


def test_2a_17_a_lazy_module_is_refused_before_anything_is_written() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2))
    before = net[0].weight.detach().clone()
    with pytest.raises(sg.SpecError, match=r"a lazy module has no shape here yet at '1\.weight'"):
        sg.torch.load_into(net, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict())
    assert torch.equal(net[0].weight, before)


def test_2a_05_an_expanded_buffer_is_replaced_where_torch_could_not_write() -> None:
    net = nn.Linear(2, 2)
    net.register_buffer("ids", torch.arange(3).expand(2, 3))
    state = net.state_dict()
    state["ids"] = torch.arange(6).reshape(2, 3)
    sg.torch.load_into(net, state)
    assert net.ids.tolist() == [[0, 1, 2], [3, 4, 5]] and "ids" in net.state_dict()


def test_an_expanded_parameter_is_refused() -> None:
    net = nn.Linear(2, 2)
    net.scale = nn.Parameter(torch.ones(1).expand(3))
    with pytest.raises(sg.SpecError, match="torch cannot write to this parameter in place at 'scale'"):
        sg.torch.load_into(net, net.state_dict())


def test_2a_05_memory_formats_of_the_module_are_kept() -> None:
    conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    other = nn.Conv2d(3, 8, 3)
    sg.torch.load_into(conv, other.state_dict())
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(conv.weight, other.weight)


def test_2a_09_parametrizations_take_their_originals() -> None:
    a, b = (parametrizations.weight_norm(nn.Linear(3, 2)) for _ in range(2))
    sg.torch.load_into(a, b.state_dict())
    assert torch.equal(a.weight, b.weight)
    assert torch.equal(a.parametrizations.weight.original0, b.parametrizations.weight.original0)


def test_rules_and_places_select_what_is_loaded() -> None:
    net, backbone = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 3)}), nn.Linear(2, 2)
    head = bits(net)["head.weight"]
    report = sg.torch.load_into(
        net, backbone.state_dict(), at="backbone", missing=[("head.**", "keep-target")]
    )
    assert torch.equal(net.backbone.weight, backbone.weight) and torch.equal(net.head.weight, head)
    assert report.counts["loaded"] == 2 and report.counts["missing"] == 2
    sg.torch.load_into(
        net.backbone,
        {"w": backbone.weight.T, "b": backbone.bias},
        rules=[
            ("w", "weight", sg.ops.transpose()),
            ("b", "bias"),
        ],
    )
    assert torch.equal(net.backbone.weight, backbone.weight)


def test_a_file_that_changed_after_loading_writes_nothing(tmp_path: Path) -> None:
    net, file = TiedNet(), tmp_path / "m.safetensors"
    sg.save(TiedNet().state_dict(), file)
    tree = sg.load(file)
    sg.save(TiedNet().state_dict(), file, overwrite=True)
    before = bits(net)
    with pytest.raises(sg.FileError, match="changed since its header was read"):
        sg.torch.load_into(net, tree)
    assert same_tensors(bits(net), before)


def test_extra_state_is_no_tensor_whose_shape_must_fit() -> None:
    net = nn.Sequential(Extra(torch.ones(2)), Extra(3))
    sg.torch.load_into(net, nn.Sequential(Extra(torch.ones(5, 5)), Extra("text")).state_dict())
    assert net[0].extra.shape == (5, 5) and net[1].extra == "text"
