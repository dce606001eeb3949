"""The suite for file formats: what is written comes back, or an error says why not, and never half."""

from __future__ import annotations

import os
import tracemalloc
import weakref
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np

from surgery._dtypes import DType
from surgery._errors import FileError, PathError, SurgeryError
from surgery._files.files import load, realize, save
from surgery._files.format import FileTree
from surgery._files.recognise import format_for, format_of
from surgery._ops.base import Box
from surgery._ops.lazy import Lazy
from surgery._testing.common import SHAPES, layouts, raises, same_bits, sample
from surgery._types import Leaf, TensorSpec, Tree
from surgery._verbs.diff import equal
from surgery._verbs.tree import flatten, paths, spec

LARGE = 1 << 20  # elements: enough to tell reading from not reading


class FormatSuite:
    """Holds a file format to what `load`, `save` and the command rely on. Subclass it; pytest collects it.

    The checks go through `load` and `save`, so the format must be registered: named in
    the entry-point group `surgery.formats`.

    Attributes:
        name: the name of the format.
        suffix: a file name ending under which `save` chooses it.
        dtypes: the canonical names of dtypes that it holds.
        lazy: a leaf is read when it is used; until then, only headers are.
        streams: `save` holds one leaf at a time in memory.
        keeps_ties: names of one tensor come back as one.
        keeps_metadata: text beside the tensors comes back.

        >>> class TestSafetensors(FormatSuite):
        ...     name, suffix = "safetensors", ".safetensors"
        >>> import tempfile, pathlib
        >>> TestSafetensors().test_the_format_is_recognised_by_content(pathlib.Path(tempfile.mkdtemp()))
    """

    name: ClassVar[str] = ""
    suffix: ClassVar[str] = ""
    dtypes: ClassVar[tuple[DType, ...]] = ("float32", "float16", "bfloat16", "int64", "int8", "bool")
    lazy: ClassVar[bool] = True
    streams: ClassVar[bool] = True
    keeps_ties: ClassVar[bool] = True
    keeps_metadata: ClassVar[bool] = True

    # --- what a subclass says -------------------------------------------------------------------

    def make(self, array: np.ndarray[Any, Any]) -> Leaf:
        """Return a leaf that the format writes: of numpy by default."""
        return array

    def tree(self) -> dict[str, Any]:
        """Return a tree with a part called `enc` that holds `w`; names nest as the format nests them."""
        return {
            "enc": {"w": self.make(sample((2, 3), "float32")), "b": self.make(sample((3,), "float32", 5))},
            "head": {"w": self.make(sample((3, 2), "float32", 7))},
        }

    def unsupported(self) -> tuple[Tree, str] | None:
        """Return a tree that the format cannot hold, and the path of what it cannot; None if there is none."""
        return {"enc": {"w": self.make(sample((2,), "float32")), "bad": object()}}, "enc/bad"

    # --- what the checks use --------------------------------------------------------------------

    def file(self, folder: FilePath, stem: str = "model") -> FilePath:
        """Return a file name of this format."""
        return folder / f"{stem}{self.suffix}"

    def saved(self, folder: FilePath, tree: Tree, stem: str = "model") -> FilePath:
        """Save a tree and return the file."""
        file = self.file(folder, stem)
        save(tree, file)
        return file

    def big(self, count: int = 1) -> dict[str, Any]:
        """Return large leaves under flat names."""
        return {
            f"w{n}": self.make(np.arange(n, n + LARGE, dtype=np.float32).reshape(1024, -1))
            for n in range(count)
        }

    # --- recognising ----------------------------------------------------------------------------

    def test_the_format_is_recognised_by_content(self, tmp_path: FilePath) -> None:
        file = self.saved(tmp_path, self.tree())
        assert format_of(file).name == format_for(file).name == self.name
        other = file.rename(tmp_path / "whatever.dat")
        assert format_of(other).name == self.name
        assert paths(load(other)) == paths(load(other))

    def test_other_files_are_not_taken_for_this_format(self, tmp_path: FilePath) -> None:
        noise = np.random.default_rng(0).integers(0, 256, 4096, np.uint8).tobytes()
        for n, content in enumerate((b"", b"\n", b"{}", b"weights: none\n" * 100, b"\x00" * 4096, noise)):
            file = tmp_path / f"other{n}{self.suffix}"
            file.write_bytes(content)
            with raises(FileError, f"other{n}"):
                _read_all(load(file))

    # --- there and back -------------------------------------------------------------------------

    def test_every_dtype_and_shape_comes_back_bit_for_bit(self, tmp_path: FilePath) -> None:
        for dtype in self.dtypes:
            arrays = {f"x{n}": sample(shape, dtype) for n, shape in enumerate(SHAPES)}
            file = self.saved(tmp_path, {name: self.make(x) for name, x in arrays.items()}, dtype)
            found = realize(load(file), "numpy")
            assert set(found) == set(arrays)
            for name, array in arrays.items():
                assert same_bits(found[name], array), f"{dtype}{list(array.shape)}"

    def test_arrays_are_written_right_however_they_lie_in_memory(self, tmp_path: FilePath) -> None:
        for dtype in self.dtypes:
            for shape in ((2, 3), (3,), (2, 0, 3)):
                arrays = layouts(sample(shape, dtype))
                file = self.saved(tmp_path, dict(arrays), f"{dtype}{len(shape)}")
                for how, array in realize(load(file), "numpy").items():
                    assert same_bits(array, arrays[how]), f"{dtype}{list(shape)} {how}"

    def test_a_tree_comes_back_with_its_paths_specs_and_bits(self, tmp_path: FilePath) -> None:
        tree = self.tree()
        found = load(self.saved(tmp_path, tree))
        assert set(paths(found)) == set(paths(tree))
        before, after = flatten(spec(tree)), flatten(spec(found))
        assert {path: str(one) for path, one in before.items()} == {path: str(after[path]) for path in before}
        real, wanted = flatten(realize(found, "numpy")), flatten(realize(tree, "numpy"))
        assert all(same_bits(real[path], wanted[path]) for path in wanted)

    def test_what_was_loaded_can_be_saved_again_and_is_the_same(self, tmp_path: FilePath) -> None:
        first = self.saved(tmp_path, self.tree(), "first")
        second = self.saved(tmp_path, load(first), "second")
        assert equal(load(first), load(second))

    def test_a_loaded_mapping_knows_its_file_and_format(self, tmp_path: FilePath) -> None:
        file = self.saved(tmp_path, self.tree())
        found = load(file)
        assert isinstance(found, FileTree) and found.format == self.name
        assert FilePath(found.file) == file

    def test_a_subtree_can_be_asked_for(self, tmp_path: FilePath) -> None:
        tree, file = self.tree(), self.saved(tmp_path, self.tree())
        for found in (load(f"{file}:enc"), load(file, at="enc"), load(file, at=("enc",))):
            assert set(paths(found)) == set(paths(tree["enc"]))
            assert all(
                same_bits(x, flatten(realize(tree["enc"]))[path])
                for path, x in flatten(realize(found)).items()
            )
        assert same_bits(realize(load(f"{file}:enc/w")), realize(tree["enc"]["w"]))
        with raises(PathError, "ecn", "nearest"):
            load(f"{file}:ecn/w")

    def test_leaves_are_made_real_where_that_is_asked_for(self, tmp_path: FilePath) -> None:
        found = load(self.saved(tmp_path, self.tree()), to="numpy")
        assert all(type(leaf) is np.ndarray for leaf in flatten(found).values())

    def test_ties_come_back(self, tmp_path: FilePath) -> None:
        if not self.keeps_ties:
            raise SkipTest("the format has no ties")
        shared = self.make(sample((4, 3), "float32"))
        tree = {"a": shared, "b": self.make(sample((4, 3), "float32")), "c": shared}
        found = flatten(spec(load(self.saved(tmp_path, tree))))
        assert found["a",].alias is not None and found["a",].alias == found["c",].alias
        assert found["b",].alias is None

    def test_text_beside_the_tensors_comes_back(self, tmp_path: FilePath) -> None:
        if not self.keeps_metadata:
            raise SkipTest("the format has no place for it")
        save(self.tree(), self.file(tmp_path), metadata={"made by": "a test; \u00e9 \u5c42"})
        assert load(self.file(tmp_path)).metadata["made by"] == "a test; \u00e9 \u5c42"

    # --- laziness -------------------------------------------------------------------------------

    def test_loading_reads_no_data(self, tmp_path: FilePath) -> None:
        if not self.lazy:
            raise SkipTest("the format is read whole")
        file = self.saved(tmp_path, self.big(4))
        load(file)  # imports are done
        tracemalloc.start()
        found = load(file)
        listed = [str(one) for one in flatten(spec(found)).values()]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert listed == ["f32[1024,1024]"] * 4
        assert peak < LARGE, f"{peak} bytes were held to list {4 * 4 * LARGE} bytes of tensors"

    def test_saving_holds_one_leaf_at_a_time(self, tmp_path: FilePath) -> None:
        if not self.streams:
            raise SkipTest("the format is written whole")
        watch = _Watch()
        self.saved(tmp_path, {f"w{n}": watch.leaf(n) for n in range(6)})
        assert watch.reads == 6, f"{watch.reads} reads of 6 leaves"
        assert watch.most <= 2, f"{watch.most} leaves were in memory at once"

    def test_a_box_of_a_leaf_is_that_of_the_whole(self, tmp_path: FilePath) -> None:
        array = sample((5, 4, 3), "float32")
        leaf = load(self.saved(tmp_path, {"w": self.make(array)}))["w"]
        if not isinstance(leaf, Lazy):
            raise SkipTest("leaves of this format are arrays")
        for box in (((1, 4), (0, 4), (2, 3)), ((0, 5), (2, 4), (0, 3)), ((2, 2), (0, 4), (0, 3))):
            assert same_bits(leaf.read(box), array[tuple(slice(*span) for span in box)]), f"{box}"

    # --- errors ---------------------------------------------------------------------------------

    def test_a_truncated_file_is_refused_and_never_read_wrong(self, tmp_path: FilePath) -> None:
        tree = self.tree()
        whole = self.saved(tmp_path, tree).read_bytes()
        for count in sorted(
            {1, 7, 8, 9, 12, *range(16, len(whole), max(1, len(whole) // 40)), len(whole) - 1}
        ):
            file = self.file(tmp_path, f"cut{count}")
            file.write_bytes(whole[:count])
            with raises(SurgeryError, file.name):
                _read_all(load(file))

    def test_a_damaged_file_is_refused_or_read_but_breaks_nothing(self, tmp_path: FilePath) -> None:
        whole = self.saved(tmp_path, self.tree()).read_bytes()
        random = np.random.default_rng(1)
        for n in range(60):
            broken = bytearray(whole)
            broken[int(random.integers(len(whole)))] = int(random.integers(256))
            file = self.file(tmp_path, f"broken{n}")
            file.write_bytes(broken)
            try:
                _read_all(load(file))
            except SurgeryError:
                pass

    def test_a_file_that_is_not_there_is_named(self, tmp_path: FilePath) -> None:
        with raises(FileError, "does not exist", f"nothing{self.suffix}"):
            load(self.file(tmp_path, "nothing"))

    def test_what_the_format_cannot_hold_is_named_and_nothing_is_written(self, tmp_path: FilePath) -> None:
        given = self.unsupported()
        if given is None:
            raise SkipTest("the format holds everything")
        tree, path = given
        with raises(FileError, "save: ", f"'{path}'"):
            save(tree, self.file(tmp_path))
        assert os.listdir(tmp_path) == []

    def test_a_shape_without_data_is_refused(self, tmp_path: FilePath) -> None:
        with raises(FileError, "enc/w"):
            save({"enc": {"w": TensorSpec((2,), "float32")}}, self.file(tmp_path))
        assert os.listdir(tmp_path) == []

    # --- complete or absent ---------------------------------------------------------------------

    def test_nothing_is_overwritten_unless_it_is_asked_for(self, tmp_path: FilePath) -> None:
        file = self.saved(tmp_path, self.tree())
        before = file.read_bytes()
        with raises(FileError, "exists already", "overwrite=True"):
            save({"w": self.make(sample((2,), "float32"))}, file)
        assert file.read_bytes() == before
        save({"w": self.make(sample((2,), "float32"))}, file, overwrite=True)
        assert paths(load(file)) == [("w",)] and os.listdir(tmp_path) == [file.name]

    def test_a_write_that_fails_halfway_leaves_nothing_behind(self, tmp_path: FilePath) -> None:
        def broken(box: Box) -> np.ndarray[Any, Any]:
            raise FileError("the source broke off")

        bad = Lazy(TensorSpec((64, 64), "float32"), broken, origin="a test")
        tree = {
            "a": self.make(sample((64, 64), "float32")),
            "b": bad,
            "c": self.make(sample((2,), "float32")),
        }
        with raises(FileError, "the source broke off"):
            save(tree, self.file(tmp_path))
        assert os.listdir(tmp_path) == []
        file = self.saved(tmp_path, self.tree())
        before = file.read_bytes()
        with raises(FileError, "the source broke off"):
            save(tree, file, overwrite=True)
        assert file.read_bytes() == before and os.listdir(tmp_path) == [file.name]

    def test_a_file_may_be_saved_over_the_one_it_is_loaded_from(self, tmp_path: FilePath) -> None:
        file = self.saved(tmp_path, self.tree())
        wanted = flatten(realize(self.tree(), "numpy"))
        save(load(file), file, overwrite=True)
        found: Mapping[Any, Any] = flatten(realize(load(file), "numpy"))
        assert all(same_bits(found[path], wanted[path]) for path in wanted)


class _Watch:
    """Counts how many of its leaves are in memory."""

    def __init__(self) -> None:
        self.reads = self.most = self.alive = 0

    def leaf(self, n: int) -> Lazy:
        """Return a leaf that is made when it is read."""

        def read(box: Box) -> np.ndarray[Any, Any]:
            array = np.full((256, 256), n, np.float32)[tuple(slice(*span) for span in box)]
            self.reads += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(array, self._gone)
            return array

        return Lazy(TensorSpec((256, 256), "float32"), read, origin="a test")

    def _gone(self) -> None:
        self.alive -= 1


def _read_all(tree: Tree) -> Tree:
    return realize(tree, "numpy")
