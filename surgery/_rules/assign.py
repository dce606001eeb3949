"""Which rule takes which leaf: the first that matches, and a complaint of those that get none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from surgery._errors import Problem, RuleError
from surgery._paths.automaton import Matcher, check_twins, matches_nothing
from surgery._paths.pattern import Captures, Keys, Pattern, parse_pattern
from surgery._rules.binding import Binding
from surgery._rules.rules import EVERYTHING, SOURCES, Ready, as_list
from surgery._types import Path, TensorSpec


@dataclass
class Resolution:
    """What resolving found.

    Attributes:
        bindings: in source order; what is made comes last.
        problems: everything that is wrong.
        taken: the rule of each source path that one took.
        captures: for each path that a rule matched, what it captured.
        tracks: per rule, the values that its expanded variables took.
    """

    bindings: list[Binding] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    taken: dict[Path, Ready] = field(default_factory=dict)
    captures: dict[Path, Captures] = field(default_factory=dict)
    tracks: dict[int, list[dict[str, Any]]] = field(default_factory=dict)


def applies(rule: Ready, specs: Iterable[Path]) -> bool:
    """Whether the condition of a rule with a source holds; that of an alias is about the result."""
    if rule.rule.when is None or not rule.sources:
        return True
    condition = parse_pattern(rule.rule.when)
    return any(condition.match(path) is not None for path in specs)


def assign(
    parsed: Sequence[Ready],
    specs: Mapping[Path, TensorSpec],
    extra: Sequence[Path],
    out: Resolution,
    sep: str,
    verb: str,
) -> None:
    """Give each leaf to the first rule that matches it; complain of rules that get none."""
    wheres = [(rule, source) for rule in parsed for source in _wheres(rule)]
    rules = Matcher([where for _, where in wheres], verb)
    check_twins(rules, specs)
    shadowed: dict[int, Ready] = {}
    for path in [*specs, *extra]:
        for n in rules.all(path, specs[path]) if path in specs else rules.of_place(path):
            rule, source = wheres[n]
            captures = _captures(rule, source, path)
            if captures is None:
                continue
            if path in out.taken:
                shadowed.setdefault(rule.number, out.taken[path])
            else:
                out.taken[path], out.captures[path] = rule, captures
    counts = {rule.number: 0 for rule in parsed}
    for path, rule in out.taken.items():
        counts[rule.number] += path in specs
    for rule in parsed:
        problem = _miscounted(rule, counts[rule.number], shadowed.get(rule.number), specs, sep)
        if problem is not None:
            out.problems.append(problem)


def _wheres(rule: Ready) -> list[Any]:
    return as_list(rule.rule.source)


def _captures(rule: Ready, where: Any, path: Path) -> Captures | None:
    number = next(n for n, one in enumerate(_wheres(rule)) if one is where)
    source = rule.sources[number]
    captures = source.match(path) if isinstance(source, Pattern) else {EVERYTHING: Keys(path)}
    if captures is not None and len(rule.sources) > 1:
        captures = {**captures, SOURCES: number}
    return captures


def _miscounted(
    rule: Ready, count: int, shadow: Ready | None, specs: Mapping[Path, TensorSpec], sep: str
) -> Problem | None:
    if rule.rule.expect is not None and count != rule.rule.expect:
        return Problem(
            f"{rule.text} takes another number of leaves",
            expected=str(rule.rule.expect),
            found=str(count),
            error=RuleError,
        )
    if count or rule.optional or not rule.sources:
        return None
    if shadow is not None:
        return Problem(
            f"{rule.text} takes nothing: every leaf that it matches goes to {shadow.text}",
            hint="put the more special rule first, or mark it optional with a '?'",
            error=RuleError,
        )
    nothing = matches_nothing("", _wheres(rule)[0], specs, sep).problems[0]
    return replace(nothing, message=f"{rule.rule.origin or 'rule'} {rule.number}: {nothing.message}")
