"""A tree as the named tensors that a file of tensors holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery._dtypes import is_known
from surgery._errors import FileError, Problem, SpecError, raise_problems
from surgery._paths.path import text_of
from surgery._trees.modules import as_tree
from surgery._trees.registry import find_backend, is_array
from surgery._trees.structure import join_name
from surgery._trees.ties import tie_groups
from surgery._types import Leaf, TensorSpec, Tree
from surgery._verbs.tree import walk

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class FileLeaf:
    """One tensor to be written.

    Attributes:
        name: its name in the file.
        spec: its shape and dtype.
        leaf: the array, perhaps lazy.
    """

    name: str
    spec: TensorSpec
    leaf: Leaf

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the elements in C order, read now if the leaf is lazy."""
        import numpy as np

        backend = find_backend(self.leaf)
        assert backend is not None  # leaves_for_file took arrays only
        try:
            array = backend.to_numpy(self.leaf)
        except SpecError as error:  # known only to the library: a sparse tensor, one that is on no host
            first = error.problems[0]
            raise FileError(first.message, verb="save", path=self.name, hint=first.hint) from error
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def leaves_for_file(tree: Tree, format: str) -> tuple[list[FileLeaf], dict[str, str], str]:
    """Return the tensors of a tree by name, the ties among them, and the separator of the names.

    Names are joined by `.` in a torch state_dict, by `/` elsewhere. A tied tensor is
    written once; the others of its names are returned as `name -> name that holds it`.

    Raises:
        FileError: leaves that are no arrays, or have no data, or names that collide.
    """
    flat = walk(as_tree(tree))
    sep = flat.structure.sep
    problems: list[Problem] = []
    out: dict[str, FileLeaf] = {}
    for path, leaf in flat.items():
        backend = find_backend(leaf)
        name = join_name(path, sep, "save")
        if backend is None or not is_array(leaf):
            hint = (
                f"drop it, or choose a format that holds it: drop(tree, '{text_of(path, sep)}'); "
                "of a checkpoint, unwrap(tree) takes the model (on the command line: --at auto)"
            )
            found = f"a {type(leaf).__name__}"
            problems.append(
                Problem(f"{format} holds tensors only", text_of(path, sep), None, found, hint, FileError)
            )
        elif not backend.holds_data(leaf):
            hint = "save the tree with the arrays, not its specs"
            problems.append(Problem("a leaf has no data", text_of(path, sep), hint=hint, error=FileError))
        elif not is_known(backend.spec(leaf).dtype):
            found = str(backend.spec(leaf))
            hint = "save a PRNG key as jax.random.key_data(key)" if found[:4] == "key<" else "cast or drop it"
            problems.append(
                Problem(f"{format} cannot hold this dtype", text_of(path, sep), None, found, hint, FileError)
            )
        elif name in out:
            text = f"two leaves are called '{name}' in the file"
            problems.append(Problem(text, text_of(path, sep), hint="rename one of them", error=FileError))
        else:
            out[name] = FileLeaf(name, backend.spec(leaf), leaf)
    raise_problems("save", problems, of=f"{len(flat)} leaves")
    ties = {
        join_name(path, sep, "save"): join_name(group[0], sep, "save")
        for group in tie_groups(flat)
        for path in group[1:]
    }
    return [leaf for name, leaf in out.items() if name not in ties], ties, sep
