"""Many patterns at once: which of an ordered list matches, found key by key during a walk.

The patterns are run together as a set of positions. The set after a prefix is
computed once per prefix and shared by everything below it, and each step is
remembered, so that a warm walk costs one look-up per node however many rules
there are. A pattern that names one variable in two keys is asked again where its
positions match. Predicates and `re:` rules cannot be run so; they are tried at
the leaves, in their place in the order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from surgery._errors import RuleError, nearest
from surgery._paths.path import PLAIN, split_text, text_of
from surgery._paths.pattern import Pattern, parse_pattern, pattern_of
from surgery._types import Key, Leaf, Path

Predicate: TypeAlias = Callable[[Path, Leaf], bool]
Where: TypeAlias = "str | Path | Predicate"

_MEMO_LIMIT = 200_000  # steps remembered by one rule list before it starts afresh


class State:
    """The positions that are alive after some prefix of keys.

    Attributes:
        first: the first pattern that matches a path ending here, else `NONE`.
        matching: all that do.
        next: the state after one more key that is plain text; those met so far.
        others: the same after any other str or int.
    """

    __slots__ = ("first", "items", "matching", "next", "others")

    def __init__(self, items: frozenset[tuple[int, int]], matching: tuple[int, ...]) -> None:
        self.items = items
        self.matching = matching
        self.first = matching[0] if matching else NONE
        self.next: dict[Key, State] = {}
        self.others: dict[Key, State] = {}


NONE = 1 << 60  # sorts after every rule
_INTEGER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Expression:
    """A `re:` rule: a regular expression over the whole text form of a path."""

    regex: re.Pattern[str]
    sep: str

    def __call__(self, path: Path, leaf: Leaf) -> bool:
        return self.regex.fullmatch(text_of(path, self.sep)) is not None


class Matcher:
    """An ordered list of patterns, paths, `re:` rules and predicates, ready to be asked.

    Attributes:
        patterns: the patterns and paths, by their place in the list.
        tests: predicates and `re:` rules, with their places.
        doubtful: patterns that name one variable in two keys; their positions may match
            where their captures disagree.
        digits: whether a pattern has a bare number for a key (see `check_twins`).
    """

    def __init__(self, wheres: Sequence[Where], verb: str = "rules") -> None:
        self.wheres = tuple(wheres)
        self.patterns: dict[int, Pattern] = {}
        self.tests: list[tuple[int, Predicate]] = []
        for n, where in enumerate(wheres):
            compiled = compile_where(where, verb)
            if isinstance(compiled, Pattern):
                self.patterns[n] = compiled
            else:
                self.tests.append((n, compiled))
        self.doubtful = {n for n, pattern in self.patterns.items() if _binds_twice(pattern)}
        self.digits = any(
            segment.literal is not None and not segment.only_int and _INTEGER.fullmatch(segment.literal)
            for pattern in self.patterns.values()
            for segment in pattern.segments
        )
        self._states: dict[frozenset[tuple[int, int]], State] = {}
        self._steps = 0
        self.start = self._state(self._closed({(n, 0) for n in self.patterns}))

    def step(self, state: State, key: Key) -> State:
        """Return the state after one more key."""
        if type(key) is not str and type(key) is not int:
            return self._advance(state, key)  # True == 1 == 1.0: these would share a memo entry
        memo = state.next if key in PLAIN else state.others
        try:
            return memo[key]
        except KeyError:
            pass
        after = self._advance(state, key)
        self._steps += 1
        if self._steps > _MEMO_LIMIT:
            self._forget()
        else:
            memo[key] = after
        return after

    def first(self, path: Path, leaf: Leaf) -> int:
        """Return the index of the first rule that matches, or `NONE`."""
        return self.settle(self.after(path), path, leaf)

    def settle(self, state: State, path: Path, leaf: Leaf) -> int:
        """Return the first rule that matches a leaf at `path`, whose state is known."""
        first = state.first if not self.doubtful else next(self._certain(state, path), NONE)
        for n, test in self.tests:
            if n > first:
                break
            if test(path, leaf):
                return n
        return first

    def all(self, path: Path, leaf: Leaf) -> Iterator[int]:
        """The indices of all rules that match, in order."""
        found = set(self._certain(self.after(path), path))
        found.update(n for n, test in self.tests if test(path, leaf))
        yield from sorted(found)

    def of_place(self, path: Path) -> Iterator[int]:
        """The indices of all rules that match a place without a leaf, in order: predicates are not asked."""
        found = set(self._certain(self.after(path), path))
        found.update(n for n, test in self.tests if isinstance(test, Expression) and test(path, None))
        yield from sorted(found)

    def _certain(self, state: State, path: Path) -> Iterator[int]:
        """The patterns whose positions match in `state`, and whose captures agree."""
        for n in state.matching:
            if n not in self.doubtful or self.patterns[n].match(path) is not None:
                yield n

    def after(self, path: Path) -> State:
        """Return the state after all keys of a path."""
        state = self.start
        for key in path:
            state = self.step(state, key)
        return state

    def _advance(self, state: State, key: Key) -> State:
        alive: set[tuple[int, int]] = set()
        for n, position in state.items:
            segments = self.patterns[n].segments
            if position < len(segments):
                if segments[position].deep:
                    alive.add((n, position))
                elif segments[position].match(key) is not None:
                    alive.add((n, position + 1))
        return self._state(self._closed(alive))

    def _closed(self, items: set[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """A `**` may also stand for no key at all."""
        out = set(items)
        for n, position in items:
            segments = self.patterns[n].segments
            while position < len(segments) and segments[position].deep:
                position += 1
                out.add((n, position))
        return frozenset(out)

    def _state(self, items: frozenset[tuple[int, int]]) -> State:
        state = self._states.get(items)
        if state is None:
            matching = sorted({n for n, at in items if at == len(self.patterns[n].segments)})
            state = self._states[items] = State(items, tuple(matching))
        return state

    def _forget(self) -> None:
        self._steps = 0
        for state in self._states.values():
            state.next.clear()
            state.others.clear()


def compile_where(where: Where, verb: str) -> Pattern | Predicate:
    """Return a pattern, or a predicate for what no pattern can say."""
    if isinstance(where, str):
        return _expression(where) if where.startswith("re:") else parse_pattern(where)
    if isinstance(where, tuple):
        return pattern_of(where)
    if callable(where):
        return where
    raise RuleError(
        f"{where!r} is no pattern",
        verb=verb,
        hint="a text such as 'backbone/**', a path tuple, or f(path, leaf)",
    )


def _expression(text: str) -> Expression:
    """Read a rule over the text form: with slashes if it holds an unescaped one, else with dots."""
    try:
        regex = re.compile(text[3:])
    except re.error as error:
        raise RuleError(f"'{text}' is no regular expression: {error}") from None
    return Expression(regex, split_text(text[3:])[0])


def _binds_twice(pattern: Pattern) -> bool:
    names = (
        name
        for segment in pattern.segments
        for name in {part.text for part in segment.parts if part.kind != "text"}
    )
    return any(count > 1 for count in Counter(names).values())


@lru_cache(maxsize=64)
def _matcher_of_texts(wheres: tuple[str | Path, ...], verb: str) -> Matcher:
    return Matcher(wheres, verb)


def matcher(wheres: Sequence[Where], verb: str) -> Matcher:
    """Return the matcher of an ordered list; the same list of texts gives the same, warm one."""
    if all(isinstance(where, (str, tuple)) for where in wheres):
        return _matcher_of_texts(tuple(wheres), verb)
    return Matcher(wheres, verb)


def where_text(where: Where) -> str:
    """Return how a where-rule is shown in messages."""
    if isinstance(where, str):
        return where
    return text_of(where) if isinstance(where, tuple) else getattr(where, "__name__", repr(where))


def matches_nothing(verb: str, where: Where, paths: Iterable[Path], sep: str = "/") -> RuleError:
    """Return the error for a pattern that matches no leaf, with the nearest names."""
    text = where_text(where)
    paths = list(paths)
    names = [text_of(path, sep) for path in paths]
    hint = _container_hint(where, paths)
    if hint is None:
        shown = text if sep in text else text.replace("/" if sep == "." else ".", sep)
        hint = nearest(shown, names)
    if hint is None:
        hint = f"the first leaf is '{names[0]}'" if names else "the tree has no leaves"
    return RuleError(f"'{text}' matches none of {len(names)} leaves", verb=verb, hint=hint)


def _container_hint(where: Where, paths: Sequence[Path]) -> str | None:
    """The commonest slip: a pattern that names a container and not what is in it."""
    if not isinstance(where, str) or where.startswith("re:"):
        return None
    pattern = parse_pattern(where)
    sep = pattern.sep if len(pattern.segments) > 1 else "/"
    if not any(pattern.match(path[: len(pattern.segments)]) is not None for path in paths):
        return None
    return f"'{pattern.text}' is a container; what lies in it is '{pattern.text}{sep}**'"


def check_twins(rules: Matcher, paths: Iterable[Path]) -> None:
    """Refuse a bare digit in a pattern where int and str siblings of that name both stand.

    Raises:
        RuleError: the pattern would match two different keys.
    """
    if not rules.digits:
        return
    ints: dict[Path, set[str]] = {}
    paths = list(paths)
    for path in paths:
        for n, key in enumerate(path):
            if type(key) is int:
                ints.setdefault(path[:n], set()).add(str(key))
    for path in paths if ints else ():
        for n, key in enumerate(path):
            if type(key) is str and key in ints.get(path[:n], ()):
                _refuse_twin(rules, path[:n], key)


def _refuse_twin(rules: Matcher, parent: Path, key: str) -> None:
    for n, position in rules.after(parent).items:
        segment = rules.patterns[n].segments[position : position + 1]
        if segment and segment[0].literal == key and not segment[0].only_int:
            raise RuleError(
                f"'{rules.patterns[n].text}' matches both the int {key} and the string \"{key}\"",
                path=text_of(parent),
                hint=f"write [{key}] for the int, or give the path as a tuple",
            )
