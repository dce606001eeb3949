"""An nn.Module as the tree of reading verbs; editing verbs name its state_dict."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgery as sg
from tests.torch.nets import Block, Extra, TiedNet


def test_a_module_is_read_as_its_parameters_and_buffers_persistent_or_not() -> None:
    net = TiedNet()
    flat = sg.flatten(net)
    assert flat["embed", "weight"] is net.embed.weight
    assert flat["offset",] is net.offset
    assert flat["table",] is net.table
    assert {".".join(path) for path in flat} == {*net.state_dict(), "table"}


def test_the_leaves_of_a_module_are_its_own_tensors_and_not_copies() -> None:
    net = TiedNet()
    own = {id(x) for x in (*net.parameters(), *net.buffers())}
    assert {id(leaf) for leaf in sg.flatten(net).values()} == own


def test_2a_03_a_tied_parameter_stands_under_each_of_its_names_and_counts_once() -> None:
    net = TiedNet()
    flat = sg.flatten(net)
    assert flat["embed", "weight"] is flat["head", "weight"]
    specs = sg.flatten(sg.spec(net))
    assert specs["head", "weight"].alias == specs["embed", "weight"].alias == "embed.weight"
    report = sg.summarize(net)
    assert f"{sum(p.numel() for p in net.parameters()) + 3 + 2 + 4 + 4 + 1:,} parameters" in str(report)
    assert "tied to 'embed.weight'" in str(report)


def test_tied_modules_are_tied_in_all_their_tensors() -> None:
    block = Block(2)
    net = nn.ModuleDict({"first": block, "second": block})
    specs = sg.flatten(sg.spec(net))
    assert {path[1:]: spec.alias for path, spec in specs.items() if path[0] == "second"} == {
        ("linear", "weight"): "first.linear.weight",
        ("linear", "bias"): "first.linear.bias",
        ("norm", "weight"): "first.norm.weight",
        ("norm", "bias"): "first.norm.bias",
    }


def test_a_tie_survives_in_a_state_dict_whose_tensors_are_detached() -> None:
    specs = sg.flatten(sg.spec(TiedNet().state_dict()))
    assert specs["head", "weight"].alias == "embed.weight"


def test_2a_04_tied_meta_parameters_are_told_from_other_meta_parameters() -> None:
    with torch.device("meta"):
        net = TiedNet()
    specs = sg.flatten(sg.spec(net))
    tied = [path for path, spec in specs.items() if spec.alias is not None]
    assert tied == [("embed", "weight"), ("head", "weight")]


@pytest.mark.parametrize(
    ("verb", "call"),
    [
        ("select", lambda net: sg.select(net, "**")),
        ("drop", lambda net: sg.drop(net, "head.**")),
        ("partition", lambda net: sg.partition(net, [("**", 1)])),
        ("merge", lambda net: sg.merge(net)),
        ("rename", lambda net: sg.rename(net, [("head.weight", "out.weight")])),
        ("transform", lambda net: sg.transform(net, [("head.weight", "out.weight")])),
        ("graft", lambda net: sg.graft(net, {})),
        ("unwrap", lambda net: sg.unwrap(net)),
        ("map_with_path", lambda net: sg.map_with_path(lambda path, x: x, net)),
        ("apply", lambda net: sg.plan([("head.weight", "out.weight")], net).apply(net)),
    ],
)
def test_editing_verbs_refuse_a_module_and_name_its_state_dict(verb: str, call) -> None:
    with pytest.raises(sg.StructureError) as caught:
        call(TiedNet())
    assert str(caught.value) == (
        f"{verb}: a TiedNet is a module, not a tree\n"
        f"  hint: edit its tree instead: {verb}(module.state_dict(), ...)"
    )


def test_reading_verbs_take_a_module() -> None:
    net = TiedNet()
    assert sg.paths(net)[:2] == [("offset",), ("embed", "weight")]
    assert sg.matches(net, "blocks.{i:int}.linear.bias") == {
        ("blocks", "0", "linear", "bias"): {"i": 0},
        ("blocks", "1", "linear", "bias"): {"i": 1},
    }
    assert sg.extract(net, "head.weight") is net.head.weight
    assert sg.equal(net, net) and not sg.diff(net, net, values=True)
    labels = sg.label(net, [("head.**", "a"), ("embed.**", "a"), ("**", "b")])
    assert labels["head.weight"] == labels["embed.weight"] == "a" and labels["bn.bias"] == "b"
    plan = sg.plan([("head.weight", "out.weight")], sg.drop(net.state_dict(), "embed.**"))
    assert [str(row.path) for row in plan.report.rows] == ["('out', 'weight')"]


def test_extract_takes_a_submodule_of_a_module_without_its_prefix() -> None:
    net = TiedNet()
    part = sg.extract(net, "blocks.1")
    assert list(part) == ["linear.weight", "linear.bias", "norm.weight", "norm.bias"]
    assert part["linear.weight"] is net.blocks[1].linear.weight
    fresh = Block(4)
    fresh.load_state_dict(part)
    assert torch.equal(fresh.linear.weight, net.blocks[1].linear.weight)


@pytest.mark.parametrize(
    "extra", [{"scale": torch.ones(2), "amax": [1, 2]}, torch.arange(3.0), b"\x00\xff", "text", None, 3]
)
def test_2a_02_extra_state_is_one_leaf_whatever_it_is(extra: object) -> None:
    net = nn.Sequential(Extra(extra), nn.Linear(2, 2))
    flat = sg.flatten(net)
    assert flat["0", "_extra_state"] is extra
    again = sg.unflatten(sg.flatten(net.state_dict()))
    assert again["0._extra_state"] is extra
    fresh = nn.Sequential(Extra("none"), nn.Linear(2, 2))
    fresh.load_state_dict(
        sg.rename(sg.rename(net.state_dict(), [("0.{r:**}", "a.{r}")]), [("a.{r:**}", "0.{r}")])
    )
    assert fresh[0].extra is extra


def test_2a_17_a_lazy_module_has_leaves_without_a_shape() -> None:
    net = nn.LazyLinear(3)
    assert str(sg.flatten(sg.spec(net))["weight",]) == "uninitialized[]"
    with pytest.raises(sg.FileError, match="a leaf has no data at 'weight'"):
        sg.save(net, "unused.safetensors")


def test_a_module_without_tensors_is_an_empty_tree() -> None:
    assert sg.paths(nn.ReLU()) == []


def test_2a_14_a_registered_none_has_no_leaf() -> None:
    """No key is written for a parameter or buffer that is None."""
    assert sg.paths(nn.Linear(2, 2, bias=False)) == [("weight",)]


def test_the_state_dict_of_a_single_layer_is_known_for_one_though_no_name_has_a_dot() -> None:
    layer = nn.Linear(2, 3)
    renamed = sg.rename(layer.state_dict(), [("{p}", "head.{p}")])
    assert list(renamed) == ["head.weight", "head.bias"]
    nn.ModuleDict({"head": nn.Linear(2, 3)}).load_state_dict(renamed, strict=True)


def test_2a_16_a_slash_in_the_name_of_a_submodule_is_an_ordinary_character() -> None:
    net = nn.ModuleDict({"en/de": nn.Linear(2, 2), "de/en": Block(2)})
    state = net.state_dict()
    assert sg.paths(state)[0] == ("en/de", "weight")
    renamed = sg.rename(state, [(("en/de", "weight"), ("fr/de", "weight"))])
    assert next(iter(renamed)) == "fr/de.weight"
    assert sg.equal(sg.unflatten(sg.flatten(state)), state)


def test_extra_states_that_hold_tensors_are_compared_by_what_they_hold() -> None:
    a, b = Extra({"scale": torch.ones(2), "n": [1]}), Extra({"scale": torch.ones(2), "n": [1]})
    b.load_state_dict(a.state_dict() | {"_extra_state": b.extra})
    assert sg.equal(a, b)
    b.extra["scale"][0] = 2
    assert not sg.equal(a, b)
    assert [row.status for row in sg.diff(a, b, values=True).rows] == ["value"]
