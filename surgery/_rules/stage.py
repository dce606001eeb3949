"""One resolved edit: its bindings, and how they are run on the leaves of a tree.

A plan is one stage or several in a row. A stage knows the leaves it was planned
for, refuses any others, and builds the containers of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from surgery._arrays.backend import Backend
from surgery._errors import (
    SHOWN,
    Problem,
    SpecError,
    StructureError,
    SurgeryError,
    nearest,
    problem_at,
    raise_problems,
)
from surgery._ops.base import SlotKind
from surgery._ops.structure import new
from surgery._paths.path import text_of
from surgery._paths.pattern import parse_pattern
from surgery._rules.binding import Binding
from surgery._trees.flat import Flat
from surgery._trees.registry import backend_of, find_backend, spec_of
from surgery._trees.restructure import ordered_paths, restructure
from surgery._trees.structure import NamedBox, Node, Structure, same_aux
from surgery._trees.ties import is_one_tensor
from surgery._types import Leaf, Move, Path, TensorSpec

Kept: TypeAlias = "Mapping[Path, Leaf] | Literal[False] | None"  # a remainder; False: go on without it


@dataclass(frozen=True)
class Stage:
    """One resolved edit.

    Attributes:
        bindings: what happens to each leaf.
        source: the leaves it is for, in tree order.
        result: the leaves it makes, in order.
        structure: the containers of the source.
        childless: where nodes without children go; those not listed stay.
        containers: the containers of the result; None to derive them from the tree
            that the stage is applied to.
        absent: patterns of what was dropped on the way here: only a remainder can say
            whether there was anything, and give it back.
    """

    bindings: tuple[Binding, ...]
    source: Mapping[Path, TensorSpec]
    result: Mapping[Path, TensorSpec]
    structure: Structure = field(default_factory=Structure)
    childless: Mapping[Path, tuple[Path, ...]] = field(default_factory=dict)
    containers: Structure | None = None
    absent: tuple[str, ...] = ()

    @property
    def lost(self) -> dict[Path, str]:
        """What cannot be had back from the result alone: source path -> why."""
        return {
            path: why
            for binding in self.bindings
            if (why := binding.loss()) is not None
            for names in binding.sources
            for path in names
        }

    @property
    def needs(self) -> list[Path]:
        """The results that must come from a remainder."""
        return [path for b in self.bindings if b.remainder for names in b.targets for path in names]

    def inverse(self) -> Stage:
        """Return the stage that makes the source again, in its own containers."""
        bindings = tuple(binding.inverse() for binding in self.bindings)
        moved = {new: (old,) for old, targets in self.childless.items() for new in targets[:1]}
        return Stage(bindings, self.result, self.source, Structure(), moved, self.structure)

    def run(
        self,
        flat: Flat,
        *,
        verb: str,
        kind: SlotKind = "vector",
        remainder: Kept = None,
    ) -> Flat:
        """Return the leaves and containers of the result.

        Raises:
            StructureError, SpecError: the leaves are not those that were planned for.
        """
        self._check(flat, verb, shapes_only=kind != "vector")
        made = self._leaves(flat, verb, kind, remainder or {})
        leaves = {path: made[path] for path in self.result}
        leaves.update(self._returned(remainder, leaves, verb))
        structure = (
            self.containers if self.containers is not None else self.containers_of(flat.structure, verb)
        )
        return Flat(leaves, structure=structure)

    def _check(self, flat: Flat, verb: str, *, shapes_only: bool) -> None:
        sep = flat.structure.sep
        problems = []
        for path, expected in self.source.items():
            if path not in flat:
                problems.append(
                    Problem("a leaf is missing", text_of(path, sep), str(expected), error=StructureError)
                )
                continue
            found = spec_of(flat[path])
            if found.shape != expected.shape or (found.dtype != expected.dtype and not shapes_only):
                text = text_of(path, sep)
                problems.append(
                    Problem(
                        "a leaf is not what was planned for", text, str(expected), str(found), error=SpecError
                    )
                )
        missing = [text_of(path, sep) for path in self.source if path not in flat]
        for path in (path for path in flat if path not in self.source):
            text = text_of(path, sep)
            hint = nearest(text, missing) if len(problems) < SHOWN else None
            problems.append(Problem("a leaf was not planned for", text, hint=hint, error=StructureError))
        raise_problems(verb, problems, of=f"{len(self.source)} leaves")

    def _leaves(
        self, flat: Flat, verb: str, kind: SlotKind, remainder: Mapping[Path, Leaf]
    ) -> dict[Path, Leaf]:
        out: dict[Path, Leaf] = {}
        problems: list[Problem] = []
        example = next((leaf for leaf in flat.values() if find_backend(leaf) is not None), None)
        for binding in self.bindings:
            if not binding.targets and binding.tie is None:
                continue
            try:
                if binding.remainder:
                    results = [_kept(names, remainder) for names in binding.targets]
                elif binding.makes:
                    results = _make(binding, example)
                elif binding.tie is not None:
                    if binding.sources and not binding.targets and binding.tie in flat:
                        path = binding.sources[0][0]
                        _must_hold(flat[path], flat[binding.tie], path, binding.tie, flat.structure.sep)
                    continue
                else:
                    results = binding.run([flat[names[0]] for names in binding.sources], kind)
            except SurgeryError as error:
                where = (binding.sources or binding.targets)[0][0]
                problems.append(problem_at(text_of(where, flat.structure.sep), error))
                continue
            _place(binding, results, flat, out)
        raise_problems(verb, problems, of=f"{len(self.source)} leaves")
        self._alias(flat, out, verb)
        return out

    def _returned(self, remainder: Kept, made: Mapping[Path, Leaf], verb: str) -> dict[Path, Leaf]:
        """Return the leaves of a remainder that a recipe read backwards cannot make."""
        if not self.absent or remainder is False:
            return {}
        if remainder is None:
            raise StructureError(
                f"what matches {', '.join(map(repr, self.absent))} was dropped on the way here, if there was any",
                verb=verb,
                hint="give the remainder that was written then, or remainder=False to go on without it "
                "(on the command line: --remainder FILE, --no-remainder)",
            )
        patterns = [parse_pattern(text) for text in self.absent]
        out = {path: leaf for path, leaf in remainder.items() if path not in made and path not in self.needs}
        problems = [
            Problem("the remainder holds a leaf that was not dropped", text_of(path), error=StructureError)
            for path in out
            if not any(pattern.match(path) is not None for pattern in patterns)
        ]
        raise_problems(verb, problems)
        return out

    def _alias(self, flat: Flat, out: dict[Path, Leaf], verb: str) -> None:
        """Fill in the names that are aliases of other results."""
        for binding in self.bindings:
            if binding.tie is None:
                continue
            for names in binding.targets:
                for path in names:
                    if binding.tie not in out:
                        raise StructureError(
                            f"'{text_of(binding.tie)}' is not there to be tied to",
                            verb=verb,
                            path=text_of(path),
                        )
                    if binding.sources:
                        _must_hold(flat[binding.sources[0][0]], out[binding.tie], path, binding.tie)
                    out[path] = out[binding.tie]

    def moves(self, structure: Structure) -> list[Move]:
        """Return where each leaf and childless node of a tree goes, in the order of the result."""
        origin: dict[Path, Path | None] = {}
        for binding in self.bindings:
            for n, names in enumerate(binding.targets):
                sources = [path for group in binding.sources for path in group]
                for k, path in enumerate(names):
                    same = binding.sources[n] if len(binding.sources) == len(binding.targets) else ()
                    origin[path] = same[k] if k < len(same) else next(iter(sources), None)
        targets_of: dict[Path | None, list[Path]] = {}
        for path in self.result:
            targets_of.setdefault(origin.get(path), []).append(path)
        known = self.result.keys()
        out: list[Move] = []
        for path in ordered_paths(self.source, structure):
            if path in self.source:
                out += [(path, target) for target in targets_of.get(path, ())]
            else:
                for target in self.childless.get(path, (path,)):
                    if target not in known and not any(other[: len(target)] == target for other in known):
                        out.append((path, target))
        out += [(None, target) for target in targets_of.get(None, ())]
        return _in_result_order(out, list(known))

    def containers_of(self, structure: Structure, verb: str) -> Structure:
        """Return the containers of the result, for a source with these containers.

        Raises:
            StructureError: one of them cannot hold what would be in it.
            SpecError: named axes are lost.
        """
        moves = self.moves(structure)
        out = restructure(structure, moves, verb=verb)
        if any(node.kind.family == "box" for nodes in structure.values() for node in nodes):
            self._rename_axes(structure, out, verb)
        return out

    def _rename_axes(self, old: Structure, out: Structure, verb: str) -> None:
        """Let the axis names in boxes follow what the ops did to the axes."""
        problems = []
        for binding in self.bindings:
            if not binding.steps or binding.makes or not binding.sources:
                continue
            boxes = [_boxes(old, group[0]) for group in binding.sources]
            if not any(boxes):
                continue
            try:
                _must_be_boxed_alike(boxes)
                names = [_axis_names(nodes) for nodes in boxes]
                given = [one for one in names if one is not None]
                if not given:
                    continue
                for result, renamed in zip(binding.targets, binding.rename_axes(given), strict=True):
                    for path in result:
                        out[path] = _with_axis_names(boxes[0], renamed)
            except SurgeryError as error:
                problems.append(problem_at(text_of(binding.sources[0][0], old.sep), error))
        raise_problems(verb, problems)


def _in_result_order(moves: list[Move], result: Sequence[Path]) -> list[Move]:
    """Sort moves by the order of the result; a childless node stays behind its predecessor."""
    place = {path: n for n, path in enumerate(result)}
    keyed, last = [], -1
    for n, move in enumerate(moves):
        if move[1] in place:
            last = place[move[1]]
        keyed.append((last, n, move))
    return [move for *_, move in sorted(keyed, key=lambda one: one[:2])]


def _place(binding: Binding, results: Sequence[Leaf], flat: Flat, out: dict[Path, Leaf]) -> None:
    """Put results under their names. Untouched names of one tensor keep each their own object."""
    for n, (names, leaf) in enumerate(zip(binding.targets, results, strict=True)):
        for k, path in enumerate(names):
            own = binding.sources[n] if not binding.steps and not binding.remainder else ()
            out[path] = flat[own[k]] if k < len(own) else leaf


def _kept(names: Sequence[Path], remainder: Mapping[Path, Leaf]) -> Leaf:
    for path in names:
        if path in remainder:
            return remainder[path]
    raise StructureError(
        "this was lost on the way here, and no remainder was given that holds it",
        path=text_of(names[0]),
        hint="apply(tree, remainder=...) with what `plan.remainder(tree)` gave",
    )


def _make(binding: Binding, example: Leaf) -> list[Leaf]:
    op = binding.steps[0].ops[0]
    assert isinstance(op, new)
    from surgery._arrays.numpy import NUMPY

    home: Backend = NUMPY if example is None else backend_of(example)
    row = [home.from_numpy(op.make(text_of(binding.targets[0][0])), like=example)]
    backend = backend_of(row[0])  # beside leaves in a file, what is made is in memory
    for step in binding.steps[1:]:
        row = step.run(row, lambda op, xs: op.apply(xs, backend))
    return row


def _must_hold(a: Leaf, b: Leaf, path: Path, other: Path, sep: str = "/") -> None:
    """Raise unless `a`, which is to become an alias of `b`, holds what `b` holds."""
    if not is_one_tensor(a, b):
        raise SpecError(
            f"it is to be an alias of '{text_of(other, sep)}', but holds something else",
            path=text_of(path, sep),
            hint="the two are not tied here: give this one a place of its own",
        )


def _boxes(structure: Structure, path: Path) -> tuple[Node, ...]:
    """Return the boxes around a leaf, outermost first."""
    return tuple(node for node in structure.get(path, ()) if node.kind.family == "box")


def _must_be_boxed_alike(boxes: Sequence[tuple[Node, ...]]) -> None:
    """Raise unless one result can stand in the boxes of the first source for all of them."""
    first = boxes[0]
    for n, nodes in enumerate(boxes[1:], 1):
        if any(map(_box_differs, first, nodes)) or len(nodes) != len(first):
            kinds = [" of ".join(node.kind.name for node in one) or "no box" for one in (first, nodes)]
            same = kinds[0] == kinds[1]
            raise SpecError(
                "leaves that meet in one op are boxed differently",
                expected=f"{kinds[0]}, as the first",
                found=f"{kinds[1]} (number {n})" + (", with other metadata" if same else ""),
                hint="make them alike first, or take the boxes off",
            )


def _box_differs(a: Node, b: Node) -> bool:
    """Whether two boxes differ in more than the names of axes, which the ops compare."""
    if a.kind.name != b.kind.name:
        return True
    if not (isinstance(a.kind, NamedBox) and isinstance(b.kind, NamedBox)):
        return not same_aux(a.aux, b.aux)
    names, others = a.kind.axis_names(a.aux), b.kind.axis_names(b.aux)
    if names is None or others is None:
        return names is not others or not same_aux(a.aux, b.aux)
    return not same_aux(a.kind.with_axis_names(a.aux, names), b.kind.with_axis_names(b.aux, names))


def _axis_names(boxes: tuple[Node, ...]) -> tuple[Any, ...] | None:
    """Return what the boxes around a leaf call its axes, or None where none does."""
    for node in boxes:
        if isinstance(node.kind, NamedBox):
            return node.kind.axis_names(node.aux)
    return None


def _with_axis_names(nodes: tuple[Node, ...], names: Any) -> tuple[Node, ...]:
    return tuple(
        node._replace(aux=node.kind.with_axis_names(node.aux, names))
        if isinstance(node.kind, NamedBox)
        else node
        for node in nodes
    )
