"""The model inside a checkpoint, without the prefixes that wrappers insert."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from itertools import permutations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import surgery as sg
from tests.torch.nets import Block, TiedNet, same_tensors

PREFIXES = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"]


def under(prefix: str, state: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Return a state_dict as a wrapper writes it."""
    return OrderedDict((f"{prefix}.{name}", x) for name, x in state.items())


@pytest.mark.parametrize("prefix", PREFIXES)
def test_one_prefix_is_taken_off(prefix: str) -> None:
    state = TiedNet().state_dict()
    tree, report = sg.unwrap(under(prefix, state))
    assert same_tensors(tree, state)
    assert str(report) == f"unwrap: stripped '{prefix}' from {len(state)} leaves"


@pytest.mark.parametrize(
    "order", [*permutations(["module", "_orig_mod", "_fsdp_wrapped_module"])], ids=".".join
)
def test_2a_10_prefixes_are_taken_off_in_any_order(order: tuple[str, ...]) -> None:
    state = TiedNet().state_dict()
    tree, report = sg.unwrap(under(".".join(order), state))
    assert same_tensors(tree, state)
    assert all(f"stripped '{name}'" in str(report) for name in order)


def test_a_prefix_that_stands_twice_is_taken_off_twice() -> None:
    state = TiedNet().state_dict()
    tree, report = sg.unwrap(under("module.module._orig_mod.module", state))
    assert same_tensors(tree, state)
    expected = ", ".join(f"stripped '{name}' from {len(state)} leaves" for name in ("_orig_mod", "module"))
    assert str(report) == f"unwrap: {expected}"


def test_2a_10_private_prefixes_go_from_the_middle_and_module_stays_there() -> None:
    tree = {
        "blocks.0._fsdp_wrapped_module.fc.weight": torch.ones(1),
        "blocks.1._checkpoint_wrapped_module._orig_mod.fc.weight": torch.ones(2),
        "heads.module.weight": torch.ones(3),
    }
    found, _ = sg.unwrap(tree)
    assert list(found) == ["blocks.0.fc.weight", "blocks.1.fc.weight", "heads.module.weight"]


def test_2a_10_a_real_child_called_module_stays_when_it_is_not_alone() -> None:
    net = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    tree, report = sg.unwrap(net.state_dict())
    assert same_tensors(tree, net.state_dict()) and str(report) == "unwrap: nothing to take off"


def test_a_tree_without_wrappers_is_returned_as_it_is() -> None:
    state = TiedNet().state_dict()
    assert sg.unwrap(state)[0] is state


def test_names_that_would_collide_without_their_prefix_stay_and_the_report_says_so() -> None:
    tree = {"a._orig_mod.w": torch.ones(1), "a.w": torch.ones(2)}
    found, report = sg.unwrap(tree)
    assert found is tree
    assert "'_orig_mod' stays: without it two leaves would have one name" in str(report)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "model_state", "net"])
def test_the_model_is_found_beside_the_optimizer_and_counters(key: str) -> None:
    net = TiedNet()
    opt = torch.optim.Adam(net.parameters())
    state = under("module", net.state_dict())
    tree, report = sg.unwrap({"epoch": 3, key: state, "optimizer": opt.state_dict(), "args": {"lr": 0.1}})
    assert same_tensors(tree, net.state_dict())
    assert str(report).startswith(f"unwrap: took '{key}', stripped 'module' from {len(state)} leaves")
    assert {("epoch",), ("args", "lr")} <= {row.path for row in report.with_status("left out").rows}


def test_2b_40_an_average_is_never_taken_silently() -> None:
    net = TiedNet()
    _, report = sg.unwrap({"state_dict": net.state_dict(), "state_dict_ema": net.state_dict()})
    assert "there is an average too: extract(tree, 'state_dict_ema') takes it" in str(report)


def test_a_model_of_several_parts_is_no_checkpoint_around_one_of_them() -> None:
    tree = {"model": nn.Linear(2, 2).state_dict(), "decoder": nn.Linear(2, 2).state_dict()}
    assert sg.unwrap(tree)[0] is tree


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method")  # torch.compile imports what warns
def test_the_state_dict_of_a_compiled_module_is_unwrapped() -> None:
    net = TiedNet()
    state = torch.compile(net).state_dict()
    assert next(iter(state)).startswith("_orig_mod.")
    tree, _ = sg.unwrap(state)
    assert same_tensors(tree, net.state_dict())
    TiedNet().load_state_dict(tree, strict=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method")  # torch.compile imports what warns
def test_the_state_dict_of_a_compiled_submodule_is_unwrapped() -> None:
    net = TiedNet()
    names = list(net.state_dict())
    net.blocks[1] = torch.compile(net.blocks[1])
    assert "blocks.1._orig_mod.linear.weight" in net.state_dict()
    assert list(sg.unwrap(net.state_dict())[0]) == names


def test_arrays_beside_the_model_do_not_hide_it_where_training_left_its_marks() -> None:
    """Random states and the like are tensors too."""
    net = TiedNet()
    tree = {"model": net.state_dict(), "rng_state": torch.get_rng_state(), "epoch": 3}
    found, report = sg.unwrap(tree)
    assert found is tree["model"]
    assert [row.path for row in report.rows] == [("rng_state",), ("epoch",)]


def test_the_state_dict_of_data_parallel_is_unwrapped() -> None:
    net = TiedNet()
    tree, _ = sg.unwrap(nn.DataParallel(net).state_dict())
    assert same_tensors(tree, net.state_dict())
    TiedNet().load_state_dict(tree, strict=True)


def test_names_of_parameters_inside_a_checkpoint_wrapper_are_unwrapped() -> None:
    """The wrapper hides itself in state_dict(), and not in named_parameters()."""
    net = nn.Sequential(checkpoint_wrapper(Block(2)), Block(2))
    named = dict(net.named_parameters())
    assert "0._checkpoint_wrapped_module.linear.weight" in named
    assert list(sg.unwrap(named)[0]) == [
        name for name, _ in nn.Sequential(Block(2), Block(2)).named_parameters()
    ]


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of one process, for wrappers that need one."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method")  # torch.compile imports what warns
def test_2a_10_the_state_dict_of_a_compiled_distributed_module_is_unwrapped(process_group: None) -> None:
    net = TiedNet()
    wrapped = torch.compile(nn.parallel.DistributedDataParallel(net))
    state = wrapped.state_dict()
    assert next(iter(state)).startswith("_orig_mod.module.")
    tree, report = sg.unwrap(state)
    assert same_tensors(tree, net.state_dict())
    assert "stripped '_orig_mod'" in str(report) and "stripped 'module'" in str(report)


def test_unwrap_can_leave_prefixes_or_the_checkpoint_alone() -> None:
    state = under("module", TiedNet().state_dict())
    checkpoint = {"model": state, "epoch": 1}
    assert sg.unwrap(checkpoint, prefixes=False)[0] is state
    inner, report = sg.unwrap(checkpoint, inside=False)
    assert inner is checkpoint and str(report) == "unwrap: nothing to take off"
