"""What lies behind a tensor: shared storage, strides, dtypes that must not change, subclasses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import surgery as sg


def views() -> dict[str, torch.Tensor]:
    """Return views of one storage: the same view twice, another shape, overlapping and disjoint parts."""
    base = torch.arange(12.0)
    parts = {"left": base[:8], "right": base[4:], "first": base[:6], "second": base[6:]}
    return {"whole": base, "again": base.view(12), "shaped": base.view(3, 4), **parts}


def test_2a_04_only_the_same_view_of_a_storage_is_a_tie() -> None:
    specs = sg.spec(views())
    assert {name for name, spec in specs.items() if spec.alias} == {"whole", "again"}
    assert specs["again"].alias == "whole"


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_2a_04_overlapping_and_disjoint_views_are_written_as_tensors_of_their_own(
    name: str, tmp_path: Path
) -> None:
    tree = views()
    sg.save(tree, tmp_path / name)
    again = sg.realize(sg.load(tmp_path / name), "torch")
    assert {key: x.tolist() for key, x in again.items()} == {key: x.tolist() for key, x in tree.items()}
    assert {key for key, spec in sg.spec(again).items() if spec.alias} == {"whole", "again"}
    again["left"][:] = -1
    assert again["right"].tolist() == tree["right"].tolist() and again["whole"].tolist() == list(range(12))


def test_2a_04_renaming_one_of_two_overlapping_views_is_no_untying() -> None:
    tree = views()
    renamed = sg.rename(tree, [("left", "moved")])
    assert renamed["moved"] is tree["left"]
    with pytest.raises(sg.SurgeryError, match="untie"):  # but one name of a tie is
        sg.transform(tree, [("again", "again", sg.ops.cast("bfloat16"))])


STRIDED = {
    "turned": lambda: torch.arange(6.0).reshape(2, 3).T,
    "every_other": lambda: torch.arange(8.0)[::2],
    "channels_last": lambda: torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "expanded": lambda: torch.arange(3.0).expand(1000, 3),
    "a_row": lambda: torch.arange(12.0).reshape(3, 4)[1],
}


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("name", STRIDED)
def test_2a_05_tensors_of_any_strides_are_written_with_the_right_values(
    name: str, ending: str, tmp_path: Path
) -> None:
    x = STRIDED[name]()
    sg.save({"x": x}, tmp_path / f"x.{ending}")
    again = sg.realize(sg.load(tmp_path / f"x.{ending}"), "torch")["x"]
    assert torch.equal(again, x) and again.is_contiguous()
    assert sg.equal({"x": again}, {"x": x})


def test_2a_05_structure_verbs_keep_the_strides_of_a_tensor() -> None:
    tree = {name: make() for name, make in STRIDED.items()}
    renamed = sg.rename(tree, [("{n}", "{n}_too")])
    assert all(renamed[f"{name}_too"] is x for name, x in tree.items())


def test_2a_05_ops_take_tensors_of_any_strides() -> None:
    x = STRIDED["channels_last"]()
    split = sg.transform({"x": x}, [("x", "{a|b}", sg.ops.split(axis=0))])
    assert torch.equal(torch.cat([split["a"], split["b"]]), x)
    back = sg.transform({"x": x}, [("x", "x", sg.ops.permute_axes([2, 3, 1, 0]))])["x"]
    assert torch.equal(back, x.permute(2, 3, 1, 0))


def test_2a_06_a_small_view_is_written_without_the_large_storage_behind_it(tmp_path: Path) -> None:
    large = torch.zeros(1_000_000)
    torch.save({"x": large[:10]}, tmp_path / "theirs.pt")
    sg.save({"x": large[:10]}, tmp_path / "ours.pt")
    assert (
        (tmp_path / "theirs.pt").stat().st_size > 4_000_000 > 10_000 > (tmp_path / "ours.pt").stat().st_size
    )


def test_2a_06_the_parts_of_a_split_keep_no_storage_of_the_whole_alive() -> None:
    parts = sg.transform({"qkv": torch.zeros(3000, 100)}, [("qkv", "{q|k|v}", sg.ops.split(axis=0))])
    assert [x.untyped_storage().nbytes() for x in parts.values()] == [x.nbytes for x in parts.values()]
    assert len({x.untyped_storage().data_ptr() for x in parts.values()}) == 3


def test_2a_08_a_cast_of_everything_refuses_to_round_a_counter() -> None:
    state = nn.BatchNorm1d(3).state_dict()
    with pytest.raises(sg.SpecError) as caught:
        sg.transform(state, [("**", "**", sg.ops.cast("bfloat16"))])
    assert str(caught.value) == (
        "transform: rule 1 (Rule('**' -> '**', cast(dtype='bfloat16'))): cast(dtype='bfloat16') would make "
        "a float of an integer at 'num_batches_tracked'\n"
        "  found     i64[]\n"
        "  hint: keep it, by a rule before this one; or ops.cast('bfloat16', integers=True)"
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_2a_08_indices_and_masks_are_refused_even_where_every_value_fits(dtype: torch.dtype) -> None:
    tree = {"mask": torch.ones(2, dtype=dtype)}
    with pytest.raises(sg.SpecError, match="would make a float of an integer at 'mask'"):
        sg.transform(tree, [("**", "**", sg.ops.cast("float32"))])
    meant = sg.transform(tree, [("mask", "mask", sg.ops.cast("float32", integers=True))])
    assert meant["mask"].dtype is torch.float32 and meant["mask"].tolist() == [1.0, 1.0]


def test_2a_08_a_rule_before_the_cast_keeps_the_counter() -> None:
    state = nn.BatchNorm1d(3).state_dict()
    keep = ("num_batches_tracked", "num_batches_tracked")
    out = sg.transform(state, [keep, ("**", "**", sg.ops.cast("bfloat16"))])
    assert out["num_batches_tracked"] is state["num_batches_tracked"]
    assert {x.dtype for name, x in out.items() if name != "num_batches_tracked"} == {torch.bfloat16}


def test_2a_08_what_the_hint_of_a_plan_says_works() -> None:
    tree, target = {"n": torch.ones(2, dtype=torch.int64)}, {"n": torch.ones(2)}
    with pytest.raises(sg.SpecError, match=r"ops\.cast\('float32', integers=True\)"):
        sg.plan([("n", "n")], tree, target)
    plan = sg.plan([("n", "n", sg.ops.cast("float32", integers=True))], tree, target)
    assert plan.apply(tree)["n"].dtype is torch.float32


def test_2a_08_widening_to_a_target_needs_no_word() -> None:
    tree, target = {"n": torch.ones(2, dtype=torch.int32)}, {"n": torch.ones(2, dtype=torch.float64)}
    assert sg.plan([("n", "n")], tree, target).apply(tree)["n"].dtype is torch.float64


class Marked(torch.Tensor):
    """A subclass that is a tensor in every way."""


class Sealed(torch.Tensor):
    """A subclass whose elements lie in another tensor and that knows no operation, as quantized ones may."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Sealed:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.float32)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return "Sealed()"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{func} is not known to Sealed")


def test_2a_11_structure_verbs_keep_the_very_tensor_of_any_class() -> None:
    tree = {"a.w": torch.ones(4, 2).as_subclass(Marked), "b.w": Sealed(torch.ones(4, 2, dtype=torch.int8))}
    renamed = sg.rename(tree, [("{n}.w", "{n}.weight")])
    assert renamed["a.weight"] is tree["a.w"] and renamed["b.weight"] is tree["b.w"]
    parts = sg.partition(tree, [("a.**", 1), ("**", 2)])
    assert sg.merge(*parts.values())["b.w"] is tree["b.w"]
    assert sg.equal(tree, tree) and str(sg.spec(tree)["b.w"]) == "f32[4,2]"


def test_2a_11_an_op_keeps_the_class_of_a_tensor_that_knows_it() -> None:
    tree = {"w": torch.arange(8.0).reshape(4, 2).as_subclass(Marked)}
    out = sg.transform(tree, [("w", "w", sg.ops.transpose())])["w"]
    assert type(out) is Marked and out.tolist() == tree["w"].T.tolist()


def test_2a_11_a_tensor_that_does_not_know_an_op_is_named() -> None:
    with pytest.raises(sg.SpecError) as caught:
        sg.transform({"w": Sealed(torch.ones(4, 2))}, [("w", "w", sg.ops.transpose())])
    assert str(caught.value) == (
        "transform: a Sealed cannot do transpose() at 'w'\n  hint: make a plain array of it first"
    )


def test_2a_11_a_tensor_that_hides_its_elements_is_not_written_as_something_else(tmp_path: Path) -> None:
    with pytest.raises(sg.FileError, match="a Sealed does not let its elements be read at 'w'"):
        sg.save({"w": Sealed(torch.ones(4, 2))}, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_2a_19_a_square_matrix_is_transposed_because_a_rule_says_so_and_not_because_of_its_shape() -> None:
    tree = {"square.weight": torch.arange(9.0).reshape(3, 3), "other.weight": torch.arange(6.0).reshape(2, 3)}
    out = sg.transform(tree, [("{n}.weight", "{n}.kernel", sg.ops.transpose())])
    assert torch.equal(out["square.kernel"], tree["square.weight"].T)
    left = sg.transform(tree, [("square.weight", "square.kernel")])
    assert left["square.kernel"] is tree["square.weight"]
    with pytest.raises(sg.SpecError, match="the shape differs at 'other/kernel'") as caught:
        sg.plan(
            [("{n}.weight", "{n}/kernel")],
            tree,
            {
                "square": {"kernel": np.ones((3, 3), np.float32)},
                "other": {"kernel": np.ones((3, 2), np.float32)},
            },
        )
    assert "a re-layout may be missing: transpose" in str(caught.value)
