"""All that a third party writes: an adapter and a format, over the public `surgery.extend` alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from toyarrays import Brick, Crate, Drawing, brick

from surgery.extend import (
    API,
    Adapter,
    Backend,
    Box,
    DType,
    Family,
    FileError,
    FileTree,
    Format,
    Key,
    Lazy,
    Leaf,
    NodeKind,
    SpecError,
    TensorSpec,
    Tree,
    leaves_for_file,
    numpy_dtype,
)


class BrickBackend:
    """Bricks: each primitive is numpy's on the bytes, and the result lies on the same shelf."""

    name = "toyarrays"
    ties_by_object = True

    def spec(self, x: Brick, /) -> TensorSpec:
        return TensorSpec(x.shape, x.dtype)

    def holds_data(self, x: Brick, /) -> bool:
        return True

    def identity(self, x: Brick, /) -> Hashable | None:
        return id(x)

    def _do(self, x: Brick, act: Callable[[np.ndarray[Any, Any]], Any]) -> Brick:
        return brick(np.asarray(act(self.to_numpy(x))), x.shelf)

    def transpose(self, x: Brick, axes: Sequence[int], /) -> Leaf:
        return self._do(x, lambda array: array.transpose(axes))

    def reshape(self, x: Brick, shape: Sequence[int], /) -> Leaf:
        return self._do(x, lambda array: array.reshape(tuple(shape)))

    def slice(self, x: Brick, axis: int, start: int, stop: int, /) -> Leaf:
        return self._do(x, lambda array: array[(slice(None),) * axis + (slice(start, stop),)])

    def take(self, x: Brick, axis: int, indices: Sequence[int], /) -> Leaf:
        return self._do(x, lambda array: np.take(array, np.array(indices, np.intp), axis))

    def concat(self, xs: Sequence[Brick], axis: int, /) -> Leaf:
        return brick(np.concatenate([self.to_numpy(x) for x in xs], axis), xs[0].shelf)

    def cast(self, x: Brick, dtype: DType, /) -> Leaf:
        with np.errstate(over="ignore", invalid="ignore"):
            return self._do(x, lambda array: array.astype(numpy_dtype(dtype)))

    def scale(self, x: Brick, factors: Sequence[float], axis: int, /) -> Leaf:
        shape = [-1 if n == axis else 1 for n in range(len(x.shape))]
        return self._do(x, lambda array: array * np.reshape(factors, shape).astype(array.dtype))

    def copy(self, x: Brick, /) -> Leaf:
        return Brick(x.data, x.shape, x.dtype, x.shelf)

    def settled(self, x: Brick, /) -> Leaf:
        return x

    def to_numpy(self, x: Brick, /) -> np.ndarray[Any, Any]:
        return np.frombuffer(x.data, numpy_dtype(x.dtype)).reshape(x.shape)

    def is_placed_like(self, x: Brick, like: Brick, /) -> bool:
        return x.shelf == like.shelf

    def from_numpy(
        self, array: np.ndarray[Any, Any], /, like: Brick | None = None, device: Any = None
    ) -> Leaf:
        return brick(array, device or (like.shelf if like is not None else "lower"))


class DrawingBackend(BrickBackend):
    """Drawings: shapes without data. What they share with bricks is what numpy makes of empty ones."""

    name = "toyarrays (drawn)"
    ties_by_object = False

    def holds_data(self, x: Any, /) -> bool:
        return False

    def identity(self, x: Any, /) -> Hashable | None:
        return None

    def _do(self, x: Any, act: Callable[[np.ndarray[Any, Any]], Any]) -> Any:
        drawn = act(np.empty(x.shape, numpy_dtype(x.dtype)))
        return Drawing(drawn.shape, drawn.dtype.name)

    def copy(self, x: Any, /) -> Leaf:
        return Drawing(x.shape, x.dtype)

    def to_numpy(self, x: Any, /) -> np.ndarray[Any, Any]:
        raise SpecError("a drawing has no data", hint="lay the bricks first")

    def is_placed_like(self, x: Any, like: Any, /) -> bool:
        return True


class CrateKind:
    """A crate: what is in it goes by name; its label stays."""

    name = "Crate"
    family: Family = "mapping"

    def open(self, node: Crate) -> tuple[Any, dict[Key, Tree]]:
        return node.label, dict(zip(node.names, node.things, strict=True))

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        return Crate(aux, [str(key) for key in children], list(children.values()))


BRICKS, DRAWINGS = BrickBackend(), DrawingBackend()


class ToyAdapter(Adapter):
    """Bricks, drawings and crates."""

    name = "toyarrays"
    api = API
    install = "pip install toyarrays"
    targets = ("bricks",)

    def kind(self, node: Any, /) -> NodeKind | None:
        return CrateKind() if isinstance(node, Crate) else None

    def backend(self, leaf: Leaf, /) -> Backend | None:
        if isinstance(leaf, Drawing):
            return DRAWINGS
        return BRICKS if isinstance(leaf, Brick) else None

    def target(self, name: str, /) -> Backend:
        return BRICKS


class ToyFile(Format):
    """A line that says TOY, a line of JSON, and the bytes."""

    name = "toy"
    suffixes = (".toy",)

    def recognises(self, file: FilePath, head: bytes, /) -> bool:
        return head.startswith(b"TOY\n")

    def load(self, file: FilePath, /) -> Tree:
        try:
            with file.open("rb") as stream:
                stream.readline()
                header = json.loads(stream.readline())
                base = stream.tell()
            leaves = {
                name: self._leaf(file, TensorSpec(tuple(shape), dtype), base + start)
                for name, (dtype, shape, start) in header["leaves"].items()
            }
            if file.stat().st_size != base + header["bytes"]:
                raise ValueError("it has another size than it says")
            tree = {**leaves, **{name: leaves[other] for name, other in header["ties"].items()}}
            metadata = dict(header["metadata"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(f"'{file}' is damaged: {error}", verb="load") from None
        return FileTree.of(tree, file=str(file), format=self.name, metadata=metadata)

    def _leaf(self, file: FilePath, spec: TensorSpec, start: int) -> Lazy:
        dtype = numpy_dtype(spec.dtype)

        def read(box: Box) -> np.ndarray[Any, Any]:
            with file.open("rb") as stream:
                stream.seek(start)
                data = stream.read(spec.size * dtype.itemsize)
            try:
                array = np.frombuffer(data, dtype).reshape(spec.shape)
            except ValueError as error:
                raise FileError(f"'{file}' is damaged: {error}", verb="load") from None
            return array[tuple(slice(*span) for span in box)]

        return Lazy(spec, read, origin=f"{file.name}[{start}]")

    def save(self, tree: Tree, file: FilePath, /, *, metadata: Mapping[str, str]) -> None:
        leaves, ties, _ = leaves_for_file(tree, self.name)
        entries, end = {}, 0
        for leaf in leaves:
            entries[leaf.name] = [leaf.spec.dtype, leaf.spec.shape, end]
            end += leaf.spec.size * numpy_dtype(leaf.spec.dtype).itemsize
        header = {"leaves": entries, "bytes": end, "ties": ties, "metadata": dict(metadata)}
        with file.open("wb") as stream:
            stream.write(b"TOY\n" + json.dumps(header).encode() + b"\n")
            for leaf in leaves:
                stream.write(leaf.numpy().tobytes())


ADAPTER, FORMAT = ToyAdapter(), ToyFile()
