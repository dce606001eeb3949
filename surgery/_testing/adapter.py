"""The suite for adapters: arrays, containers, and every verb and op over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np

from surgery import ops
from surgery._arrays.numpy import NUMPY
from surgery._dtypes import is_floating, numpy_dtype
from surgery._errors import SpecError
from surgery._files.files import realize
from surgery._ops.base import Op, whole
from surgery._plans.edit import rename, transform
from surgery._plans.graft import graft
from surgery._plans.plan import plan
from surgery._testing.arrays import ArrayChecks
from surgery._testing.common import is_same_tree, raises, same_bits, sample
from surgery._trees.registry import backend_of, find_backend
from surgery._types import Leaf, TensorSpec, Tree
from surgery._verbs.merge import merge
from surgery._verbs.partition import label, partition
from surgery._verbs.select import drop, select
from surgery._verbs.tree import flatten, map_with_path, paths, spec, unflatten

# One of each op on one tensor, and what it must be given.
ONE_TO_ONE: tuple[tuple[Op, tuple[int, ...]], ...] = (
    (ops.transpose(), (3, 4)),
    (ops.transpose(0, 2), (2, 3, 4)),
    (ops.permute_axes([2, 0, 3, 1]), (2, 3, 4, 5)),
    (ops.reshape([-1, 3]), (2, 3, 2)),
    (ops.rearrange("(h d) i -> i h d", h=3), (6, 4)),
    (ops.rearrange("a 1 (b c) -> (b a) c", c=2), (3, 1, 4)),
    (ops.take([2, 0, 2, 1], axis=1), (2, 3)),
    (ops.untie(), (2, 3)),
)


class AdapterSuite(ArrayChecks):
    """Holds an adapter to what the core relies on. Subclass it; pytest collects the subclass.

    Override `make`, and what else differs from the defaults. A check that needs what
    the library does not have is skipped.

    Attributes:
        dtypes: the canonical names of dtypes that `make` can make.
        target: the name under which `realize` makes such arrays.

    >>> class TestNumpy(AdapterSuite):
    ...     target = "numpy"
    ...     dtypes = ("float32", "int8")
    ...     def make(self, array):
    ...         return array.copy()
    >>> TestNumpy().test_the_elements_come_back_bit_for_bit()
    """

    target: ClassVar[str] = ""

    # --- what a subclass says -------------------------------------------------------------------

    def trees(self) -> Mapping[str, Tree]:
        """Return trees in the library's own containers, by a name for each; at least the plain one."""
        return {"plain": self.plain_tree()}

    def is_same(self, a: Tree, b: Tree) -> bool:
        """Whether the library itself sees one structure and the same leaf objects in both."""
        return is_same_tree(a, b)

    def plain_tree(self) -> Tree:
        """Return a tree of dicts and lists, with empty ones and None among them."""
        return {
            "embed": {"w": self.leaf(6, 4)},
            "layers": [{"q": {"w": self.leaf(4, 4, seed=n)}, "b": self.leaf(4, seed=n)} for n in range(3)],
            "head": {"w": self.leaf(4, 2), "none": None, "empty": {}},
        }

    # --- places ---------------------------------------------------------------------------------

    def test_a_leaf_is_where_it_is(self) -> None:
        backend, x = self.backend(), self.leaf(2, 3)
        assert backend.is_placed_like(x, x)
        assert backend.is_placed_like(backend.from_numpy(sample((2, 3), self.dtypes[0]), like=x), x)

    def test_leaves_stay_in_their_place_and_come_to_that_of_others(self) -> None:
        array = sample((2, 3), self.dtypes[0])
        away = self.make_elsewhere(array)
        if away is None:
            raise SkipTest("this library has one place only")
        backend, here = self.backend(), self.make(array)
        assert not backend.is_placed_like(here, away) and not backend.is_placed_like(away, here)
        assert backend.is_placed_like(backend.from_numpy(array, like=away), away)
        self._agree("elsewhere", away, array, away)
        for made in (backend.copy(away), backend.slice(away, 0, 0, 2), backend.cast(away, self.dtypes[0])):
            assert backend.is_placed_like(made, away)
        grafted, _ = graft({"w": away}, {"w": here})
        assert backend.is_placed_like(grafted["w"], away) and grafted["w"] is not here
        added = transform({"w": away}, [(None, "new", ops.new([2, 3], dtype=self.dtypes[0]))])["new"]
        assert backend.is_placed_like(added, away)

    def test_a_leaf_without_data_takes_part_in_all_but_reading(self) -> None:
        x = self.make_abstract((6, 4), self.dtypes[0])
        if x is None:
            raise SkipTest("this library has no leaves without data")
        backend = backend_of(x)
        assert not backend.holds_data(x) and backend.spec(x) == TensorSpec((6, 4), self.dtypes[0])
        with raises(SpecError):
            backend.to_numpy(x)
        for op, shape in ONE_TO_ONE:
            abstract = self.make_abstract(shape, self.dtypes[0])
            out = transform({"w": abstract}, [("w", "v", op)])["v"]
            expected = op.infer([TensorSpec(shape, self.dtypes[0])])[0]
            assert backend_of(out).spec(out) == expected, f"{op}"

    # --- trees ----------------------------------------------------------------------------------

    def test_flatten_and_unflatten_give_the_tree_back_with_its_leaf_objects(self) -> None:
        for name, tree in self.trees().items():
            flat = flatten(tree)
            assert len(flat), f"{name}: the tree has leaves"
            assert self.is_same(unflatten(flat), tree), name
            assert self.is_same(unflatten(dict(flat), like=tree), tree), f"{name}, like="
            assert self.is_same(unflatten(flatten(tree, sep="/")), tree), f"{name}, as text"

    def test_a_map_keeps_containers_and_sees_every_leaf_once(self) -> None:
        for name, tree in self.trees().items():
            seen: list[Any] = []

            def note(path: Any, leaf: Leaf, seen: list[Any] = seen) -> Leaf:
                seen.append(path)
                return leaf

            assert self.is_same(map_with_path(note, tree), tree), name
            assert seen == paths(tree), name

    def test_the_spec_of_a_tree_reads_no_data_and_keeps_its_paths(self) -> None:
        for name, tree in self.trees().items():
            shapes = flatten(spec(tree))
            assert list(shapes) == paths(tree), name
            assert all(isinstance(one, TensorSpec) for one in shapes.values()), name

    def test_partition_and_merge_are_inverse(self) -> None:
        for name, tree in self.trees().items():
            number = {id(leaf): n for n, leaf in enumerate(flatten(tree).values())}

            def even(path: Any, leaf: Leaf, number: dict[int, int] = number) -> bool:
                return number[id(leaf)] % 2 == 0

            parts = partition(tree, [(even, "even")], default="odd")
            assert self.is_same(merge(*parts.values()), tree), name
            assert self.is_same(merge(*reversed(parts.values())), tree), f"{name}, in another order"
            labels = flatten(label(tree, [(even, "even")], default="odd"))
            assert {path for path, one in labels.items() if one == "even"} == set(paths(parts["even"])), name

    def test_select_and_drop_are_complementary(self) -> None:
        for name, tree in self.trees().items():
            first = paths(tree)[0]
            assert paths(select(tree, first)) == [first], name
            assert paths(drop(tree, first)) == [path for path in paths(tree) if path != first], name

    def test_a_rename_goes_back_with_the_leaf_objects(self) -> None:
        for name, tree in self.trees().items():
            there = plan([("{all:**}?", "moved/{all}")], tree)
            assert self.is_same(there.inverse().apply(there.apply(tree)), tree), name
        moved = rename(self.plain_tree(), [("head/**", "top/**")])
        assert ("top", "w") in paths(moved) and ("head", "w") not in paths(moved)

    def test_a_graft_takes_leaves_of_numpy_into_the_library(self) -> None:
        for name, tree in self.trees().items():
            assert self.is_same(graft(tree, tree)[0], tree), name
            grafted, report = graft(tree, as_plain(realize(tree, "numpy")))
            assert report.counts["loaded"] == len(flatten(tree)), name
            for path, leaf in flatten(tree).items():
                assert find_backend(flatten(grafted)[path]) is find_backend(leaf), f"{name} {path}"

    def test_two_names_of_one_array_are_tied(self) -> None:
        shared = self.leaf(2, 3)
        if self.backend().identity(shared) is None:
            raise SkipTest("arrays of this library are never tied")
        tied = {"a": shared, "b": shared, "c": self.leaf(2, 3)}
        found = spec(tied)
        assert found["a"].alias == found["b"].alias == "a" and found["c"].alias is None
        moved = transform(tied, [("{a|b}", "{x|y}", ops.transpose())])
        assert moved["x"] is moved["y"]
        apart = transform(tied, [("b", "b", ops.untie())])
        assert spec(apart)["b"].alias is None and apart["a"] is shared

    def test_realize_goes_to_numpy_and_back(self) -> None:
        if not self.target:
            raise SkipTest("no target is named")
        for name, array, x in self.samples():
            there = realize({"w": x}, "numpy")["w"]
            assert same_bits(there, array), name
            back = realize({"w": there}, self.target)["w"]
            assert backend_of(back) is self.backend() and same_bits(self.backend().to_numpy(back), array), (
                name
            )

    # --- ops ------------------------------------------------------------------------------------

    def _arrays(self, tree: Tree) -> Tree:
        return {path: self.backend().to_numpy(leaf) for path, leaf in flatten(tree).items()}

    def _check_rules(self, name: str, rules: Any, tree: dict[str, np.ndarray[Any, Any]]) -> None:
        """A plan does to arrays of the library what it does to those of numpy, and back."""
        ours = {key: self.make(array) for key, array in tree.items()}
        edit = plan(rules, ours)
        made, expected = edit.apply(ours), flatten(edit.apply(tree))
        found = self._arrays(made)
        assert list(found) == list(expected), name
        for path, array in expected.items():
            assert same_bits(found[path], array), f"{name} {path}"
        if not edit.lost:
            back = self._arrays(edit.inverse().apply(made))
            assert all(same_bits(back[key,], array) for key, array in tree.items()), f"{name}, back"

    def test_ops_on_one_tensor_do_what_they_do_to_numpy_and_back(self) -> None:
        for dtype in {self.dtypes[0], self.dtypes[-1]}:  # primitives were tried on all of them
            for op, shape in ONE_TO_ONE:
                self._check_rules(f"{op} {dtype}", [("w", "v", op)], {"w": sample(shape, dtype)})

    def test_ops_on_many_tensors_do_what_they_do_to_numpy_and_back(self) -> None:
        for dtype in {self.dtypes[0], self.dtypes[-1]}:
            three = {f"h{n}": sample((2, 4), dtype, seed=n) for n in range(3)}
            for axis in (0, 1, -1):
                self._check_rules("stack", [("h{i:int}", "h", ops.stack(axis))], three)
                self._check_rules("concat", [("h{i:int}", "h", ops.concat(axis))], three)
            one = {"w": sample((3, 4), dtype)}
            self._check_rules("unstack", [("w", "w{i:int}", ops.unstack(0))], one)
            self._check_rules("split", [("w", "{q|k}", ops.split([1, 3], axis=1))], one)
            self._check_rules("copies", [("w", ["a", "b"])], one)

    def test_moments_move_by_their_own_rule_as_in_numpy(self) -> None:
        dtype = next(filter(is_floating, self.dtypes), None)
        if dtype is None:
            raise SkipTest("no floating dtype is named")
        array = np.arange(1, 7).reshape(2, 3).astype(numpy_dtype(dtype))
        for rules in ([("w", "v", ops.take([1, 1, 0], axis=0))], [("w", ["a", "b"])]):
            edit = plan(rules, {"w": array})
            for kind in ("covector", "covector_sq", "covector_abs"):
                made = self._arrays(edit.apply({"w": self.make(array)}, kind=kind))
                expected = flatten(edit.apply({"w": array}, kind=kind))
                assert all(same_bits(made[path], expected[path]) for path in expected), f"{rules} {kind}"

    def test_a_box_of_a_result_is_pulled_from_boxes_of_the_sources(self) -> None:
        backend, dtype = self.backend(), self.dtypes[0]
        for op, shape in ONE_TO_ONE:
            array = sample(shape, dtype)
            full = op.apply([array], NUMPY)[0]
            box = tuple((size // 3, size) for size in full.shape)
            pulled = op.pull([TensorSpec(shape, dtype)], 0, box)
            blocks = [self.make(np.ascontiguousarray(array[_slices(part)])) for _, part in pulled.needs]
            made = backend.to_numpy(pulled.compute(blocks, backend))
            assert same_bits(made, full[_slices(box)]), f"{op}"
            assert all(len(part) == len(shape) for _, part in pulled.needs) and whole(shape)


def _slices(box: Any) -> tuple[slice, ...]:
    return tuple(slice(*span) for span in box)


def as_plain(tree: Tree) -> Tree:
    """Return the tree as plain nested dicts, as a donor from elsewhere would be."""
    return unflatten(dict(flatten(tree)))
