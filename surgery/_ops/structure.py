"""Ops that make, drop, tie and untie leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from surgery._arrays.backend import Backend, must_be_readable
from surgery._dtypes import can_hold, is_known, numpy_dtype
from surgery._errors import SpecError
from surgery._ops.base import Box, Exactness, Op, Pull, SlotKind, box_shape, register_op, sizes_of
from surgery._types import Leaf, TensorSpec

if TYPE_CHECKING:
    import numpy as np

INITS = ("zeros", "ones", "normal", "uniform", "arange")


@register_op
@dataclass(frozen=True, repr=False)
class new(Op):
    """Make a leaf that has no source: the rule is `(None, "head/kernel", new(...))`.

    Args:
        shape: the sizes of the axes.
        dtype: such as `"float32"`.
        init: `"zeros"`, `"ones"`, `"normal"`, `"uniform"` (in -1..1), `"arange"` along the
            last axis, or a number.
        scale: what random numbers are multiplied by.
        seed: random numbers depend on (seed, target path, element) alone.

    >>> import surgery as sg
    >>> tree = sg.transform({"w": 1.0}, [(None, "b", sg.ops.new([2], init=0.5))])
    >>> tree["b"]
    array([0.5, 0.5], dtype=float32)
    """

    arity: ClassVar[Literal["make"]] = "make"
    shape: Sequence[int]
    dtype: str = "float32"
    init: str | float = "zeros"
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", sizes_of("new", self.shape))
        if isinstance(self.init, str) and self.init not in INITS:
            raise SpecError(f"new has no init '{self.init}'", hint=f"a number, or one of {', '.join(INITS)}")
        if not is_known(self.dtype):
            raise SpecError(
                f"no dtype is called '{self.dtype}'", hint="such as 'float32', 'bfloat16', 'int8'"
            )
        numbers = (0.5,) if self.init in ("normal", "uniform") else (self.init,)
        if any(not isinstance(number, str) and not can_hold(self.dtype, number) for number in numbers):
            raise SpecError(
                f"{self.dtype} cannot hold {self.init}",
                hint="make it of a float dtype, or choose another init",
            )

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        return [TensorSpec(tuple(self.shape), self.dtype)]

    def make(self, path: str, box: Box | None = None) -> np.ndarray[Any, Any]:
        """Return the elements of a box (all of them by default) of the leaf called `path`."""
        import numpy as np

        from surgery._ops.random import normal, uniform

        box = box if box is not None else tuple((0, size) for size in self.shape)
        shape, dtype = box_shape(box), numpy_dtype(self.dtype)
        if not isinstance(self.init, str):
            return np.full(shape, self.init, dtype)
        if self.init in ("zeros", "ones"):
            return np.full(shape, 1 if self.init == "ones" else 0, dtype)
        index = np.zeros(shape, np.int64)
        for axis, (start, stop) in enumerate(box):
            along = np.arange(start, stop).reshape([-1 if n == axis else 1 for n in range(len(box))])
            index += along * (1 if self.init == "arange" else prod(self.shape[axis + 1 :]))
            if self.init == "arange" and axis < len(box) - 1:
                index[...] = 0
        if self.init == "arange":
            return index.astype(dtype)
        numbers = (
            normal(self.seed, path, index)
            if self.init == "normal"
            else 2 * uniform(self.seed, path, index) - 1
        )
        return (self.scale * numbers).astype(dtype)

    def exactness(self, kind: SlotKind, ins: Sequence[TensorSpec]) -> Exactness:
        return "exact" if kind == "vector" else "policy"

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return drop()

    def reverse(self) -> Op:
        return drop()


@register_op
@dataclass(frozen=True, repr=False)
class drop(Op):
    """Drop a leaf: the rule `("pooler/**", None)`. What is lost can be kept as a remainder."""

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        return []

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return []

    def exactness(self, kind: SlotKind, ins: Sequence[TensorSpec]) -> Exactness:
        return "dropped"

    def inverse(self, ins: Sequence[TensorSpec]) -> Op | None:
        return None

    def loss(self, ins: Sequence[TensorSpec]) -> str:
        return "dropped"


@register_op
@dataclass(frozen=True, repr=False)
class tie(Op):
    """Make a name an alias of another leaf, or drop one that is.

    `("lm_head.weight", None, tie("wte.weight"))` drops `lm_head.weight` and makes sure
    that it holds what `wte.weight` holds; read backwards, the same rule makes the
    alias again. Nothing is lost either way.

    Args:
        other: the path of the leaf whose tensor is shared, on the side of the rule
            where the name stands.
    """

    other: str

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        return list(ins)

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return list(xs)

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return self

    def reverse(self) -> Op:
        return self

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        return Pull(((0, box),), lambda blocks, backend: blocks[0])


@register_op
@dataclass(frozen=True, repr=False)
class untie(Op):
    """Give a name of a tied tensor a copy of its own, so that rules may treat it differently."""

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        return [TensorSpec(spec.shape, spec.dtype) for spec in ins]

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return [backend.copy(x) for x in xs]

    def exactness(self, kind: SlotKind, ins: Sequence[TensorSpec]) -> Exactness:
        # How the shared gradient splits between the two roles is not stored anywhere.
        return "exact" if kind == "vector" else "policy"

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return untie()

    def reverse(self) -> Op:
        return untie()

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        return Pull(((0, box),), lambda blocks, backend: backend.copy(blocks[0]))


@register_op
@dataclass(frozen=True, repr=False)
class copies(Op):
    """Copy one tensor to several places: what a rule with one source and many targets does.

    The copies play one role together, so each gets an equal share of the gradient.
    """

    arity: ClassVar[Literal["expand"]] = "expand"
    count: int = 2

    @property
    def changes_values(self) -> bool:
        return True

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        return [TensorSpec(ins[0].shape, ins[0].dtype)] * self.count

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return [xs[0], *(backend.copy(xs[0]) for _ in range(self.count - 1))]

    def move(self, kind: SlotKind, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        if kind == "vector":
            return self.apply(xs, backend)
        share = 1.0 / self.count ** (2 if kind == "covector_sq" else 1)
        shape = backend.spec(xs[0]).shape
        part = backend.scale(backend.reshape(xs[0], (1, *shape)), [share], 0)
        return self.apply([backend.reshape(part, shape)], backend)

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return same()

    def reverse(self) -> Op:
        return same()

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        return Pull(((0, box),), lambda blocks, backend: backend.copy(blocks[0]) if out else blocks[0])


@register_op
@dataclass(frozen=True, repr=False)
class same(Op):
    """Take equal tensors for one, and refuse unequal ones: the way back from `copies`."""

    arity: ClassVar[Literal["collect"]] = "collect"
    over: str | None = None

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        for spec in ins:
            if spec != ins[0]:
                raise SpecError("copies that are taken for one differ", expected=str(ins[0]), found=str(spec))
        return [TensorSpec(ins[0].shape, ins[0].dtype)]

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        from surgery._arrays.numpy import same_bits

        for x in xs:
            must_be_readable(backend, x)
        if backend.holds_data(xs[0]) and not all(
            same_bits(backend.to_numpy(xs[0]), backend.to_numpy(x)) for x in xs[1:]
        ):
            raise SpecError(
                "copies that are taken for one hold different numbers", hint="drop all but one by a rule"
            )
        return [xs[0]]

    def exactness(self, kind: SlotKind, ins: Sequence[TensorSpec]) -> Exactness:
        return "exact" if kind == "vector" else "policy"

    def inverse(self, ins: Sequence[TensorSpec]) -> Op:
        return copies(len(ins))

    def reverse(self) -> Op | None:
        return None

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        return Pull(
            tuple((n, box) for n in range(len(ins))), lambda blocks, backend: self.apply(blocks, backend)[0]
        )
