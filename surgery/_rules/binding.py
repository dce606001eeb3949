"""Bindings: which leaves become which, by which ops, once rules have met specs.

A binding is data. It can be run on arrays, on moments, on shapes, on axis
names, asked for its opposite, and written down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from surgery._arrays.backend import Backend
from surgery._errors import AdapterError, SpecError
from surgery._ops.base import AxisNames, Exactness, Op, SlotKind
from surgery._paths.path import text_of
from surgery._trees.registry import backend_of
from surgery._types import Leaf, Path, TensorSpec

T = TypeVar("T")
Names = tuple[Path, ...]  # all names of one tensor

_RANK: dict[Exactness, int] = {"exact": 0, "estimate": 1, "bound": 2, "policy": 3, "dropped": 4}


@dataclass(frozen=True, slots=True)
class Step:
    """One op applied to groups of a row of tensors.

    Attributes:
        ops: one per group.
        groups: which tensors of the row each op takes.
        places: where in the next row each op's outputs stand.
    """

    ops: tuple[Op, ...]
    groups: tuple[tuple[int, ...], ...]
    places: tuple[tuple[int, ...], ...]

    def run(self, row: Sequence[T], call: Callable[[Op, list[T]], Sequence[T]]) -> list[T]:
        """Return the next row; `call(op, inputs)` gives the outputs of one op."""
        out: dict[int, T] = {}
        for op, group, places in zip(self.ops, self.groups, self.places, strict=True):
            out.update(zip(places, call(op, [row[n] for n in group]), strict=True))
        return [out[n] for n in range(len(out))]


@dataclass(frozen=True, slots=True)
class Binding:
    """What happens to some leaves.

    Attributes:
        rule: the number of the rule, from 1; 0 where no rule says anything.
        sources: the names of each source tensor; none for one that is made.
        targets: the names of each result; none for what is dropped.
        steps: the ops, in order.
        ins, outs: the specs of sources and results.
        tie: the path of the leaf that this one is an alias of.
        remainder: the results come from what was kept of a loss, not from the sources.
    """

    rule: int
    sources: tuple[Names, ...]
    targets: tuple[Names, ...]
    steps: tuple[Step, ...] = ()
    ins: tuple[TensorSpec, ...] = ()
    outs: tuple[TensorSpec, ...] = ()
    tie: Path | None = None
    remainder: bool = False

    @property
    def ops(self) -> tuple[Op, ...]:
        """The ops, one per step."""
        return tuple(step.ops[0] for step in self.steps)

    @property
    def makes(self) -> bool:
        """Whether the result has no source."""
        return bool(self.steps) and self.steps[0].ops[0].arity == "make"

    def run(self, xs: Sequence[Leaf], kind: SlotKind = "vector") -> list[Leaf]:
        """Return the results for the source tensors, moved as their kind demands.

        Raises:
            AdapterError: the sources belong to two libraries.
            SpecError: an op cannot do this.
        """
        if not self.steps:
            return list(xs)
        backend = common_backend(xs)

        defer = getattr(backend, "defer", None)  # lazy leaves take an op as a whole

        def call(op: Op, inputs: list[Leaf]) -> list[Leaf]:
            if defer is not None:
                waiting: list[Leaf] = defer(op, inputs, kind)
                return waiting
            try:
                return op.apply(inputs, backend) if kind == "vector" else op.move(kind, inputs, backend)
            except NotImplementedError as error:  # a subclass of a tensor that can do less
                text = f"a {type(inputs[0]).__name__} cannot do {op}"
                raise SpecError(text, hint="make a plain array of it first") from error

        return [backend.settled(x) for x in self._through(list(xs), call)]

    def infer(self) -> list[TensorSpec]:
        """Return the specs of the results."""
        return self._through(list(self.ins), lambda op, ins: op.infer(ins))

    def rename_axes(self, names: Sequence[AxisNames]) -> list[AxisNames]:
        """Return the axis names of the results, given those of the sources."""
        row = list(zip(names, self.ins, strict=True))

        def call(op: Op, inputs: list[tuple[AxisNames, TensorSpec]]) -> list[tuple[AxisNames, TensorSpec]]:
            ins = [spec for _, spec in inputs]
            return list(zip(op.rename_axes([name for name, _ in inputs], ins), op.infer(ins), strict=True))

        return [name for name, _ in self._through(row, call)]

    def exactness(self, kind: SlotKind) -> Exactness:
        """Return what the results are worth for tensors of this kind: the worst of the ops."""
        if not self.targets and self.tie is None:
            return "dropped"
        worst: list[Exactness] = ["exact"]

        def call(op: Op, ins: list[TensorSpec]) -> list[TensorSpec]:
            worst.append(op.exactness(kind, ins))
            return op.infer(ins)

        self._through(list(self.ins), call)
        return max(worst, key=_RANK.__getitem__)

    def loss(self) -> str | None:
        """Say what is lost for good, or None if the sources can be had back from the results."""
        if self.makes or self.tie is not None or self.remainder:
            return None
        if not self.targets:
            return "dropped"
        found: list[str] = []

        def call(op: Op, ins: list[TensorSpec]) -> list[TensorSpec]:
            if op.inverse(ins) is None:
                found.append(op.loss(ins))
            return op.infer(ins)

        self._through(list(self.ins), call)
        return "; ".join(dict.fromkeys(found)) or None

    def inverse(self) -> Binding:
        """Return the binding that makes the sources again, from the results or from a remainder."""
        if self.makes or self.remainder:
            return Binding(self.rule, self.targets, (), ins=self.outs)
        if self.tie is not None:
            return Binding(self.rule, self.targets, self.sources, (), self.outs, self.ins, self.tie)
        if self.loss() is not None:
            return Binding(self.rule, (), self.sources, outs=self.ins, remainder=True)
        steps: list[Step] = []
        row = list(self.ins)
        for step in self.steps:
            back = []
            for op, group in zip(step.ops, step.groups, strict=True):
                inverse = op.inverse([row[n] for n in group])
                assert inverse is not None  # there is no loss
                back.append(inverse)
            steps.insert(0, Step(tuple(back), step.places, step.groups))
            row = step.run(row, lambda op, ins: op.infer(ins))
        return Binding(self.rule, self.targets, self.sources, tuple(steps), self.outs, self.ins)

    def _through(self, row: list[T], call: Callable[[Op, list[T]], Sequence[T]]) -> list[T]:
        for step in self.steps:
            row = step.run(row, call)
        return row

    def to_data(self) -> dict[str, Any]:
        """Return the binding as plain data, the same on every machine."""
        return {
            "sources": [[text_of(path) for path in names] for names in self.sources],
            "targets": [[text_of(path) for path in names] for names in self.targets],
            "ops": [
                [[[op.name, _plain(op.params())] for op in step.ops], step.groups, step.places]
                for step in self.steps
            ],
            "ins": [f"{spec.dtype}{list(spec.shape)}" for spec in self.ins],
            "outs": [f"{spec.dtype}{list(spec.shape)}" for spec in self.outs],
            "tie": None if self.tie is None else text_of(self.tie),
            "remainder": self.remainder,
        }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in sorted(value.items())}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def common_backend(xs: Sequence[Leaf]) -> Backend:
    """Return the one backend of all these leaves.

    Raises:
        AdapterError: they belong to two libraries.
    """
    backends = {backend_of(x).name: backend_of(x) for x in xs}
    if len(backends) > 1:
        raise AdapterError(
            f"one op meets arrays of {' and '.join(sorted(backends))}",
            hint="make them alike first: realize(tree, 'numpy'), or the name of one of the libraries",
        )
    if not backends:
        raise SpecError("nothing to work on")
    return next(iter(backends.values()))
