"""unwrap: the model inside a checkpoint, and what was taken off to get there."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import surgery as sg

W, B = np.ones((2, 3)), np.ones(3)
MODEL = {"fc.weight": W, "fc.bias": B}


@pytest.mark.parametrize(
    ("tree", "title"),
    [
        ({"state_dict": MODEL, "epoch": 3}, "took 'state_dict'"),
        ({"model_state_dict": MODEL, "optimizer_state_dict": {"state": {}}}, "took 'model_state_dict'"),
        ({"model": MODEL, "epoch": 3}, "took 'model'"),
        ({"model": MODEL}, "took 'model'"),
        ({"checkpoint": 1, "state_dict": {"model": MODEL, "step": 4}}, "took 'state_dict/model'"),
        ({f"module.{name}": x for name, x in MODEL.items()}, "stripped 'module' from 2 leaves"),
        ({f"module.module.{name}": x for name, x in MODEL.items()}, "stripped 'module' from 2 leaves"),
        ({f"_orig_mod.{name}": x for name, x in MODEL.items()}, "stripped '_orig_mod' from 2 leaves"),
        (
            {"fc._fsdp_wrapped_module.weight": W, "fc.bias": B},
            "stripped '_fsdp_wrapped_module' from 1 leaves",
        ),
        (
            {"state_dict": {f"module._orig_mod.{name}": x for name, x in MODEL.items()}},
            "took 'state_dict', stripped '_orig_mod' from 2 leaves, stripped 'module' from 2 leaves",
        ),
    ],
)
def test_wrappers_are_taken_off_and_named(tree: Any, title: str) -> None:
    out, report = sg.unwrap(tree)
    assert dict(out) == MODEL and out["fc.weight"] is W
    assert report.headline() == f"unwrap: {title}"


@pytest.mark.parametrize(
    "tree",
    [
        MODEL,
        {"model": W, "other": B},
        {"module.a": W, "other.b": B},
        {"net": {"w": W}, "head": {"w": B}},
        {"params": {"w": W}},
        {"state_dict": {}, "epoch": 1},
        {},
        None,
    ],
)
def test_a_tree_that_is_no_checkpoint_is_returned_as_it_is(tree: Any) -> None:
    out, report = sg.unwrap(tree)
    assert out is tree and report.headline() == "unwrap: nothing to take off"


def test_what_is_left_out_is_listed_with_its_place() -> None:
    _, report = sg.unwrap({"state_dict": {"w.x": W}, "optimizer": {"lr": 0.1}, "epoch": 3})
    assert [(row.status, row.path) for row in report] == [
        ("left out", ("optimizer", "lr")),
        ("left out", ("epoch",)),
    ]


def test_an_average_is_named_and_not_taken() -> None:
    out, report = sg.unwrap({"model": MODEL, "model_ema": {"fc.weight": W + 1}})
    assert out["fc.weight"] is W
    assert report.notes == ("there is an average too: extract(tree, 'model_ema') takes it",)


def test_names_that_would_collide_stay_and_are_said_to() -> None:
    tree = {"_orig_mod.w": W, "w": B}
    out, report = sg.unwrap(tree)
    assert out is tree
    assert report.notes == ("'_orig_mod' stays: without it two leaves would have one name",)


def test_each_kind_of_wrapper_can_be_left_on() -> None:
    tree = {"state_dict": {f"module.{name}": x for name, x in MODEL.items()}, "epoch": 1}
    assert set(sg.unwrap(tree, prefixes=False)[0]) == {"module.fc.weight", "module.fc.bias"}
    assert sg.unwrap(tree, inside=False)[0] is tree


def test_an_ordered_dict_stays_one_and_keeps_its_order() -> None:
    inside = OrderedDict((f"module.{name}", x) for name, x in reversed(MODEL.items()))
    out, _ = sg.unwrap({"state_dict": inside})
    assert type(out) is OrderedDict and list(out) == ["fc.bias", "fc.weight"]
