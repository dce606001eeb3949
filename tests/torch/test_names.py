"""Names of torch: what may stand in them, what rules may catch, and names that changed over the years."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import surgery as sg

ODD = [
    ("a.b", "a"),  # a leaf and a container of one name
    ("", "w"),
    ("a..b", "a.b"),
    (".a", "a."),
    ("layers.0.w", "layers.00.w"),
    ("a/b.w", "a.w"),
    (r"a\.b.w", "a.w"),
    ("a[0].w", "a.0.w"),
]


@pytest.mark.parametrize("names", ODD, ids=" and ".join)
def test_2a_16_a_state_dict_of_odd_names_comes_back_with_the_same_names(names: tuple[str, ...]) -> None:
    tree = OrderedDict((name, torch.ones(n + 1)) for n, name in enumerate(names))
    again = sg.unflatten(sg.flatten(tree))
    assert type(again) is OrderedDict and list(again) == list(names)
    assert all(again[name] is tree[name] for name in names)
    text = sg.unflatten(sg.flatten(tree, sep="/"))
    assert all(text[name] is tree[name] for name in names)


@pytest.mark.parametrize("names", ODD, ids=" and ".join)
def test_2a_16_two_odd_names_never_print_the_same(names: tuple[str, ...]) -> None:
    tree = {name: torch.ones(1) for name in names}
    for sep in ("/", "."):
        assert len(sg.flatten(tree, sep=sep)) == len(names)


def test_2a_16_a_name_that_is_a_leaf_and_a_module_is_refused_when_it_is_made() -> None:
    tree = {"a.w": torch.ones(1), "b.w": torch.ones(2)}
    with pytest.raises(sg.StructureError, match="one place is to be both a leaf and a container at 'a'"):
        sg.rename(tree, [("b.w", "a")])


def test_2a_16_layers_are_collected_in_the_order_of_their_numbers() -> None:
    tree = {f"layers.{n}.w": torch.tensor([float(n)]) for n in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    out = sg.transform(tree, [("layers.{i:int}.w", "layers.w", sg.ops.stack(axis=0))])
    assert out["layers.w"].flatten().tolist() == list(range(11))


def test_2a_14_a_tensor_for_a_parameter_that_is_none_is_an_error() -> None:
    layer = nn.Linear(2, 2, bias=False)
    before = layer.weight.clone()
    with pytest.raises(
        sg.StructureError, match="a leaf of the donor has no place in the target at 'bias'"
    ) as caught:
        sg.torch.load_into(layer, nn.Linear(2, 2).state_dict())
    assert "unexpected='drop' leaves it out" in str(caught.value)
    assert torch.equal(layer.weight, before) and layer.bias is None


def test_2a_20_a_pattern_matches_whole_keys_and_never_a_part_of_one() -> None:
    tree = {name: torch.ones(1) for name in ("experts.w", "shared_experts.w", "my.experts.w", "experts.w2")}
    assert [".".join(path) for path in sg.matches(tree, "experts.w")] == ["experts.w"]
    assert [".".join(path) for path in sg.matches(tree, "re:experts.w")] == ["experts.w"]
    assert [".".join(path) for path in sg.matches(tree, "**.experts.w")] == ["experts.w", "my.experts.w"]
    renamed = sg.rename(tree, [("experts.w", "mlp.w")])
    assert list(renamed) == ["mlp.w", "shared_experts.w", "my.experts.w", "experts.w2"]


def test_2a_20_a_prefix_is_not_the_beginning_of_a_longer_name() -> None:
    tree = {"bert.w": torch.ones(1), "bertino.w": torch.ones(2)}
    assert list(sg.extract(tree, "bert")) == ["w"]
    assert list(sg.rename(tree, [("bert.{r:**}", "{r}")])) == ["w", "bertino.w"]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_2a_09_weight_norm_of_either_spelling_is_renamed_to_the_other() -> None:
    old = nn.utils.weight_norm(nn.Linear(3, 2))
    new = parametrizations.weight_norm(nn.Linear(3, 2))
    rules = [("weight_{g|v}", "parametrizations.weight.{original0|original1}"), ("bias", "bias")]
    plan = sg.plan(rules, old.state_dict(), new.state_dict())
    sg.torch.load_into(new, plan.apply(old.state_dict()))
    x = torch.randn(4, 3)
    assert torch.allclose(old(x), new(x), atol=1e-6)
    back = plan.inverse().apply(new.state_dict())
    assert {name: x.tolist() for name, x in back.items()} == {
        name: x.tolist() for name, x in old.state_dict().items()
    }


def test_2a_18_gamma_is_a_layer_norms_name_in_2018_and_a_layer_scale_elsewhere() -> None:
    tree = {"blocks.0.LayerNorm.gamma": torch.ones(2), "blocks.0.LayerNorm.beta": torch.ones(2)}
    tree |= {"blocks.0.gamma": torch.zeros(2), "blocks.0.ls.gamma": torch.zeros(2)}
    out = sg.rename(tree, [("{p:**}.LayerNorm.{gamma|beta}", "{p}.LayerNorm.{weight|bias}")])
    assert sorted(out) == [
        "blocks.0.LayerNorm.bias",
        "blocks.0.LayerNorm.weight",
        "blocks.0.gamma",
        "blocks.0.ls.gamma",
    ]
