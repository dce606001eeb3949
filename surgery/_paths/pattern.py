r"""The pattern language: what a text says about paths, matched key by key and filled again.

    backbone/**            any number of keys after `backbone`
    h.*.ln_1.weight        one key, whatever it is
    layer_*/kernel         `*` inside a key
    h.{i:int}.mlp.{rest:**}  captures: an int key or digit string; the rest
    attn/{q|k|v}/kernel    choices; `{p=q|k|v}` named ones
    layers/[0]/kernel      int keys only; a bare `0` matches 0 and "0"

Patterns are anchored at both ends and match whole keys. A pattern is parsed
once; `Pattern.match` gives the captures, `Pattern.fill` makes a path of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from surgery._errors import RuleError
from surgery._paths.path import split_text, text_of, unescape
from surgery._types import Key, Path

Captures: TypeAlias = dict[str, Any]  # name -> key, `Keys`, or index of a choice


class Keys(tuple[Key, ...]):
    """What a capture of many keys holds. Its own type, because one key may be a tuple too."""

    __slots__ = ()


_INT = r"(?:0|-?[1-9]\d*)"
_NAME = re.compile(r"[A-Za-z_]\w*")
_FIELD = re.compile(
    r"(?P<name>[A-Za-z_]\w*)(?:(?P<shift>[+-]\d+)|:(?P<type>int|\*\*)|=(?P<options>.*))?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Part:
    """One piece inside a key.

    Attributes:
        kind: `text`, `star`, `capture`, `int` (a capture of digits) or `choice`.
        text: the literal text, or the name of the variable.
        options: what a choice offers.
        shift: what is added to a captured number when it is filled in.
    """

    kind: str
    text: str = ""
    options: tuple[str, ...] = ()
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """What one key (or, if `deep`, any number of keys) must be.

    Attributes:
        parts: the pieces of the key.
        deep: `**` or a capture of many keys; the single part then names it.
        only_int: written in brackets: matches and makes int keys.
        literal: the text, where the segment is nothing else.
        exact: the one key that is meant, type and all, where a path stands for a pattern.
    """

    parts: tuple[Part, ...]
    deep: bool = False
    only_int: bool = False
    literal: str | None = None
    exact: tuple[Key] | None = None
    regex: re.Pattern[str] = field(default=re.compile(""), compare=False)

    @property
    def whole(self) -> Part | None:
        """The one variable that takes the whole key, if that is what this segment is."""
        return self.parts[0] if len(self.parts) == 1 and self.parts[0].kind != "text" else None

    def match(self, key: Key) -> Captures | None:
        """Return the captures if this segment matches `key`, else None."""
        if self.exact is not None:
            return {} if key == self.exact[0] and type(key) is type(self.exact[0]) else None
        is_int = type(key) is int
        if self.only_int and not is_int:
            return None
        if type(key) is not str and not is_int:
            return self._match_other(key)
        text = str(key)
        if self.literal is not None:
            return {} if text == self.literal else None
        found = self.regex.fullmatch(text)
        return self._captures(found, key) if found else None

    def _match_other(self, key: Key) -> Captures | None:
        """A key that is neither str nor int fits only what takes any whole key."""
        whole = self.whole
        return {whole.text: key} if whole is not None and whole.kind in ("star", "capture") else None

    def _captures(self, found: re.Match[str], key: Key) -> Captures | None:
        out: Captures | None = {}
        for n, part in enumerate(self.parts):
            if part.kind == "text" or out is None:
                continue
            text = found[f"g{n}"]
            value: Any = text
            if part.kind == "choice":
                value = part.options.index(text)
            elif part.shift:
                value = int(text) - part.shift
                if value < 0:
                    return None
                value = value if type(key) is int else str(value)
            elif self.whole is not None:
                value = key  # keeps whether it was 3 or "3"
            out = _join(out, {part.text: value})
        return out

    def fill(self, values: Mapping[str, Any], pattern: Pattern) -> tuple[Key, ...]:
        """Return the key (or keys) that this segment makes of `values`."""
        if self.exact is not None:
            return self.exact
        if self.deep:
            return tuple(_value(values, self.parts[0].text, pattern))
        if self.literal is not None:
            return (int(self.literal) if self.only_int else self.literal,)
        whole = self.whole
        if whole is not None and whole.kind != "choice":
            value = _value(values, whole.text, pattern)
            return value if isinstance(value, Keys) else (self._fill_whole(whole, value, pattern),)
        text = "".join(
            part.text
            if part.kind == "text"
            else _fill_part(part, _value(values, part.text, pattern), pattern)
            for part in self.parts
        )
        return (int(text) if self.only_int else text,)

    def _fill_whole(self, part: Part, value: Any, pattern: Pattern) -> Key:
        if not part.shift and not self.only_int:
            key: Key = value
            return key
        number = _shifted(part, value, pattern)
        return number if self.only_int or type(value) is int else str(number)


def _fill_part(part: Part, value: Any, pattern: Pattern) -> str:
    if isinstance(value, Keys):
        raise RuleError(f"'{pattern.text}' puts the many keys of {{{part.text}}} inside one")
    if part.kind == "choice":
        return part.options[int(value)]
    return str(_shifted(part, value, pattern)) if part.shift else str(value)


def _shifted(part: Part, value: Any, pattern: Pattern) -> int:
    if not re.fullmatch(_INT, str(value)):
        raise RuleError(
            f"'{pattern.text}' counts with {{{part.text}}}, which is '{value}' here",
            hint=f"capture it as a number: {{{part.text}:int}}",
        )
    number = int(value) + part.shift
    if number < 0:
        raise RuleError(
            f"'{pattern.text}' makes the key {number} of {part.text} = {value}", hint="keys count from 0"
        )
    return number


def _value(values: Mapping[str, Any], name: str, pattern: Pattern) -> Any:
    try:
        return values[name]
    except KeyError:
        raise RuleError(f"'{pattern.text}' needs a value for {{{name}}}") from None


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed pattern.

    Attributes:
        text: as it was written, without the trailing `?`.
        segments: one per key, or per run of keys.
        optional: written with a trailing `?`: may match nothing.
        sep: the separator it was written with.
    """

    text: str
    segments: tuple[Segment, ...]
    optional: bool = False
    sep: str = "."

    @property
    def variables(self) -> dict[str, Part]:
        """The captures, choices and wildcards by name, in written order; `*0`, `**0` are the nameless ones."""
        return {part.text: part for seg in self.segments for part in seg.parts if part.kind != "text"}

    @property
    def is_path(self) -> bool:
        """Whether this is the text of one path: no variable in it."""
        return not self.variables

    def match(self, path: Path) -> Captures | None:
        """Return the captures if the pattern matches the whole of `path`, else None."""
        return next(self._matches(path, 0, 0, {}), None)

    def _matches(self, path: Path, s: int, k: int, found: Captures) -> Iterator[Captures]:
        """Every way to match, the one with the shortest `**` first."""
        if s == len(self.segments):
            if k == len(path):
                yield found
            return
        segment = self.segments[s]
        if segment.deep:
            needed = sum(not other.deep for other in self.segments[s + 1 :])
            for end in range(k, len(path) - needed + 1):
                joined = _join(found, {segment.parts[0].text: Keys(path[k:end])})
                if joined is not None:
                    yield from self._matches(path, s + 1, end, joined)
        elif k < len(path):
            own = segment.match(path[k])
            joined = None if own is None else _join(found, own)
            if joined is not None:
                yield from self._matches(path, s + 1, k + 1, joined)

    def fill(self, values: Mapping[str, Any]) -> Path:
        """Return the path that this pattern makes of `values`; the inverse of `match`."""
        return tuple(key for segment in self.segments for key in segment.fill(values, self))


def _join(a: Captures, b: Captures) -> Captures | None:
    """Join captures; a variable that is bound twice must mean the same key."""
    for name, value in b.items():
        if name in a and _same(a[name], value) is False:
            return None
    return {**a, **b}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Keys) or isinstance(b, Keys):
        return bool(a == b)
    return str(a) == str(b)


@lru_cache(maxsize=4096)
def parse_pattern(text: str) -> Pattern:
    """Parse a pattern's text.

    Raises:
        RuleError: braces do not close, a name is not one, a choice is empty.

    >>> parse_pattern("h.{i:int}.attn.{q|k|v}").match(("h", "3", "attn", "k"))
    {'i': '3', '|0': 1}
    >>> parse_pattern("blocks/{i+4}/w").fill({"i": 3})
    ('blocks', 7, 'w')
    """
    whole = text
    optional = text.endswith("?") and not text.endswith("\\?")
    if optional:
        text = text[:-1]
    sep, parts = split_text(text) if text else (".", [])
    counters = {"star": 0, "deep": 0, "choice": 0}
    try:
        segments = tuple(_parse_segment(part, counters) for part in parts)
    except RuleError as error:
        raise RuleError(f"the pattern '{whole}' does not parse: {error.problems[0].message}") from None
    return Pattern(text, segments, optional, sep)


def pattern_of(path: Path) -> Pattern:
    """Return the pattern that matches exactly this path."""
    segments = tuple(Segment((Part("text", str(key)),), exact=(key,)) for key in path)
    return Pattern(text_of(path), segments)


def _parse_segment(part: str, counters: dict[str, int]) -> Segment:
    if part == "**":
        return Segment((Part("star", f"**{_count(counters, 'deep')}"),), deep=True)
    if part == '""':
        return Segment((Part("text", ""),), literal="")
    if not part:
        raise RuleError('an empty key is written ""')
    only_int = part[0] == "[" and part[-1] == "]"
    pieces = list(_parse_parts(part[1:-1] if only_int else part, counters))
    if any(piece.kind == "deep" for piece in pieces):
        if len(pieces) > 1 or only_int:
            raise RuleError("a capture of many keys, {name:**}, stands alone between separators")
        return Segment((Part("star", pieces[0].text),), deep=True)
    if all(piece.kind == "text" for piece in pieces):
        literal = "".join(piece.text for piece in pieces)
        if only_int and not re.fullmatch(_INT, literal):
            raise RuleError(f"[{literal}] is no int key; escape the bracket for a text key: \\[")
        return Segment((Part("text", literal),), only_int=only_int, literal=literal)
    return Segment(tuple(pieces), only_int=only_int, regex=_regex(pieces))


def _parse_parts(text: str, counters: dict[str, int]) -> Iterator[Part]:
    literal, i = "", 0
    while i < len(text):
        char = text[i]
        if char == "\\" and i + 1 < len(text):
            literal += text[i + 1]
            i += 2
            continue
        if char not in "*{}":
            literal += char
            i += 1
            continue
        if literal:
            yield Part("text", literal)
            literal = ""
        if char == "}":
            raise RuleError("a '}' without its '{'")
        if char == "*":
            if text[i : i + 2] == "**":
                raise RuleError("** stands alone between separators")
            yield Part("star", f"*{_count(counters, 'star')}")
            i += 1
            continue
        end = _closing(text, i)
        yield _parse_field(text[i + 1 : end], counters)
        i = end + 1
    if literal:
        yield Part("text", literal)


def _closing(text: str, start: int) -> int:
    i = start + 1
    while i < len(text):
        if text[i] == "\\":
            i += 2
        elif text[i] == "}":
            return i
        elif text[i] == "{":
            break
        else:
            i += 1
    raise RuleError("a '{' without its '}'")


def _parse_field(text: str, counters: dict[str, int]) -> Part:
    bars = re.search(r"(?<!\\)(?:\\\\)*\|", text)
    match = _FIELD.fullmatch(text)
    if bars and (match is None or match["options"] is None):
        return Part("choice", f"|{_count(counters, 'choice')}", _options(text))
    if match is None:
        raise RuleError(
            f"{{{text}}} is neither a name, {{name:int}}, {{name:**}}, {{name+1}} nor a choice {{a|b}}"
        )
    name = match["name"]
    if match["options"] is not None:
        return Part("choice", name, _options(match["options"]))
    if match["type"] == "**":
        return Part("deep", name)
    if match["type"] == "int":
        return Part("int", name)
    shift = int(match["shift"] or 0)
    return Part("int" if shift else "capture", name, shift=shift)


def _options(text: str) -> tuple[str, ...]:
    options = tuple(unescape(one) for one in re.split(r"(?<!\\)\|", text))
    if len(set(options)) < len(options):
        raise RuleError(f"the choice {{{text}}} offers the same twice")
    return options


def _count(counters: dict[str, int], kind: str) -> int:
    counters[kind] += 1
    return counters[kind] - 1


def _regex(parts: list[Part]) -> re.Pattern[str]:
    pieces = []
    for n, part in enumerate(parts):
        if part.kind == "text":
            pieces.append(re.escape(part.text))
        elif part.kind == "int":
            pieces.append(f"(?P<g{n}>{_INT})")
        elif part.kind == "choice":
            longest_first = sorted(part.options, key=len, reverse=True)
            pieces.append(f"(?P<g{n}>{'|'.join(map(re.escape, longest_first))})")
        else:
            pieces.append(f"(?P<g{n}>.*{'?' if len(parts) > 1 and n < len(parts) - 1 else ''})")
    return re.compile("".join(pieces), re.DOTALL)
