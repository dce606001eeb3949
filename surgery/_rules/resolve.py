"""Rules meet specs: every leaf finds its rule, every rule its leaves, every problem is found.

No array is touched here. The result is a list of bindings, in the order in which
their sources stand in the tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

from surgery._errors import Problem, RuleError, SurgeryError
from surgery._ops.axes import split
from surgery._ops.base import Op
from surgery._ops.structure import untie
from surgery._paths.path import natural_key, parse_path, text_of
from surgery._paths.pattern import Captures, parse_pattern
from surgery._rules.assign import Resolution, applies, assign
from surgery._rules.binding import Binding, Names, Step
from surgery._rules.rules import SOURCES, Ready, Rules, as_list, ready
from surgery._types import Path, TensorSpec

Rest = Literal["keep", "error", "drop"]


def resolve(
    rules: Rules,
    specs: Mapping[Path, TensorSpec],
    *,
    rest: Rest,
    sep: str,
    verb: str,
    extra: Sequence[Path] = (),
) -> Resolution:
    """Match edit rules against specs; the first rule that matches a leaf takes it.

    Args:
        rules: edit rules.
        specs: path -> spec of every leaf, in tree order.
        rest: what becomes of leaves that no rule takes.
        sep: the separator for messages.
        verb: the caller.
        extra: places without leaves, which follow a rule that matches them.
    """
    parsed = [rule for rule in ready(rules, verb) if applies(rule, specs)]
    out = Resolution()
    assign(parsed, specs, extra, out, sep, verb)
    for rule in parsed:
        _bind_rule(rule, specs, out, sep)
    for rule in parsed:
        if not rule.sources and rule.tie is not None:
            _bind_alias(rule, out)
    _rest(specs, rest, out, sep)
    out.bindings = _merge_ties(out.bindings, specs, out.problems, sep)
    order = {path: n for n, path in enumerate(specs)}
    out.bindings.sort(
        key=lambda b: min((order[path] for names in b.sources for path in names), default=len(order))
    )
    return out


def _bind_rule(rule: Ready, specs: Mapping[Path, TensorSpec], out: Resolution, sep: str) -> None:
    if not rule.sources:
        if rule.makes:
            _bind_made(rule, out)
        return
    groups: dict[tuple[Any, ...], list[Path]] = {}
    for path, captures in out.captures.items():
        if out.taken[path] is rule and path in specs:
            shared = tuple(
                sorted((name, str(value)) for name, value in captures.items() if name not in rule.collected)
            )
            groups.setdefault(shared, []).append(path)
    if rule.sources and not rule.targets:
        groups = {(path,): [path] for paths in groups.values() for path in paths}
    for paths in groups.values():
        try:
            out.bindings.append(_bind(rule, paths, specs, out, sep))
        except SurgeryError as error:
            first = error.problems[0]
            message = f"{rule.text}: {first.message}"
            out.problems.append(replace(first, message=message, path=first.path or text_of(paths[0], sep)))


def _bind_made(rule: Ready, out: Resolution) -> None:
    """A rule without a source makes one leaf, or several of one."""
    targets: tuple[Names, ...] = tuple((pattern.fill({}),) for pattern in rule.targets)
    steps = [Step((rule.ops[0],), ((),), ((0,),))]
    row = list(rule.ops[0].infer([]))
    try:
        for op in rule.ops[1:]:
            if isinstance(op, split) and op.sizes is None and op.parts is None:
                op = replace(op, parts=len(targets))
            steps.append(_made_step(op, row))
            row = steps[-1].run(row, lambda one, specs: one.infer(specs))
        if len(row) != len(targets):
            raise RuleError(
                "it makes another number of leaves than it has places",
                expected=f"{len(targets)}",
                found=f"{len(row)}",
            )
    except SurgeryError as error:
        out.problems.append(replace(error.problems[0], message=f"{rule.text}: {error.problems[0].message}"))
        return
    out.bindings.append(Binding(rule.number, (), targets, tuple(steps), (), tuple(row)))


def _made_step(op: Op, row: Sequence[TensorSpec]) -> Step:
    """Apply an op to all that was made so far: to each, or to all of it together."""
    if op.arity == "collect":
        return Step((op,), (tuple(range(len(row))),), ((0,),))
    places: list[tuple[int, ...]] = []
    end = 0
    for spec in row:
        count = len(op.infer([spec]))
        places.append(tuple(range(end, end + count)))
        end += count
    return Step((op,) * len(row), tuple((n,) for n in range(len(row))), tuple(places))


def _bind_alias(rule: Ready, out: Resolution) -> None:
    """A tie without a source makes an alias of another result, where its condition holds."""
    made = [path for binding in out.bindings for names in binding.targets for path in names]
    if rule.rule.when is not None:
        condition = parse_pattern(rule.rule.when)
        if not any(condition.match(path) is not None for path in made):
            return
    assert rule.tie is not None
    other = parse_path(rule.tie.other)
    if rule.optional and other not in made:
        return
    targets: tuple[Names, ...] = tuple((pattern.fill({}),) for pattern in rule.targets)
    out.bindings.append(Binding(rule.number, (), targets, tie=other))


def _bind(
    rule: Ready,
    paths: list[Path],
    specs: Mapping[Path, TensorSpec],
    out: Resolution,
    sep: str,
) -> Binding:
    """Bind one group of leaves that share all variables but the collected ones."""
    captures = out.captures
    paths = _in_order(rule, paths, captures, sep)
    ins = tuple(specs[path] for path in paths)
    sources: tuple[Names, ...] = tuple((path,) for path in paths)
    if rule.tie is not None:
        targets: tuple[Names, ...] = tuple((pattern.fill(captures[paths[0]]),) for pattern in rule.targets)
        kept = ins if targets else ()
        return Binding(rule.number, sources, targets, ins=ins, outs=kept, tie=parse_path(rule.tie.other))
    if not rule.targets:
        return Binding(rule.number, sources, (), ins=ins)
    tracks = [{name: captures[path][name] for name in rule.collected} for path in paths]
    steps, outs, tracks = _steps(rule, ins, tracks)
    seen = out.tracks.setdefault(rule.number, [])
    seen += [track for track in tracks if track not in seen]
    shared = {name: value for name, value in captures[paths[0]].items() if name not in rule.collected}
    made = [_fill(rule, {**shared, **track}) for track in tracks]
    return Binding(rule.number, sources, tuple((path,) for path in made), tuple(steps), ins, tuple(outs))


def _fill(rule: Ready, values: Mapping[str, Any]) -> Path:
    return rule.targets[int(values.get("targets", 0))].fill(values)


def _in_order(rule: Ready, paths: list[Path], captures: Mapping[Path, Captures], sep: str) -> list[Path]:
    """Sort by the collected variables, and refuse a gap."""
    if not rule.collected:
        if len(paths) > 1:
            raise RuleError(
                "several leaves go to one place",
                found=", ".join(f"'{text_of(path, sep)}'" for path in paths[:4]),
                hint="name what differs on both sides, or collect it with stack or concat",
            )
        return paths
    place = {path: tuple(_rank(captures[path][name]) for name in rule.collected) for path in paths}
    paths = sorted(paths, key=place.__getitem__)
    values: list[Sequence[Any]] = []
    for n, name in enumerate(rule.collected):
        options = rule.options(name)
        found = sorted({place[path][n] for path in paths})
        values.append([_rank(k) for k in range(len(options))] if options is not None else _run(found))
    there = set(place.values())
    gaps = [combination for combination in product(*values) if combination not in there]
    if gaps:
        names = ", ".join(
            f"{name} = {_option(rule, name, value)}"
            for name, value in zip(rule.collected, gaps[0], strict=True)
        )
        raise RuleError(
            "there is a gap in what is collected",
            found=f"no leaf for {names}",
            hint="every combination must be there; drop or rename the odd ones by an earlier rule",
        )
    return paths


def _option(rule: Ready, name: str, value: Any) -> str:
    options = rule.options(name)
    if name == SOURCES:
        return str(as_list(rule.rule.source)[value[0][1]])
    return options[value[0][1]] if options is not None else str(value[0][1])


def _rank(value: Any) -> Any:
    return natural_key((value,))[0] if not isinstance(value, tuple) else natural_key(value)


def _run(found: Sequence[Any]) -> Sequence[Any]:
    """Return what should be there between the first and the last number; anything else is as found."""
    if all(len(rank) == 1 and isinstance(rank[0][1], int) for rank in found):
        return [((0, n),) for n in range(found[0][0][1], found[-1][0][1] + 1)]
    return found


def _steps(
    rule: Ready, ins: Sequence[TensorSpec], tracks: list[dict[str, Any]]
) -> tuple[list[Step], list[TensorSpec], list[dict[str, Any]]]:
    """Lay out the ops over the row of tensors, following what each tensor stands for."""
    row, steps = list(ins), []
    collected, expanded = list(rule.collected), list(rule.expanded)
    for op in rule.ops:
        if op.arity == "collect":
            name = _choose(op, collected, -1)
            groups, tracks = _gather(tracks, name)
            step = Step((op,) * len(groups), groups, tuple((n,) for n in range(len(groups))))
        elif op.arity == "expand":
            name = _choose(op, expanded, 0)
            options = rule.options(name)
            if isinstance(op, split) and op.sizes is None and op.parts is None and options is not None:
                op = replace(op, parts=len(options))
            step, tracks = _spread(op, name, options, row, tracks)
        else:
            numbers = tuple((n,) for n in range(len(row)))
            step = Step((op,) * len(row), numbers, numbers)
        row = step.run(row, lambda one, specs: one.infer(specs))
        steps.append(step)
    if collected:
        raise RuleError(f"no op collects {_spoken(collected[-1])}", hint="add stack(axis) or concat(axis)")
    if expanded:
        raise RuleError(f"no op expands {_spoken(expanded[0])}", hint="add unstack(axis) or split(...)")
    return steps, row, tracks


def _spoken(name: str) -> str:
    if name in ("sources", "targets"):
        return f"the list of {name}"
    return "the choice" if name.startswith("|") else f"{{{name}}}"


def _choose(op: Op, names: list[str], at: int) -> str:
    """Take the variable that an op collects (the innermost left) or expands (the outermost left)."""
    over = getattr(op, "over", None)
    if not names or (over is not None and over not in names):
        side = "left" if op.arity == "collect" else "right"
        raise RuleError(
            f"{op} has no variable to {op.arity}" + (f" called {over}" if over else ""),
            hint=f"what it {op.arity}s stands only on the {side}: a capture {{i}}, a choice {{q|k|v}} or a list",
        )
    name = over if over is not None else names[at]
    names.remove(name)
    return name


def _gather(
    tracks: list[dict[str, Any]], name: str
) -> tuple[tuple[tuple[int, ...], ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for n, track in enumerate(tracks):
        rest = tuple(sorted((key, str(value)) for key, value in track.items() if key != name))
        groups.setdefault(rest, []).append(n)
    kept = [
        {key: value for key, value in tracks[group[0]].items() if key != name} for group in groups.values()
    ]
    return tuple(map(tuple, groups.values())), kept


def _spread(
    op: Op,
    name: str,
    options: tuple[str, ...] | None,
    row: Sequence[TensorSpec],
    tracks: list[dict[str, Any]],
) -> tuple[Step, list[dict[str, Any]]]:
    groups: list[tuple[int, ...]] = []
    places: list[tuple[int, ...]] = []
    after: list[dict[str, Any]] = []
    for n, spec in enumerate(row):
        count = len(op.infer([spec]))
        if options is not None and count != len(options):
            raise RuleError(f"{op} gives {count} tensors for {_spoken(name)}", expected=f"{len(options)}")
        groups.append((n,))
        places.append(tuple(range(len(after), len(after) + count)))
        after += [{**tracks[n], name: k if options is not None else str(k)} for k in range(count)]
    return Step((op,) * len(row), tuple(groups), tuple(places)), after


def _merge_ties(
    bindings: list[Binding], specs: Mapping[Path, TensorSpec], problems: list[Problem], sep: str
) -> list[Binding]:
    """Make one binding of the names of one tensor, or say that they are treated differently."""
    aliases: dict[str, list[Path]] = {}
    for path, spec in specs.items():
        if spec.alias is not None:
            aliases.setdefault(spec.alias, []).append(path)
    if not aliases:
        return bindings
    where = {path: n for n, binding in enumerate(bindings) for names in binding.sources for path in names}
    gone: set[int] = set()
    out = list(bindings)
    for group in aliases.values():
        found = [where[path] for path in group if path in where]
        kept = [n for n in dict.fromkeys(found) if out[n].targets and out[n].tie is None]
        for n in dict.fromkeys(found):
            if n not in kept and kept and not out[n].targets and out[n].tie is None:
                out[n] = replace(out[n], tie=out[kept[0]].sources[0][0])  # a name goes, the tensor stays
        separate = [n for n in kept if any(isinstance(op, untie) for op in out[n].ops)]
        together = [n for n in kept if n not in separate]
        if len(together) < 2 and not (len(found) > len(set(found)) and together):
            continue
        first = out[together[0]]
        if any(
            len(out[n].sources) > 1 or len(out[n].targets) > 1 or out[n].ops != first.ops for n in together
        ):
            other = next(path for path in group if path in where and path != group[0])
            problems.append(
                Problem(
                    "one tensor under two names is treated in two ways",
                    text_of(other, sep),
                    expected=f"as '{text_of(group[0], sep)}' is",
                    hint="use the same ops for both, drop one of the names, or put untie() first among its ops",
                    error=RuleError,
                )
            )
            continue
        names = tuple(path for n in together for path in out[n].sources[0])
        targets = tuple(path for n in together for path in out[n].targets[0])
        out[together[0]] = replace(first, sources=(names,), targets=(targets,))
        gone.update(together[1:])
    return [binding for n, binding in enumerate(out) if n not in gone]


def _rest(specs: Mapping[Path, TensorSpec], rest: Rest, out: Resolution, sep: str) -> None:
    for path, spec in specs.items():
        if path in out.taken:
            continue
        if rest == "error":
            out.problems.append(
                Problem(
                    "no rule takes a leaf",
                    text_of(path, sep),
                    found=str(spec),
                    hint="add a rule for it; a rule to None drops it",
                    error=RuleError,
                )
            )
        elif rest == "drop":
            out.bindings.append(Binding(0, ((path,),), (), ins=(spec,)))
        else:
            out.bindings.append(Binding(0, ((path,),), ((path,),), ins=(spec,), outs=(spec,)))
