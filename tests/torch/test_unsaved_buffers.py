"""Buffers that no state_dict holds: no checkpoint can fill them, so none must."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgery as sg


class Positions(nn.Module):
    """A layer with a table that is computed, as Hugging Face's embeddings have."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(2, 3)
        self.register_buffer("ids", torch.arange(4), persistent=False)


def test_2a_07_load_into_takes_a_state_dict_without_non_persistent_buffers() -> None:
    module, donor = Positions(), Positions()
    report = sg.torch.load_into(module, donor.state_dict())
    assert sg.equal(module.state_dict(), donor.state_dict())
    assert module.ids.tolist() == [0, 1, 2, 3]
    assert "missing  ids           i64[4]    kept from the target" in str(report)


def test_2a_07_load_into_still_wants_everything_else() -> None:
    donor = {name: tensor for name, tensor in Positions().state_dict().items() if name != "dense.bias"}
    with pytest.raises(
        sg.StructureError, match=r"no leaf of the donor fills a place at 'dense\.bias'"
    ) as caught:
        sg.torch.load_into(Positions(), donor)
    assert len(caught.value.problems) == 1


def test_load_into_fills_a_non_persistent_buffer_where_the_donor_has_it() -> None:
    module, donor = Positions(), Positions()
    donor.ids += 1
    sg.torch.load_into(module, donor)
    assert module.ids.tolist() == [1, 2, 3, 4]


def test_a_non_persistent_buffer_on_the_meta_device_is_an_error_for_it_holds_nothing() -> None:
    with torch.device("meta"):
        module = Positions()
    with pytest.raises(sg.StructureError, match="no leaf of the donor fills a place at 'ids'"):
        sg.torch.load_into(module, Positions().state_dict())


def test_policies_of_the_caller_stand_beside_it() -> None:
    module = nn.ModuleDict({"backbone": Positions(), "head": nn.Linear(3, 1)})
    keep = [("head/**", "keep-target")]
    report = sg.torch.load_into(module, Positions().state_dict(), at="backbone", missing=keep)
    assert report.counts["loaded"] == 2 and report.counts["missing"] == 3
