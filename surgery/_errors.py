"""The errors: one shape of message, every problem carried, the way out named.

A message reads `verb: what is wrong at 'path'`, then `expected` and `found`,
then one `hint:`. Work that can fail in many places collects problems and
raises once, through `raise_problems`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

SHOWN = 5  # problems printed in full; the rest are counted, and all are in `.problems`
NEAR_LIMIT = 5_000  # names that are compared letter by letter when the nearest are looked for


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, at one place.

    Attributes:
        message: what is wrong, without the verb and the path.
        path: where, in text form (empty when no place is meant).
        expected, found: the two sides of a disagreement, if there are two.
        hint: the repaired call, or the nearest names.
        error: the class that this problem raises when it stands alone.
    """

    message: str
    path: str | None = None
    expected: str | None = None
    found: str | None = None
    hint: str | None = None
    error: type[SurgeryError] | None = None

    def lines(self, verb: str | None = None) -> list[str]:
        """Return the text of this problem, line by line."""
        head = f"{verb}: {self.message}" if verb else self.message
        if self.path is not None:
            head += f" at '{self.path}'"
        out = [head]
        if self.expected is not None:
            out.append(f"  expected  {self.expected}")
        if self.found is not None:
            out.append(f"  found     {self.found}")
        if self.hint is not None:
            out.append(f"  hint: {self.hint}")
        return out


class SurgeryError(ValueError):
    """Base of every error of this package.

    Attributes:
        verb: the function that the user called.
        path: the place of the first problem, in text form.
        problems: all problems, in the order they were found.

    >>> raise SurgeryError("no such leaf", verb="extract", path="a/b", hint="nearest: 'a/c'")
    Traceback (most recent call last):
    ...
    surgery.SurgeryError: extract: no such leaf at 'a/b'
      hint: nearest: 'a/c'
    """

    def __init__(
        self,
        message: str,
        *,
        verb: str | None = None,
        path: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        own = Problem(message, path, expected, found, hint, type(self))
        self.verb = verb
        self.problems: tuple[Problem, ...] = tuple(problems) or (own,)
        self.path = self.problems[0].path
        super().__init__("\n".join(own.lines(verb)))


class PathError(SurgeryError):
    """A path or its text does not exist, does not parse, or names two places."""


class StructureError(SurgeryError):
    """Two trees, or a tree and an edit, do not fit together in their containers."""


class SpecError(SurgeryError):
    """A shape, dtype or layout does not fit."""


class RuleError(SurgeryError):
    """A rule does not parse, matches nothing, or collides with another."""


class AdapterError(SurgeryError):
    """No adapter knows this kind of array, module or optimizer, or it is not installed."""


class FileError(SurgeryError):
    """A file is unreadable, unsafe, or cannot be written."""


for _class in (SurgeryError, PathError, StructureError, SpecError, RuleError, AdapterError, FileError):
    _class.__module__ = "surgery"  # tracebacks show the name that users import


def raise_problems(verb: str, problems: Sequence[Problem], *, of: str | None = None) -> None:
    """Raise one error that carries all `problems`; do nothing when there are none.

    The class is the one all problems share, else `SurgeryError`. `of` says what
    they were counted against (`"148 leaves"`).
    """
    if problems:
        _raise(verb, problems, of)


def _raise(verb: str, problems: Sequence[Problem], of: str | None) -> NoReturn:
    classes = {problem.error or SurgeryError for problem in problems}
    error = classes.pop() if len(classes) == 1 else SurgeryError
    if len(problems) == 1:
        only = problems[0]
        raise error(
            only.message,
            verb=verb,
            path=only.path,
            expected=only.expected,
            found=only.found,
            hint=only.hint,
            problems=problems,
        )
    lines = [f"{len(problems)} problems" + (f" ({of})" if of else "")]
    for problem in problems[:SHOWN]:
        lines += ["  " + line for line in problem.lines()]
    if len(problems) > SHOWN:
        lines.append(f"  ... and {len(problems) - SHOWN} more, all in `.problems` of this error")
    raise error("\n".join(lines), verb=verb, problems=problems)


def problem_at(path: str, error: SurgeryError) -> Problem:
    """Return the first problem of an error, with the place that only the caller knows."""
    first = error.problems[0]
    return Problem(first.message, first.path or path, first.expected, first.found, first.hint, type(error))


def nearest(name: str, names: Iterable[str], *, count: int = 3) -> str | None:
    """Return a hint that lists the names most like `name`, or None if none is.

    >>> nearest("h.0.attn.c_atn", ["h.0.attn.c_attn", "h.0.mlp.c_fc", "wte"])
    "nearest: 'h.0.attn.c_attn'"
    """
    pool = list(names)
    if len(pool) > NEAR_LIMIT:  # letter-by-letter comparison of 100 000 names takes minutes
        tail = name.rstrip("/.").replace("/", ".").rpartition(".")[2]
        pool = [other for other in pool if tail and tail in other][:NEAR_LIMIT]
    close = difflib.get_close_matches(name, pool, n=count, cutoff=0.6)
    if not close:
        return None
    return "nearest: " + ", ".join(f"'{other}'" for other in close)
