"""`_metadata` of a state_dict: the version of each module goes where its tensors go."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import surgery as sg
from tests.torch.nets import Block, TiedNet, Versioned, versioned


def versions(tree: Any) -> dict[str, int]:
    """Return the version of each module that the metadata of a state_dict knows."""
    return {name: entry["version"] for name, entry in tree._metadata.items()}


def numbered() -> nn.Module:
    """Return nested modules that all have different versions."""
    block = Versioned(10, a=versioned(11), b=versioned(12), quiet=Versioned(13))
    return Versioned(2, embed=versioned(3), block=block, empty=Versioned(4, inner=Versioned(5)))


def layered(count: int = 3) -> nn.Module:
    """Return a root of version 2 with a list (20) of blocks (30, 31, ...) of one layer (40) each."""
    blocks = {str(n): Versioned(30 + n, fc=versioned(40), act=Versioned(50)) for n in range(count)}
    return Versioned(2, h=Versioned(20, **blocks))


def test_2a_01_flatten_and_unflatten_keep_the_metadata() -> None:
    state = numbered().state_dict()
    again = sg.unflatten(sg.flatten(state))
    assert type(again) is OrderedDict and list(again) == list(state)
    assert again._metadata == state._metadata and list(again._metadata) == list(state._metadata)


def test_a_rename_onto_itself_keeps_metadata_and_its_order() -> None:
    state = numbered().state_dict()
    again = sg.rename(state, [("{p:**}", "{p}")])
    assert list(again._metadata.items()) == list(state._metadata.items())


def test_2a_01_a_renamed_module_takes_its_version_along_and_modules_without_tensors_too() -> None:
    renamed = sg.rename(numbered().state_dict(), [("block.{r:**}", "trunk.{r}")])
    assert versions(renamed) == {
        "": 2,
        "embed": 3,
        "trunk": 10,
        "trunk.a": 11,
        "trunk.b": 12,
        "trunk.quiet": 13,
        "empty": 4,
        "empty.inner": 5,
    }


def test_two_modules_that_change_places_change_their_versions_too() -> None:
    rules = [("block.a.{r}", "block.b.{r}"), ("block.b.{r}", "block.a.{r}")]
    found = versions(sg.rename(numbered().state_dict(), rules))
    assert (found["block.a"], found["block.b"], found["block"]) == (12, 11, 10)


def test_a_module_put_under_a_prefix_takes_its_version_there() -> None:
    found = versions(sg.rename(numbered().state_dict(), [("{p:**}", "student.net.{p}")]))
    assert found["student.net"] == 2 and found["student.net.block.a"] == 11
    assert found["student.net.empty.inner"] == 5


def test_extract_brings_the_versions_of_the_submodule_and_of_nothing_else() -> None:
    part = sg.extract(numbered().state_dict(), "block")
    assert versions(part) == {"": 10, "a": 11, "b": 12, "quiet": 13}


def test_select_and_drop_keep_the_versions_of_what_stays() -> None:
    state = numbered().state_dict()
    for part in (sg.select(state, "block.**"), sg.drop(state, "embed.**")):
        found = versions(part)
        assert {name: found[name] for name in ("", "block", "block.a")} == {"": 2, "block": 10, "block.a": 11}


@pytest.mark.parametrize("name", ["module", "_orig_mod", "_fsdp_wrapped_module", "module._orig_mod"])
def test_unwrap_moves_the_versions_with_the_tensors(name: str) -> None:
    state = numbered().state_dict()
    wrapped = sg.rename(state, [("{p:**}", f"{name}.{{p}}")])
    tree, _ = sg.unwrap(wrapped)
    assert list(tree) == list(state)
    assert versions(tree) == versions(state)


def test_stacked_layers_have_the_version_of_one_layer_and_leave_none_behind() -> None:
    state = layered().state_dict()
    stacked = sg.transform(state, [("h.{i:int}.{r:**}", "h.{r}", sg.ops.stack(axis=0))])
    assert list(stacked) == ["h.fc.weight", "h.fc.bias"]
    assert versions(stacked) == {"": 2, "h": 30, "h.fc": 40, "h.act": 50}


def test_unstacking_by_the_inverse_gives_the_very_metadata_back() -> None:
    state = layered(11).state_dict()
    plan = sg.plan([("h.{i:int}.{r:**}", "h.{r}", sg.ops.stack(axis=0))], state)
    assert plan.inverse().apply(plan.apply(state))._metadata == state._metadata


def test_unstacked_layers_each_get_the_version_of_the_stacked_one() -> None:
    state = layered(1).state_dict()
    wide = OrderedDict((name, torch.stack([x, x + 1])) for name, x in state.items())
    wide._metadata = state._metadata
    found = versions(sg.transform(wide, [("h.0.{r:**}", "h.{j}.{r}", sg.ops.unstack(axis=0))]))
    assert found["h.0.fc"] == found["h.1.fc"] == 40
    assert found["h.0"] == found["h.1"] == 30
    assert found["h"] == 20


def test_the_parts_of_a_split_module_each_have_its_version() -> None:
    state = Versioned(2, attn=Versioned(6, qkv=versioned(7, 6))).state_dict()
    found = versions(sg.transform(state, [("attn.qkv.{p}", "attn.{q|k|v}.{p}", sg.ops.split())]))
    assert found == {"": 2, "attn": 6, "attn.q": 7, "attn.k": 7, "attn.v": 7}


def test_a_module_joined_from_modules_of_one_version_has_it() -> None:
    state = Versioned(2, attn=Versioned(6, q=versioned(7), k=versioned(7), v=versioned(7))).state_dict()
    found = versions(sg.transform(state, [("attn.{q|k|v}.{p}", "attn.qkv.{p}", sg.ops.concat())]))
    assert found == {"": 2, "attn": 6, "attn.qkv": 7}


def test_tensors_that_come_from_modules_of_two_versions_make_a_module_without_one() -> None:
    state = Versioned(2, a=versioned(7), b=versioned(8)).state_dict()
    rules = [("a.weight", "c.weight"), ("b.bias", "c.bias"), ("{a|b}.{p}?", None)]
    found = versions(sg.transform(state, rules))
    assert "c" not in found and found[""] == 2


def test_metadata_follows_tensors_inside_a_larger_checkpoint() -> None:
    tree = {"epoch": 3, "model": numbered().state_dict()}
    renamed = sg.rename(tree, [("model/block/{r:**}", "model/trunk/{r}")])
    assert versions(renamed["model"])["trunk.a"] == 11
    moved = sg.rename(tree, [("model/{r:**}", "ema/{r}")])
    assert versions(moved["ema"]) == versions(tree["model"])


def test_what_else_an_entry_says_is_kept_and_the_source_is_not_shared() -> None:
    state = numbered().state_dict()
    state._metadata["embed"]["scheme"] = "per-tensor"
    renamed = sg.rename(state, [("embed.{p}", "wte.{p}")])
    assert renamed._metadata["wte"] == {"version": 3, "scheme": "per-tensor"}
    renamed._metadata["wte"]["version"] = 99
    assert state._metadata["embed"]["version"] == 3


def test_torch_loads_a_renamed_state_dict_strictly() -> None:
    net = TiedNet()
    renamed = sg.rename(net.state_dict(), [("blocks.{r:**}", "layers.{r}")])
    other = TiedNet()
    other.layers = other.blocks
    del other.blocks
    other.load_state_dict(renamed, strict=True)
    assert torch.equal(other.layers[1].linear.weight, net.blocks[1].linear.weight)


@pytest.mark.parametrize("version", [1, 2])
def test_2a_01_batch_norm_under_a_new_name_still_knows_its_version(version: int) -> None:
    """From version 2 on a missing num_batches_tracked is an error; before, torch fills it in."""
    state = nn.ModuleDict({"bn": nn.BatchNorm1d(2), "act": nn.ReLU()}).state_dict()
    state._metadata["bn"]["version"] = version
    renamed = sg.rename(sg.drop(state, "**.num_batches_tracked"), [("bn.{p}", "norm.{p}")])
    target = nn.ModuleDict({"norm": nn.BatchNorm1d(2), "act": nn.ReLU()})
    if version == 1:
        target.load_state_dict(renamed)
    else:
        with pytest.raises(RuntimeError, match=r"norm\.num_batches_tracked"):
            target.load_state_dict(renamed)


def test_a_graft_keeps_the_metadata_of_its_target() -> None:
    target, donor = numbered().state_dict(), numbered().state_dict()
    donor._metadata["embed"]["version"] = 99
    tree, _ = sg.graft(target, donor)
    assert versions(tree) == versions(target)


names = st.sampled_from(["a", "b", "c", "0", "1"])


@st.composite
def networks(draw: st.DrawFn, depth: int = 3) -> nn.Module:
    """Draw nested modules, with or without tensors, each with a version of its own."""
    count = iter(range(2, 10_000))

    def make(level: int) -> nn.Module:
        node = versioned(next(count), 1) if draw(st.booleans()) else Versioned(next(count))
        if level:
            for name in draw(st.lists(names, unique=True, max_size=3)):
                node.add_module(name, make(level - 1))
        return node

    return make(depth)


@given(networks(), names)
def test_a_rename_and_its_inverse_give_the_same_metadata(net: nn.Module, name: str) -> None:
    state = net.state_dict()
    before = copy.deepcopy(state._metadata)
    if not state:
        return
    plan = sg.plan([("{p:**}", f"x.{name}.{{p}}")], state)
    there = plan.apply(state)
    assert {k: v for k, v in versions(there).items() if k.startswith(f"x.{name}")} == {
        f"x.{name}.{k}".rstrip("."): v for k, v in versions(state).items()
    }
    back = plan.inverse().apply(there)
    assert list(back._metadata.items()) == list(before.items()) == list(state._metadata.items())
    again, _ = sg.rename(there, [(f"x.{name}.{{p:**}}", "{p}")]), None
    assert versions(again) == versions(state)


@given(networks())
def test_wrapping_and_unwrapping_give_the_same_metadata(net: nn.Module) -> None:
    wrapper = nn.Module()
    wrapper.add_module("_orig_mod", net)
    if not net.state_dict():
        return
    tree, report = sg.unwrap(wrapper.state_dict())
    assert versions(tree) == versions(net.state_dict())
    net.load_state_dict(tree, strict=True)
    assert "stripped '_orig_mod'" in str(report)


def test_a_block_moves_into_another_model_with_its_versions() -> None:
    """What transfer learning does: the encoder's names become those under `backbone`."""
    encoder = nn.Sequential(nn.BatchNorm1d(2), Block(2))
    state = sg.rename(encoder.state_dict(), [("{p:**}", "backbone.{p}")])
    model = nn.ModuleDict({"backbone": nn.Sequential(nn.BatchNorm1d(2), Block(2))})
    model.load_state_dict(state, strict=True)
    assert versions(state)["backbone.0"] == 2
