"""Re-layouts in normal form: axes taken apart into factors, permuted, put together again.

Every reshape that respects axis boundaries, every transpose, and every chain of
them is one `Layout`. It can be applied, undone, and asked which box of its
input a box of its output needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from surgery._arrays.backend import Backend
from surgery._errors import SpecError
from surgery._ops.base import AxisNames, Box, Pull, box_shape, crop
from surgery._types import Leaf

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """One re-layout.

    Attributes:
        factors: the sizes of the factors, in source order.
        sources: how many factors each source axis is made of, from the first axis on.
        targets: which factors, by number, each target axis is made of.
    """

    factors: tuple[int, ...]
    sources: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]

    @property
    def source_groups(self) -> list[tuple[int, ...]]:
        """Which factors each source axis is made of."""
        groups, start = [], 0
        for count in self.sources:
            groups.append(tuple(range(start, start + count)))
            start += count
        return groups

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return tuple(prod(self.factors[f] for f in group) for group in self.targets)

    @property
    def permutation(self) -> tuple[int, ...]:
        """The order in which the factors stand in the result."""
        return tuple(f for group in self.targets for f in group)

    def apply(self, x: Leaf, backend: Backend) -> Leaf:
        """Return the re-laid array, skipping the steps that change nothing."""
        return self._apply(x, backend, self.factors)

    def _apply(self, x: Leaf, backend: Backend, sizes: Sequence[int]) -> Leaf:
        shape = backend.spec(x).shape
        if tuple(sizes) != shape:
            x = backend.reshape(x, sizes)
        order = self.permutation
        if order != tuple(range(len(order))):
            x = backend.transpose(x, order)
        out = tuple(prod(sizes[f] for f in group) for group in self.targets)
        return x if backend.spec(x).shape == out else backend.reshape(x, out)

    def inverse(self) -> Layout:
        """Return the re-layout that undoes this one."""
        order = self.permutation
        place = {f: n for n, f in enumerate(order)}
        return Layout(
            tuple(self.factors[f] for f in order),
            tuple(len(group) for group in self.targets),
            tuple(tuple(place[f] for f in group) for group in self.source_groups),
        )

    def pull(self, box: Box) -> Pull:
        """Return the smallest block of the source that holds a box of the result."""
        wanted: dict[int, Range] = {}
        final: list[Range] = []
        for group, span in zip(self.targets, box, strict=True):
            ranges, base = _cover(span, [self.factors[f] for f in group])
            wanted.update(zip(group, ranges, strict=True))
            final.append((span[0] - base, span[1] - base))
        read: dict[int, Range] = {}
        source: list[Range] = []
        for group in self.source_groups:
            widened = _widen([wanted[f] for f in group], [self.factors[f] for f in group])
            read.update(zip(group, widened, strict=True))
            source.append(_span(widened, [self.factors[f] for f in group]))
        sizes = [read[f][1] - read[f][0] for f in range(len(self.factors))]
        inner = tuple(
            (wanted[f][0] - read[f][0], wanted[f][1] - read[f][0]) for f in range(len(self.factors))
        )

        def compute(blocks: Sequence[Leaf], backend: Backend) -> Leaf:
            block = backend.reshape(blocks[0], sizes)
            block = crop(backend, block, inner)
            return crop(backend, self._apply(block, backend, box_shape(inner)), tuple(final))

        return Pull(((0, tuple(source)),), compute)

    def tiles(self) -> tuple[int, ...]:
        """Return, per axis of the result, a step: boxes that begin at multiples of it read no byte twice.

        0 says that the axis must be whole. A run of a source axis holds all of every factor
        but the first, so only a first factor may be cut.
        """
        cut_here = {group[0] for group in map(self._solid, self.source_groups) if group}
        steps = []
        for group in map(self._solid, self.targets):
            inner = prod(self.factors[f] for f in group[1:])
            steps.append(inner if not group or group[0] in cut_here else 0)
        return tuple(steps)

    def _solid(self, group: Sequence[int]) -> tuple[int, ...]:
        """Return the factors that are more than a 1."""
        return tuple(f for f in group if self.factors[f] != 1)

    def rename_axes(self, names: AxisNames) -> AxisNames:
        """Carry axis names along: a split axis gives its name to its first factor, a merged one takes the only name.

        Raises:
            SpecError: two named axes are merged, or a named one vanishes.
        """
        named: dict[int, object] = {}
        for group, name in zip(self.source_groups, names, strict=True):
            if name is None:
                continue
            if not group:
                raise SpecError(f"the axis named {name} is reshaped away", hint="take the boxes off first")
            named[group[0]] = name
        out = []
        for group in self.targets:
            found = [named[f] for f in group if f in named]
            if len(found) > 1:
                raise SpecError(
                    f"the named axes {', '.join(map(str, found))} are merged into one, which can have one name",
                    hint="take the boxes off first (flax.linen.meta.unbox), or rename the axes",
                )
            out.append(found[0] if found else None)
        return tuple(out)


def _cover(span: Range, sizes: Sequence[int]) -> tuple[list[Range], int]:
    """Return, per factor of a merged axis, the ranges that cover `span`, and where their block begins."""
    start, stop = span
    ranges: list[Range] = []
    base = 0
    for n in range(len(sizes)):
        inner = prod(sizes[n + 1 :])
        if stop <= start:
            return [*ranges, *[(0, 0)] * (len(sizes) - n)], span[0]
        first, last = (start - base) // inner, (stop - 1 - base) // inner
        ranges.append((first, last + 1))
        base += first * inner
        if first != last:
            return [*ranges, *((0, size) for size in sizes[n + 1 :])], base
    return ranges, base


def _widen(ranges: Sequence[Range], sizes: Sequence[int]) -> list[Range]:
    """Widen factor ranges until they are one run of the axis that the factors make."""
    out: list[Range] = []
    spread = False
    for span, size in zip(ranges, sizes, strict=True):
        out.append((0, size) if spread else span)
        spread = spread or span[1] - span[0] != 1
    return out


def _span(ranges: Sequence[Range], sizes: Sequence[int]) -> Range:
    start, count = 0, 1
    for span, size in zip(ranges, sizes, strict=True):
        start = start * size + span[0]
        count *= span[1] - span[0]
    return start, start + count


def permuted(shape: Sequence[int], axes: Sequence[int]) -> Layout:
    """Return the layout that permutes whole axes."""
    return Layout(tuple(shape), (1,) * len(shape), tuple((axis,) for axis in axes))


def reshaped(old: Sequence[int], new: Sequence[int]) -> Layout | None:
    """Return the layout that reshapes, or None where the two shapes have no common factors in order.

    Axes of size 1 are made of no factors. `(4, 6) -> (8, 3)` is made of 4, 2, 3;
    `(6, 4) -> (8, 3)` of nothing smaller than the whole.
    """
    factors: list[int] = []
    sources, targets = [0] * len(old), [0] * len(new)
    left = [[axis, size] for axis, size in enumerate(old) if size != 1]
    right = [[axis, size] for axis, size in enumerate(new) if size != 1]
    while left and right:
        a, b = left[0], right[0]
        small, large = sorted((a[1], b[1]))
        if small == 0 or large % small:
            return None
        factors.append(small)
        sources[a[0]] += 1
        targets[b[0]] += 1
        for side, one in ((left, a), (right, b)):
            one[1] //= small
            if one[1] == 1:
                side.pop(0)
    groups, start = [], 0
    for count in targets:
        groups.append(tuple(range(start, start + count)))
        start += count
    return Layout(tuple(factors), tuple(sources), tuple(groups))


_TOKEN = re.compile(r"\(|\)|\.\.\.|[A-Za-z_]\w*|1(?!\d)|\S")


def parse_layout(pattern: str, shape: Sequence[int], sizes: Mapping[str, int]) -> Layout:
    """Return the layout that a pattern in einops' notation means for arrays of this shape.

    Raises:
        SpecError: the pattern does not parse, does not fit the shape, or repeats,
            drops or invents an axis (this is a re-layout: nothing is reduced).
    """
    left_text, arrow, right_text = pattern.partition("->")
    if not arrow:
        raise SpecError(f"'{pattern}' has no '->'", hint="such as '(h d) i -> h d i'")
    left, right = _groups(left_text, pattern), _groups(right_text, pattern)
    left, right = _expand_ellipsis(left, right, len(shape), pattern)
    names = [name for group in left for name in group]
    others = [name for group in right for name in group]
    if len(set(names)) < len(names) or len(set(others)) < len(others) or set(names) != set(others):
        raise SpecError(
            f"'{pattern}' must have every axis once on each side",
            expected=" ".join(sorted(names)),
            found=" ".join(sorted(others)),
        )
    unknown = set(sizes) - set(names)
    if unknown:
        raise SpecError(f"'{pattern}' has no axis called {', '.join(sorted(unknown))}")
    if len(left) != len(shape):
        raise SpecError(f"'{pattern}' is for {len(left)} axes", found=f"shape {list(shape)}")
    factors = [
        size for group, axis in zip(left, shape, strict=True) for size in _solve(group, axis, sizes, pattern)
    ]
    place = {name: n for n, name in enumerate(names)}
    return Layout(
        tuple(factors),
        tuple(len(group) for group in left),
        tuple(tuple(place[name] for name in group) for group in right),
    )


def _groups(text: str, pattern: str) -> list[list[str]]:
    groups: list[list[str]] = []
    open_group: list[str] | None = None
    for token in _TOKEN.findall(text):
        if token == "(" and open_group is None:
            open_group = []
            groups.append(open_group)
        elif token == ")" and open_group is not None:
            open_group = None
        elif token == "1":
            if open_group is None:
                groups.append([])
        elif token == "..." or token[0].isalpha() or token[0] == "_":
            if open_group is None:
                groups.append([token])
            else:
                open_group.append(token)
        else:
            raise SpecError(f"'{token}' in '{pattern}' is no axis", hint="names, 1, ... and parentheses")
    if open_group is not None:
        raise SpecError(f"a '(' in '{pattern}' does not close")
    return groups


def _expand_ellipsis(
    left: list[list[str]], right: list[list[str]], ndim: int, pattern: str
) -> tuple[list[list[str]], list[list[str]]]:
    if ["..."] not in left:
        return left, right
    count = ndim - (len(left) - 1)
    if count < 0:
        raise SpecError(f"'{pattern}' is for {len(left) - 1} axes or more", found=f"{ndim} axes")
    names = [f"...{n}" for n in range(count)]
    at = left.index(["..."])
    left = [*left[:at], *([name] for name in names), *left[at + 1 :]]
    out: list[list[str]] = []
    for group in right:
        if group == ["..."]:
            out += [[name] for name in names]
        elif "..." in group:
            at = group.index("...")
            out.append([*group[:at], *names, *group[at + 1 :]])
        else:
            out.append(group)
    return left, out


def _solve(group: Sequence[str], size: int, sizes: Mapping[str, int], pattern: str) -> list[int]:
    """Return the sizes of the named factors of one axis; at most one may be unknown."""
    known = prod(sizes[name] for name in group if name in sizes)
    open_names = [name for name in group if name not in sizes]
    text = " ".join(group) or "1"
    if len(open_names) > 1:
        raise SpecError(
            f"'{pattern}' needs the size of {' or '.join(open_names)}",
            found=f"({text}) = {size}",
            hint="name it: h=12",
        )
    if (known != size) if not open_names else (known == 0 or size % known):
        given = ", ".join(f"{name}={sizes[name]}" for name in group if name in sizes)
        raise SpecError(
            f"'{pattern}' does not fit", expected=f"({text}) = {known}", found=f"{size} ({given or text})"
        )
    return [sizes[name] if name in sizes else size // known for name in group]
