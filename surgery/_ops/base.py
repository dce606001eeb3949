"""What every op is: a value that knows how it acts, on what, and how to undo it.

An op is born with T (how weights move), C (how gradients move), its exactness,
its inverse, shape inference, and `pull`: which boxes of its sources a box of its
output needs. Its class is spelled like the function it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import index
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from surgery._arrays.backend import Backend
from surgery._errors import RuleError, SpecError, nearest
from surgery._types import Leaf, TensorSpec

# What a tensor of a training state is, and so which map moves it:
# vector      weights, EMA, master copies: T
# covector    momentum, Adam's mu: C
# covector_sq Adam's nu and its maximum: C squared entrywise
# covector_abs  Adamax's norm: |C|
SlotKind: TypeAlias = Literal["vector", "covector", "covector_sq", "covector_abs"]
Exactness: TypeAlias = Literal["exact", "estimate", "bound", "policy", "dropped"]

Box: TypeAlias = tuple[tuple[int, int], ...]  # per axis, from and to
AxisNames: TypeAlias = tuple[Any, ...]  # what a box (Partitioned) calls each axis; None for none


@dataclass(frozen=True, slots=True)
class Pull:
    """How to make one box of an output.

    Attributes:
        needs: `(source, box)`: what to read, source by number.
        compute: makes the output box of the boxes read, in the same order.
    """

    needs: tuple[tuple[int, Box], ...]
    compute: Callable[[Sequence[Leaf], Backend], Leaf]


def whole(shape: Sequence[int]) -> Box:
    """Return the box that is all of an array."""
    return tuple((0, size) for size in shape)


def box_shape(box: Box) -> tuple[int, ...]:
    """Return the shape of a box."""
    return tuple(stop - start for start, stop in box)


def sizes_of(op: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return sizes as a tuple of plain numbers, or raise a SpecError."""
    try:
        out = tuple(index(size) for size in sizes)
    except TypeError:
        raise SpecError(f"{op} takes a list of sizes", found=repr(sizes)) from None
    if any(size < 0 for size in out):
        raise SpecError(f"{op} has a size below 0", found=repr(list(out)))
    return out


def crop(backend: Backend, x: Leaf, box: Box) -> Leaf:
    """Return a box of an array, slicing only the axes that need it."""
    shape = backend.spec(x).shape
    for axis, (start, stop) in enumerate(box):
        if (start, stop) != (0, shape[axis]):
            x = backend.slice(x, axis, start, stop)
    return x


def on_axis(axis: int, ndim: int, op: str) -> int:
    """Return a non-negative axis, or raise a SpecError."""
    if not isinstance(axis, int):
        raise SpecError(f"{op} takes a number for an axis", found=repr(axis))
    if not -ndim <= axis < ndim:
        raise SpecError(f"{op} has no axis {axis} to work on", found=f"{ndim} axes")
    return axis % ndim


@dataclass(frozen=True)
class Op:
    """Base of all ops. Subclasses are frozen dataclasses whose fields are their parameters.

    Attributes:
        arity: `"map"` (one to one), `"collect"` (many to one), `"expand"` (one to
            many), `"make"` (none to one).
    """

    arity: ClassVar[Literal["map", "collect", "expand", "make"]] = "map"

    @property
    def changes_values(self) -> bool:
        """Whether T and C differ, so that it matters what a tensor is."""
        return False

    @property
    def name(self) -> str:
        """The name under which recipes know the op."""
        return type(self).__name__

    def infer(self, ins: Sequence[TensorSpec]) -> list[TensorSpec]:
        """Return the specs of the outputs.

        Raises:
            SpecError: the op cannot be applied to these.
        """
        raise NotImplementedError

    def apply(self, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        """T: return the outputs for weights."""
        raise NotImplementedError

    def move(self, kind: SlotKind, xs: Sequence[Leaf], backend: Backend) -> list[Leaf]:
        """Return the outputs for tensors of a slot of this kind: T, C, or C with its entries squared or made positive.

        The default is right for every op that moves each element to one place
        unchanged: there C is T.
        """
        return self.apply(xs, backend)

    def exactness(self, kind: SlotKind, ins: Sequence[TensorSpec]) -> Exactness:
        """Return what the result is worth for tensors of this kind."""
        return "exact"

    def inverse(self, ins: Sequence[TensorSpec]) -> Op | None:
        """Return the op that undoes this one on inputs of these specs; None if something is lost."""
        raise NotImplementedError

    def loss(self, ins: Sequence[TensorSpec]) -> str:
        """Say what is lost where `inverse` is None."""
        return f"{self} cannot be undone"

    def reverse(self) -> Op | None:
        """Return the opposite op as far as the parameters alone give it, for recipes read backwards."""
        return None

    def pull(self, ins: Sequence[TensorSpec], out: int, box: Box) -> Pull:
        """Return what is needed for one box of output number `out`."""
        raise NotImplementedError

    def tiles(self, ins: Sequence[TensorSpec], out: int) -> tuple[int, ...]:
        """Return, per output axis, the step at which boxes are cheapest; 0 where the whole axis is needed."""
        return (1,) * len(self.infer(ins)[out].shape)

    def rename_axes(self, names: Sequence[AxisNames], ins: Sequence[TensorSpec]) -> list[AxisNames]:
        """Return the axis names of the outputs, given those of the inputs."""
        return [names[0]] * len(self.infer(ins))

    def params(self) -> dict[str, Any]:
        """Return the parameters that differ from their defaults, as plain data."""
        out: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value != one.default:
                out[one.name] = dict(value) if one.name == "sizes" and _is_pairs(value) else value
        return out

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={_shown(value)}' for key, value in self.params().items())})"


def _is_pairs(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, tuple) for one in value)


def _shown(value: Any) -> str:
    if not isinstance(value, tuple):
        return repr(value)
    if len(value) > 12:
        return f"[{', '.join(map(repr, value[:3]))}, ... {len(value)} numbers]"
    return repr(list(value))


OPS: dict[str, type[Op]] = {}
OpClass = TypeVar("OpClass", bound=type[Op])


def register_op(cls: OpClass) -> OpClass:
    """Make an op known to recipes by the name of its class."""
    OPS[cls.__name__] = cls
    return cls


def op_of(name: str, params: dict[str, Any]) -> Op:
    """Build an op from its name and parameters, as recipes spell it.

    Raises:
        RuleError: no op has that name, or it does not take these parameters.
    """
    cls = OPS.get(name)
    if cls is None:
        raise RuleError(
            f"no op is called '{name}'", hint=nearest(name, OPS) or f"known: {', '.join(sorted(OPS))}"
        )
    try:
        return cls(**params)
    except TypeError as error:
        raise RuleError(f"{name} does not take these parameters: {error}") from None
