"""Reports: rows of data with a text, a JSON and a notebook face.

Rows are folded together (`layers/{0..11}/kernel`) only where everything but the
numbers in the path is equal, and only for true products of those numbers.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from surgery._errors import Problem, StructureError, raise_problems
from surgery._paths.path import text_of
from surgery._types import Path

if TYPE_CHECKING:
    from surgery._paths.automaton import Where

_NUMBER = re.compile(r"(?<!\d)(0|[1-9]\d*)(?!\d)")
SCHEMA = 1  # of the JSON face; raised when a field changes its meaning
HTML_ROWS = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a report.

    Attributes:
        status: what happened, one word such as `loaded` or `missing`.
        path: where, in the tree the report is about.
        before, after: specs or values on the two sides, as text.
        note: anything else worth knowing.
        source: where it came from, if that is another place.
        at_source: the path is one of the source, not of the result.
    """

    status: str
    path: Path
    before: str = ""
    after: str = ""
    note: str = ""
    source: Path | None = None
    at_source: bool = False


class Report:
    """What a verb did, or what it found: a sequence of rows.

    `print(report)` folds equal rows, `report.to_json()` keeps every one, a
    notebook shows a table. A report without rows is falsy, so `not diff(a, b)`
    says that nothing differs.

    Attributes:
        verb: the function that made it.
        notes: sentences about the whole.
        sep: the separator in which paths are shown.
        source_sep: that of the places that rows came from.

    >>> from surgery._report import Row
    >>> report = Report("graft", [Row("loaded", ("h", i, "w"), after="f32[2]") for i in range(3)])
    >>> print(report)
    graft: 3 loaded
      loaded  h/[{0..2}]/w  f32[2]
    """

    __surgery_report__ = True
    __array_priority__ = 1000  # numpy arrays leave `array * report` to us, and so to an error that explains

    def __init__(
        self,
        verb: str,
        rows: Iterable[Row] | Callable[[], Iterable[Row]] = (),
        *,
        notes: Sequence[str] = (),
        sep: str = "/",
        statuses: Sequence[str] = (),
        title: str | None = None,
        source_sep: str | None = None,
        empty: str | None = None,
    ) -> None:
        self.verb = verb
        self._make_rows = rows
        self.notes = tuple(notes)
        self.sep = sep
        self._statuses = tuple(statuses)
        self._title = title
        self._empty = empty
        self.source_sep = source_sep or sep

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every row, unfolded. Made when first asked for, where that costs more than the work reported."""
        return tuple(self._make_rows() if callable(self._make_rows) else self._make_rows)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each status; those the verb promises are listed even when zero."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in dict.fromkeys([*self._statuses, *found])}

    def with_status(self, *statuses: str) -> Report:
        """Return a report of the rows that have one of these statuses."""
        rows = [row for row in self.rows if row.status in statuses]
        return Report(
            self.verb, rows, notes=self.notes, sep=self.sep, source_sep=self.source_sep, empty=self._empty
        )

    def with_rows(self, rows: Iterable[Row], *, verb: str | None = None) -> Report:
        """Return a report with more rows, perhaps in the name of another verb."""
        return Report(
            verb or self.verb,
            [*self.rows, *rows],
            notes=self.notes,
            sep=self.sep,
            source_sep=self.source_sep,
            empty=self._empty,
        )

    def raise_if(self, **statuses: bool | Where) -> None:
        """Raise if a row has one of these statuses.

        Args:
            **statuses: `missing=True`, or a pattern that the row's path must match
                to count: `mismatched="backbone/**"`.

        Raises:
            StructureError: names every such row.
        """
        from surgery._paths.automaton import matcher

        problems = []
        for status, where in statuses.items():
            if status not in self.counts:
                raise TypeError(f"a {self.verb} report has no '{status}'; it has {', '.join(self.counts)}")
            test = None if isinstance(where, bool) else matcher([where], "raise_if")
            for row in self.rows:
                if (
                    where is not False
                    and row.status == status
                    and (test is None or next(test.all(row.path, None), None) is not None)
                ):
                    text = text_of(row.path, self.source_sep if row.at_source else self.sep)
                    found = row.after or row.before or None
                    problems.append(Problem(status, text, found=found, error=StructureError))
        raise_problems(self.verb, problems, of=f"{len(self.rows)} rows")

    def to_json(self) -> str:
        """Return every row as JSON: `{"schema", "verb", "counts", "notes", "rows"}`."""
        rows = [
            {
                "status": row.status,
                "path": text_of(row.path, self.source_sep if row.at_source else self.sep),
                "before": row.before,
                "after": row.after,
                "note": row.note,
                "source": None if row.source is None else text_of(row.source, self.source_sep),
            }
            for row in self.rows
        ]
        return json.dumps(
            {"schema": SCHEMA, "verb": self.verb, "counts": self.counts, "notes": self.notes, "rows": rows}
        )

    def headline(self) -> str:
        """Return the first line: the verb and the counts."""
        if self._title is not None:
            return f"{self.verb}: {self._title}"
        if self._empty is not None and not self.rows:
            return f"{self.verb}: {self._empty}"
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items())
        return f"{self.verb}: {counts or 'nothing to report'}"

    def __str__(self) -> str:
        cells = [_cells(row) for row in fold(self.rows, self.sep, self.source_sep)]
        return "\n".join([self.headline(), *(f"  {note}" for note in self.notes), *align(cells)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        folded = list(fold(self.rows, self.sep, self.source_sep))
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)) + "</tr>"
            for row in folded[:HTML_ROWS]
        )
        rest = len(folded) - HTML_ROWS
        more = f"<p>... and {rest} more rows</p>" if rest > 0 else ""
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        head = f"<summary>{html.escape(self.headline())}</summary>"
        table = f"<table style='font-family:monospace;text-align:left'>{body}</table>"
        return f"<details open>{head}{notes}{table}{more}</details>"

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getattr__(self, name: str) -> Any:
        if name in {"shape", "dtype", "ndim", "size", "T", "items", "keys", "values"}:
            self._refuse()
        raise AttributeError(f"'Report' object has no attribute '{name}'")

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise StructureError(
            f"a {self.verb} report is used as if it were a tree or an array",
            hint=f"{self.verb} returns a pair: `tree, report = {self.verb}(...)`",
        )

    __array__ = __jax_array__ = __getitem__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __neg__ = __float__ = _refuse


Report.__module__ = "surgery"


@dataclass(frozen=True, slots=True)
class _Folded:
    row: Row
    text: str
    source: str
    count: int


def fold(rows: Iterable[Row], sep: str, source_sep: str = "/") -> Iterator[_Folded]:
    """Fold rows that differ in numbers of their paths only, in order of first appearance.

    The source of a row is folded with it where its numbers are those of the path.
    """
    groups: dict[tuple[Any, ...], dict[tuple[int, ...], Row]] = {}
    for row in rows:
        pieces = _NUMBER.split(text_of(row.path, source_sep if row.at_source else sep))
        numbers = tuple(int(number) for number in pieces[1::2])
        source = "" if row.source is None else text_of(row.source, source_sep)
        rest = (tuple(pieces[0::2]), _numbered(source, numbers), row.status, row.before, row.after, row.note)
        groups.setdefault(rest, {})[numbers] = row
    for (pieces, source, *_), found in groups.items():
        for product in _products(list(found)):
            first = found[tuple(values[0] for values in product)]
            count = 1
            for values in product:
                count *= len(values)
            yield _Folded(first, _refill(pieces, product), _refill_source(source, product), count)


def _numbered(source: str, numbers: Sequence[int]) -> tuple[str | int, ...]:
    """Split a source text at its numbers, each replaced by its place among the path's numbers if it is one."""
    out: list[str | int] = []
    for n, piece in enumerate(_NUMBER.split(source)):
        if n % 2 == 0 or int(piece) not in numbers:
            out.append(piece)
        else:
            k = n // 2
            same = k < len(numbers) and numbers[k] == int(piece)
            out.append(k if same else numbers.index(int(piece)))
    return tuple(out)


def _refill_source(pieces: Sequence[str | int], product: Sequence[tuple[int, ...]]) -> str:
    return "".join(_span(product[piece]) if isinstance(piece, int) else piece for piece in pieces)


def _products(tuples: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Split a set of number tuples into true products, each given as the values per place."""
    if not tuples[0]:
        return [[]]
    tails: dict[int, list[tuple[int, ...]]] = {}
    for first, *tail in tuples:
        tails.setdefault(first, []).append(tuple(tail))
    same: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for first, group in tails.items():
        same.setdefault(tuple(sorted(group)), []).append(first)
    return [
        [tuple(sorted(firsts)), *product]
        for group, firsts in same.items()
        for product in _products(list(group))
    ]


def _refill(pieces: Sequence[str], product: Sequence[tuple[int, ...]]) -> str:
    out = pieces[0]
    for values, piece in zip(product, pieces[1:], strict=True):
        out += _span(values) + piece
    return out


def _span(values: Sequence[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{{{_ranges(values)}}}"


def _ranges(values: Sequence[int]) -> str:
    """Return `0..11,14` for numbers in rising order."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ",".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _cells(folded: _Folded) -> list[str]:
    row = folded.row
    change = f"{row.before} -> {row.after}" if row.before and row.after else row.before or row.after
    return [row.status, folded.text, change, f"<- {folded.source}" if folded.source else "", row.note]


def align(cells: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Return lines with columns padded to their widest cell; empty columns are left out."""
    if not cells:
        return []
    used = [n for n in range(len(cells[0])) if any(line[n] for line in cells)]
    cells = [[line[n] for n in used] for line in cells]
    widths = [max(len(line[n]) for line in cells) for n in range(len(cells[0]))]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))).rstrip()
        for line in cells
    ]
