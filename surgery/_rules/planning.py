"""From rules and specs to a checked stage: what `plan` does before there is a plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from surgery._dtypes import is_integer, is_lossless
from surgery._errors import (
    SHOWN,
    Problem,
    RuleError,
    SpecError,
    StructureError,
    nearest,
    raise_problems,
)
from surgery._ops.values import cast
from surgery._paths.path import text_of
from surgery._paths.pattern import Captures, parse_pattern
from surgery._rules.assign import Resolution
from surgery._rules.binding import Binding, Names, Step
from surgery._rules.resolve import Rest, resolve
from surgery._rules.rules import Rules
from surgery._rules.stage import Stage
from surgery._trees.structure import Structure
from surgery._types import Path, TensorSpec

Specs = Mapping[Path, TensorSpec]


def make_stage(
    rules: Rules,
    source: Specs,
    structure: Structure,
    *,
    target: Specs | None = None,
    target_structure: Structure | None = None,
    rest: Rest,
    verb: str,
    absent: tuple[str, ...] = (),
) -> Stage:
    """Resolve rules against specs and check the result as a whole.

    Raises:
        SurgeryError: everything that is wrong, at once.
    """
    sep = structure.sep
    extra = list(structure.childless())
    found = resolve(rules, source, rest=rest, sep=sep, verb=verb, extra=extra)
    problems = list(found.problems)
    bindings = _retyped(found.bindings, source, target)
    problems += _collisions(bindings, sep)
    if target is not None:
        bindings = _fitted(bindings, target, absent, problems, (target_structure or Structure()).sep)
    raise_problems(verb, problems, of=f"{len(source)} leaves, {len(rules)} rules")
    result = {path: spec for binding in bindings for path, spec in _results(binding)}
    if target is not None:
        order = {path: n for n, path in enumerate(target)}
        result = dict(sorted(result.items(), key=lambda item: order[item[0]]))
    stage = Stage(
        tuple(bindings),
        dict(source),
        result,
        structure,
        _childless(found, extra),
        target_structure,
        absent,
    )
    if target is None:
        stage = replace(stage, result=_in_tree_order(stage, structure))
        stage.containers_of(structure, verb)  # says now what the containers cannot hold
    return stage


def _results(binding: Binding) -> Iterator[tuple[Path, TensorSpec]]:
    outs: Sequence[TensorSpec | None] = binding.outs or [None] * len(binding.targets)
    for names, spec in zip(binding.targets, outs, strict=True):
        alias = text_of(names[0]) if len(names) > 1 else None
        for path in names:
            if spec is None:
                yield path, TensorSpec((), "alias", text_of(binding.tie or path))
            else:
                yield path, TensorSpec(spec.shape, spec.dtype, alias if len(names) > 1 else spec.alias)


def _in_tree_order(stage: Stage, structure: Structure) -> dict[Path, TensorSpec]:
    """Order results so that the leaves of one container stand together, in the place of their sources."""
    order = {path: n for n, path in enumerate(stage.source)}
    found = [
        (
            _position(binding, path, order),
            path,
            stage.result.get(binding.tie or (), spec) if spec.dtype == "alias" else spec,
        )
        for binding in stage.bindings
        for path, spec in _results(binding)
    ]
    resolved = {path: spec for _, path, spec in sorted(found, key=lambda one: one[0])}
    joined = [path for path, nodes in structure.items() if nodes[-1].sep]

    def stored(path: Path) -> Path:  # a joined name is one key of its mapping
        at = next((prefix for prefix in joined if path[: len(prefix)] == prefix), None)
        return path if at is None else (*at, path[len(at) :])

    by_place = {stored(path): path for path in resolved}
    return {by_place[place]: resolved[by_place[place]] for place in _nested(by_place)}


def _position(binding: Binding, target: Path, order: Mapping[Path, int]) -> int:
    """Return where the source of a result stands; what is made comes last."""
    for sources, targets in zip(binding.sources, binding.targets, strict=False):
        if target in targets and len(sources) == len(targets):
            return order[sources[targets.index(target)]]
    return min((order[path] for names in binding.sources for path in names), default=len(order))


def _nested(places: Collection[Path]) -> Iterator[Path]:
    """Yield paths so that those under one parent stand together, parents in order of first appearance."""
    trie: dict[Any, Any] = {}
    for place in places:
        node = trie
        for key in place:
            node = node.setdefault(key, {})
    stack: list[tuple[Path, dict[Any, Any]]] = [((), trie)] if trie or () in places else []
    while stack:
        place, node = stack.pop()
        if not node:
            yield place
        stack.extend(((*place, key), node[key]) for key in reversed(node))


def _childless(found: Resolution, extra: Sequence[Path]) -> dict[Path, tuple[Path, ...]]:
    """Return where the rules send nodes that have no children."""
    out: dict[Path, tuple[Path, ...]] = {}
    for path in extra:
        rule = found.taken.get(path)
        if rule is None:
            continue
        captures = {k: v for k, v in found.captures[path].items() if k not in rule.collected}
        targets: dict[Path, None] = {}
        for track in found.tracks.get(rule.number, [{}]) if rule.targets else []:
            values: Captures = {**captures, **track}
            targets[rule.targets[int(values.get("targets", 0))].fill(values)] = None
        out[path] = tuple(targets)
    return out


def _retyped(bindings: Sequence[Binding], source: Specs, target: Specs | None) -> list[Binding]:
    """Give digit keys the type they have at their place in the target tree, else in the source tree."""
    retype = retyper(source, target)

    def names(group: Names) -> Names:
        return tuple(retype(path) for path in group)

    return [
        binding if not binding.rule else replace(binding, targets=tuple(map(names, binding.targets)))
        for binding in bindings
    ]


def retyper(tree: Iterable[Path], target: Iterable[Path] | None = None) -> Callable[[Path], Path]:
    """Return a function that gives the digit keys of a path the type they have in a tree.

    `layers/0` becomes `layers/[0]` where the tree counts its layers with ints. The
    target decides if there is one; there alone ints also become strings.
    """
    own = _digit_keys(tree)
    wanted = own if target is tree else _digit_keys(target) if target is not None else {}
    if not wanted and not any(int in kinds for kinds in own.values()):
        return lambda path: path

    def retype(path: Path) -> Path:
        out: list[Any] = []
        for key in path:
            digits = type(key) is int or (type(key) is str and key.isdecimal())
            kinds = (wanted.get(tuple(out)) or own.get(tuple(out))) if digits else None
            if kinds == {int} and type(key) is str:
                out.append(int(key))
            elif kinds == {str} and type(key) is int and wanted:
                out.append(str(key))
            else:
                out.append(key)
        return tuple(out)

    return retype


def _digit_keys(paths: Iterable[Path]) -> dict[Path, set[type]]:
    out: dict[Path, set[type]] = {}
    for path in paths:
        for n, key in enumerate(path):
            if type(key) is int or (type(key) is str and key.isdecimal()):
                out.setdefault(path[:n], set()).add(type(key))
    return out


def _collisions(bindings: Sequence[Binding], sep: str) -> list[Problem]:
    """Two results in one place, or one inside the other."""
    problems = []
    owner: dict[Path, Binding] = {}
    for binding in bindings:
        for names in binding.targets:
            for path in names:
                if path in owner:
                    expected, found = _sources_text(owner[path], sep), _sources_text(binding, sep)
                    problems.append(
                        Problem(
                            "two sources go to one place",
                            text_of(path, sep),
                            found=f"{expected} and {found}",
                            hint="rename one of the two, or drop it by a rule to None",
                            error=RuleError,
                        )
                    )
                owner[path] = binding
    told: set[Path] = set()
    for path, binding in owner.items():
        for end in range(len(path)):
            if path[:end] in owner:
                if path[:end] in told:
                    break
                told.add(path[:end])
                other = owner[path[:end]]
                problems.append(
                    Problem(
                        "one place is to be both a leaf and a container",
                        text_of(path[:end], sep),
                        found=f"{_sources_text(other, sep)}, and {_sources_text(binding, sep)} below it",
                        hint="rename one of the two",
                        error=StructureError,
                    )
                )
                break
    return problems


def _sources_text(binding: Binding, sep: str) -> str:
    paths = [f"'{text_of(path, sep)}'" for names in binding.sources for path in names]
    shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
    return (shown or "a new leaf") + (f" (rule {binding.rule})" if binding.rule else "")


def _fitted(
    bindings: list[Binding], target: Specs, absent: tuple[str, ...], problems: list[Problem], sep: str
) -> list[Binding]:
    """Hold the results against the target tree: places, shapes, dtypes."""
    names = [text_of(path, sep) for path in target]
    made = {path for binding in bindings for group in binding.targets for path in group}
    from_remainder = [parse_pattern(text) for text in absent]
    for path, spec in target.items():
        if path not in made and not any(pattern.match(path) is not None for pattern in from_remainder):
            text = text_of(path, sep)
            hint = "add a rule for it, or make it: (None, path, new(...))"
            problems.append(Problem("no rule makes a leaf", text, str(spec), hint=hint, error=RuleError))
    out = []
    for binding in bindings:
        casts: dict[int, str] = {}
        for n, group in enumerate(binding.targets):
            for path in group:
                if path not in target:
                    near = nearest(text_of(path, sep), names) if len(problems) < SHOWN else None
                    text = f"{_sources_text(binding, sep)} has no place in the target"
                    problems.append(Problem(text, text_of(path, sep), hint=near, error=RuleError))
                elif binding.outs:
                    _fit(binding.outs[n], target[path], text_of(path, sep), problems, casts, n)
        out.append(_with_casts(binding, casts) if casts else binding)
    return out


def _fit(
    spec: TensorSpec, wanted: TensorSpec, text: str, problems: list[Problem], casts: dict[int, str], n: int
) -> None:
    if spec.shape != wanted.shape:
        hint = "a re-layout may be missing: transpose, permute_axes, reshape"
        same = sorted(spec.shape) == sorted(wanted.shape)
        problems.append(
            Problem(
                "the shape differs", text, str(wanted), str(spec), hint if same else None, error=SpecError
            )
        )
    elif spec.dtype != wanted.dtype:
        if is_lossless(spec.dtype, wanted.dtype):
            casts[n] = wanted.dtype
        else:
            more = ", integers=True" if _leaves_integers(spec, wanted.dtype) else ""
            hint = f"say that it may be rounded: ops.cast('{wanted.dtype}'{more})"
            problems.append(Problem("the dtype narrows", text, str(wanted), str(spec), hint, error=SpecError))


def _with_casts(binding: Binding, casts: Mapping[int, str]) -> Binding:
    """Widen results to the dtypes of the target; no value changes."""
    numbers = tuple((n,) for n in range(len(binding.outs)))
    wanted = [casts.get(n, spec.dtype) for n, spec in enumerate(binding.outs)]
    ops = tuple(
        cast(name, integers=_leaves_integers(spec, name))
        for name, spec in zip(wanted, binding.outs, strict=True)
    )
    outs = tuple(op.infer([spec])[0] for op, spec in zip(ops, binding.outs, strict=True))
    return replace(binding, steps=(*binding.steps, Step(ops, numbers, numbers)), outs=outs)


def _leaves_integers(spec: TensorSpec, dtype: str) -> bool:
    return is_integer(spec.dtype) and not is_integer(dtype)
