"""Edit rules: from where, to where, by which ops; what their variables ask for.

A variable on both sides names what stays together. One that stands only on the
left is collected by an op (`stack`, `concat`), one only on the right is expanded
(`unstack`, `split`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from surgery._errors import RuleError
from surgery._ops.base import Op
from surgery._ops.structure import copies, drop, same, tie
from surgery._paths.automaton import Where, compile_where, where_text
from surgery._paths.pattern import Part, Pattern, parse_pattern, pattern_of

EditRule: TypeAlias = "Rule | tuple[Any, ...]"
Rules: TypeAlias = "Sequence[EditRule]"

SOURCES = "sources"  # the variable that numbers a list of source patterns
TARGETS = "targets"  # the variable that numbers a list of target patterns
EVERYTHING = "**0"  # what a predicate or a regular expression captures: the whole path


@dataclass(frozen=True)
class Rule:
    """One edit rule. A plain tuple `(source, target, *ops)` says the same.

    Args:
        source: a pattern, or a list of them; None makes new leaves.
        target: a pattern, or a list of them; None drops.
        *ops: applied in order.
        optional: may match nothing; also said by a `?` at the end of the source.
        expect: how many leaves the rule must take.
        when: a pattern on the source side; the rule counts only where a leaf matches it.

    >>> Rule("h.{i:int}.w", "layers/w", ops.stack(axis=0), expect=12)
    Rule('h.{i:int}.w' -> 'layers/w', stack())
    """

    source: Any
    target: Any
    ops: tuple[Op, ...]
    optional: bool = False
    expect: int | None = None
    when: str | None = None
    origin: str = field(default="", compare=False)

    def __init__(
        self,
        source: Any,
        target: Any,
        *ops: Op,
        optional: bool = False,
        expect: int | None = None,
        when: str | None = None,
        origin: str = "",
    ) -> None:
        for name, value in {
            "source": source,
            "target": target,
            "ops": ops,
            "optional": optional,
            "expect": expect,
            "when": when,
            "origin": origin,
        }.items():
            object.__setattr__(self, name, value)

    def with_(self, **changes: Any) -> Rule:
        """Return the rule with some of its fields replaced."""
        values = {one.name: getattr(self, one.name) for one in fields(self)} | changes
        source, target, ops = values.pop("source"), values.pop("target"), values.pop("ops")
        return Rule(source, target, *ops, **values)

    def __repr__(self) -> str:
        parts = [f"{_side_text(self.source)} -> {_side_text(self.target)}", *map(repr, self.ops)]
        return f"Rule({', '.join(parts)})"


Rule.__module__ = "surgery"


def _side_text(side: Any) -> str:
    if side is None:
        return "None"
    sides = [repr(where_text(one)) for one in as_list(side)]
    return sides[0] if len(sides) == 1 else f"[{', '.join(sides)}]"


def as_list(side: Any) -> list[Where]:
    """Return the patterns of one side of a rule. A tuple is one path; a list is many."""
    if side is None:
        return []
    return list(side) if isinstance(side, list) else [side]


@dataclass(frozen=True)
class Ready:
    """A rule parsed and understood.

    Attributes:
        rule: as it was written.
        number: its place in the list, from 1.
        sources: patterns, or predicates for what no pattern can say.
        targets: patterns.
        collected: variables that stand only on the left, in written order.
        expanded: variables that stand only on the right, in written order.
        tie: the op that makes the rule's leaf an alias, if there is one.
    """

    rule: Rule
    number: int
    sources: tuple[Any, ...]
    targets: tuple[Pattern, ...]
    collected: tuple[str, ...]
    expanded: tuple[str, ...]
    optional: bool
    tie: tie | None = None
    makes: bool = False

    @property
    def text(self) -> str:
        """How the rule is called in messages."""
        return f"{self.rule.origin or 'rule'} {self.number} ({self.rule!r})"

    @property
    def ops(self) -> tuple[Op, ...]:
        """The ops that act on tensors, `tie` and `drop` apart."""
        return tuple(op for op in self.rule.ops if not isinstance(op, (tie, drop)))

    def options(self, name: str) -> tuple[str, ...] | None:
        """Return what a variable may be, if the rule itself says so."""
        if name == SOURCES:
            return tuple(map(str, range(len(self.sources))))
        if name == TARGETS:
            return tuple(map(str, range(len(self.targets))))
        for pattern in (*self.sources, *self.targets):
            part = pattern.variables.get(name) if isinstance(pattern, Pattern) else None
            if part is not None and part.kind == "choice":
                return part.options
        return None


def ready(rules: Rules, verb: str) -> list[Ready]:
    """Parse edit rules.

    Raises:
        RuleError: a rule is no rule, or its two sides cannot be matched up.
    """
    return [_ready(as_rule(one, verb), n, verb) for n, one in enumerate(rules, 1)]


def as_rule(one: EditRule, verb: str) -> Rule:
    """Return a `Rule` for a rule written as a tuple."""
    if isinstance(one, Rule):
        return one
    if not isinstance(one, tuple) or len(one) < 2 or not all(isinstance(op, Op) for op in one[2:]):
        raise RuleError(
            f"{one!r} is no edit rule",
            verb=verb,
            hint="a rule is (source, target, *ops): ('h.{i}.w', 'layers/{i}/w', ops.transpose())",
        )
    return Rule(*one)


def _ready(rule: Rule, number: int, verb: str) -> Ready:
    def fail(message: str, hint: str | None = None) -> RuleError:
        return RuleError(f"{rule.origin or 'rule'} {number} ({rule!r}) {message}", verb=verb, hint=hint)

    sources = tuple(compile_where(one, verb) for one in as_list(rule.source))
    targets = tuple(_target(one, fail) for one in as_list(rule.target))
    if not sources and not targets:
        raise fail("has neither a source nor a target")
    optional = rule.optional or any(isinstance(one, Pattern) and one.optional for one in sources)
    ties = [op for op in rule.ops if isinstance(op, tie)]
    made = bool(rule.ops) and rule.ops[0].arity == "make"
    _check_ends(rule, sources, targets, fail)
    left = _variables(sources, fail)
    right = _variables(targets, fail)
    _check_choices(left, right, fail)
    collected = [name for name in left if name not in right] if targets else []
    expanded = [name for name in right if name not in left] if sources else []
    for name in [*collected, *expanded]:
        _check_star(name, left, right, sources, fail)
    if not sources and right:
        raise fail(f"makes leaves for {', '.join(right)}, which nothing names", "write one rule per leaf")
    if len(sources) > 1:
        collected.insert(0, SOURCES)
    ops = list(rule.ops)
    if len(targets) > 1 and not any(op.arity == "expand" for op in ops):
        ops.append(copies(len(targets)))
    if len(targets) > 1:
        expanded.append(TARGETS)
    final = rule.with_(ops=tuple(ops), optional=optional)
    return Ready(
        final,
        number,
        sources,
        targets,
        tuple(collected),
        tuple(expanded),
        optional,
        ties[0] if ties else None,
        made,
    )


def _check_ends(rule: Rule, sources: Sequence[Any], targets: Sequence[Any], fail: Any) -> None:
    """A rule takes from somewhere or makes, and puts somewhere or drops."""
    made = bool(rule.ops) and rule.ops[0].arity == "make"
    if not sources and not made and not any(isinstance(op, tie) for op in rule.ops):
        raise fail(
            "has no source and nothing that makes the leaf", "begin its ops with new(...), or tie(...)"
        )
    if sources and made:
        raise fail(f"has a source, and {rule.ops[0]} which makes a leaf of none", "the source of new is None")
    if targets and any(isinstance(op, drop) for op in rule.ops):
        raise fail("has a target, and drop", "the target of a rule that drops is None")
    if not targets and any(not isinstance(op, (tie, drop)) for op in rule.ops):
        raise fail("drops what its ops make", "give it a target")
    if sources and len(sources) == len(targets) > 1 and not any(op.arity != "map" for op in rule.ops):
        raise fail(
            "has as many targets as sources", "pair them with choices: 'attn/{q|k}/w' -> 'attn/{query|key}/w'"
        )


def _check_star(
    name: str, left: Mapping[str, Any], right: Mapping[str, Any], sources: Sequence[Any], fail: Any
) -> None:
    """What stands on one side only is collected or expanded, and needs a name for that."""
    part = left.get(name) or right[name]
    if part.kind != "star":
        return
    side = "left" if name in left else "right"
    if name == EVERYTHING and not all(isinstance(one, Pattern) for one in sources):
        raise fail(
            "takes whole paths by a predicate or a regular expression, and its target has no place for them",
            "write ** into the target: 'moved/**'",
        )
    raise fail(f"has a {name.rstrip('0123456789')} only on the {side}", "name it: {name}, or {name:**}")


def _target(one: Where, fail: Any) -> Pattern:
    if isinstance(one, tuple):
        return pattern_of(one)
    compiled = compile_where(one, "rules") if isinstance(one, str) and not one.startswith("re:") else None
    if not isinstance(compiled, Pattern):
        raise fail("has a target that is no pattern", "a target is a pattern or a path")
    return compiled


def _variables(patterns: Sequence[Any], fail: Any) -> dict[str, Part]:
    """The variables of one side; patterns of a list must agree on them."""
    out: dict[str, Part] | None = None
    for pattern in patterns:
        own = pattern.variables if isinstance(pattern, Pattern) else {EVERYTHING: Part("star", EVERYTHING)}
        if out is not None and set(own) != set(out):
            raise fail("lists patterns with different variables", "give each of them the same {names}")
        out = own
    return out or {}


def _check_choices(left: dict[str, Part], right: dict[str, Part], fail: Any) -> None:
    for name in left.keys() & right.keys():
        a, b = left[name], right[name]
        if (a.kind == "choice") != (b.kind == "choice") or len(a.options) != len(b.options):
            raise fail(
                f"pairs {{{'|'.join(a.options) or name}}} with {{{'|'.join(b.options) or name}}}",
                "choices in the same position pair up; name them to say otherwise: {p=q|k|v}",
            )


def reversed_rule(rule: Rule) -> Rule:
    """Return the rule that goes the other way, as far as it says by itself how.

    Raises:
        RuleError: an op cannot be turned round without knowing shapes.
    """
    ops: list[Op] = []
    for op in reversed(rule.ops):
        if isinstance(op, (drop, copies, same)):
            continue
        back = op.reverse()
        if back is None:
            raise RuleError(f"{rule!r} cannot be read backwards: {op} does not say what it undoes")
        if not isinstance(back, drop):
            ops.append(back)
    source, target = rule.target, _without_mark(rule.source)
    if isinstance(source, list) and not any(op.arity == "expand" for op in rule.ops):
        source = source[0]  # of copies, one is enough on the way back
    optional = rule.optional or target != rule.source
    source = _with_types(source, rule.source)
    return rule.with_(source=source, target=target, ops=tuple(ops), optional=optional, expect=None)


def _with_types(side: Any, other: Any) -> Any:
    """Write out what kind of variable `{name}` is where only the other side of the rule says it."""
    if isinstance(side, list):
        return [_with_types(one, other) for one in side]
    if not isinstance(side, str):
        return side
    known = {
        name: "**" if segment.deep else "int"
        for text in as_list(other)
        if isinstance(text, str)
        for segment in parse_pattern(text).segments
        for name, kind in ((part.text, part.kind) for part in segment.parts)
        if segment.deep or kind == "int"
    }

    def typed(match: re.Match[str]) -> str:
        return f"{{{match[1]}:{known[match[1]]}}}" if match[1] in known else match[0]

    return re.sub(r"(?<!\\)\{([A-Za-z_]\w*)\}", typed, side)


def _without_mark(side: Any) -> Any:
    """Return a side of a rule without the `?` that marks it optional."""
    if isinstance(side, list):
        return [_without_mark(one) for one in side]
    if isinstance(side, str) and side.endswith("?") and not side.endswith("\\?"):
        return side[:-1]
    return side
