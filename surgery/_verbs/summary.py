"""A table of what is in a tree: shapes, dtypes, parameters, bytes."""

from __future__ import annotations

from collections import Counter

from surgery._dtypes import is_known
from surgery._report import Report, Row
from surgery._trees.modules import as_tree
from surgery._types import Path, TensorSpec, Tree
from surgery._verbs.tree import specs_of, walk


def summarize(tree: Tree, *, depth: int | None = None) -> Report:
    """Return a table of the leaves, or of the subtrees `depth` keys deep. No data is read.

    The names of one tied tensor are listed each, and counted once.

    >>> import numpy as np
    >>> print(summarize({"enc": {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}}))
    summarize: 2 leaves, 9 parameters, 36 B
      leaf  enc/w  f32[2,3]  6 parameters, 24 B
      leaf  enc/b  f32[3]    3 parameters, 12 B
    """
    flat = walk(as_tree(tree))
    specs = specs_of(flat)
    once = _counted_once(specs)
    if depth is None:
        rows = [_leaf_row(path, spec, path in once) for path, spec in specs.items()]
    else:
        groups: dict[Path, list[Path]] = {}
        for path in specs:
            groups.setdefault(path[:depth], []).append(path)
        rows = [
            Row(
                "node", prefix, after=_dtypes([specs[path] for path in paths]), note=_size(paths, specs, once)
            )
            for prefix, paths in groups.items()
        ]
    total = _size(list(specs), specs, once)
    return Report("summarize", rows, sep=flat.structure.sep, title=total)


def _counted_once(specs: dict[Path, TensorSpec]) -> set[Path]:
    seen: set[str] = set()
    out: set[Path] = set()
    for path, spec in specs.items():
        if spec.alias is None or spec.alias not in seen:
            out.add(path)
        if spec.alias is not None:
            seen.add(spec.alias)
    return out


def _leaf_row(path: Path, spec: TensorSpec, first: bool) -> Row:
    if not is_known(spec.dtype):
        return Row("leaf", path, after=spec.dtype if not spec.shape else str(spec))
    if not first:
        return Row("leaf", path, after=str(spec), note=f"tied to '{spec.alias}'")
    return Row("leaf", path, after=str(spec), note=f"{spec.size:,} parameters, {human(spec.nbytes)}")


def _dtypes(specs: list[TensorSpec]) -> str:
    counts = Counter(str(spec).partition("[")[0] for spec in specs)
    return ", ".join(f"{dtype} x {number}" for dtype, number in counts.most_common())


def _size(paths: list[Path], specs: dict[Path, TensorSpec], once: set[Path]) -> str:
    counted = [specs[path] for path in paths if path in once and is_known(specs[path].dtype)]
    parameters, size = sum(spec.size for spec in counted), sum(spec.nbytes for spec in counted)
    leaves = f"{len(paths):,} {'leaf' if len(paths) == 1 else 'leaves'}"
    return f"{leaves}, {parameters:,} parameters, {human(size)}"


def human(size: int) -> str:
    """Return a number of bytes in decimal units, as disks are sold.

    >>> human(36), human(90_868_376)
    ('36 B', '90.9 MB')
    """
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
