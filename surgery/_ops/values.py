"""Ops that change how a value is held: cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surgery._arrays.backend import Backend
from surgery._dtypes import is_integer, is_known, is_lossless, short_name
from surgery._errors import SpecError
from surgery._ops.base import Box, Exactness, Op, Pull, SlotKind, register_op
from surgery._types import Leaf, TensorSpec


@register_op
@dataclass(frozen=True, repr=False)
class cast(Op):
    """Round to another dtype.

    Weights are rounded. Moments keep theirs: a gradient is what it is in whatever
    precision the weight is kept, and a second moment must not be narrowed (from
    0.999 on, bfloat16 rounds every step of it away). Counters, indices and masks are
    no weights: they are refused, unless `integers` says that they are meant too.

    >>> import surgery as sg
    >>> str(sg.ops.cast("bfloat16").infer([sg.TensorSpec((2,), "float32")])[0])
    'bf16[2]'
    """

    dtype: str
    integers: bool = False

    def __post_init__(self) -> None:
        if not is_known(self.dtype):
            raise SpecError(
                f"no dtype is called '{self.dtype}'", hint="such as 'float32', 'bfloat16', 'int8'"
            )

    @property
    def changes_values(self) -> bool:
        return True

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        for spec in ins:
            if not is_known(spec.dtype):
                raise SpecError(f"{self} cannot round what is no number", found=str(spec))
            if spec.dtype.startswith("complex") and not self.dtype.startswith("complex"):
                raise SpecError(f"{self} would drop the imaginary part", found=str(spec))
            if not self.integers and is_integer(spec.dtype) and not is_integer(self.dtype):
                hint = f"keep it, by a rule before this one; or ops.cast('{self.dtype}', integers=True)"
                raise SpecError(f"{self} would make a float of an integer", found=str(spec), hint=hint)
        return [TensorSpec(spec.shape, self.dtype) for spec in ins]

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return [x if backend.spec(x).dtype == self.dtype else backend.cast(x, self.dtype) for x in xs]

    def move(self, kind: SlotKind, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        return self.apply(xs, backend) if kind == "vector" else list(xs)

    def exactness(self, kind: SlotKind, ins: Sequence[TensorSpec]) -> Exactness:
        return "exact" if kind != "vector" or is_lossless(ins[0].dtype, self.dtype) else "policy"

    def inverse(self, ins: Sequence[TensorSpec]) -> Op | None:
        held = is_lossless(ins[0].dtype, self.dtype) and not self._becomes_complex(ins[0])
        return cast(ins[0].dtype) if held else None

    def _becomes_complex(self, spec: TensorSpec) -> bool:
        """Whether the way back would have to drop an imaginary part, which this op refuses to do."""
        return self.dtype.startswith("complex") and not spec.dtype.startswith("complex")

    def loss(self, ins: Sequence[TensorSpec]) -> str:
        source, target = short_name(ins[0].dtype), short_name(self.dtype)
        if is_lossless(ins[0].dtype, self.dtype):
            return f"{target} would have to drop its imaginary part to be {source} again"
        return f"{source} is rounded to {target}"

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        return Pull(((0, box),), lambda blocks, backend: self.apply(blocks, backend)[0])
