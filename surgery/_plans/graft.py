"""Grafting: a donor's leaves into a target tree, every leaf on both sides accounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from surgery._dtypes import DType
from surgery._errors import (
    SHOWN,
    PathError,
    Problem,
    RuleError,
    SpecError,
    StructureError,
    SurgeryError,
    nearest,
    problem_at,
    raise_problems,
)
from surgery._paths.automaton import Where
from surgery._paths.path import all_plain, parse_path, text_of
from surgery._plans.overlay import Overlay
from surgery._plans.plan import make_plan
from surgery._report import Report, Row
from surgery._rules.planning import retyper
from surgery._rules.rules import Rules
from surgery._trees.flat import Flat
from surgery._trees.joined import is_opaque
from surgery._trees.modules import as_tree, editable
from surgery._trees.place import cast_for, fits_without_loss, place_like
from surgery._trees.registry import find_backend, is_array, spec_of
from surgery._trees.structure import build
from surgery._trees.ties import is_one_tensor, tie_groups
from surgery._trees.walk import Irregular
from surgery._types import Leaf, Path, TensorSpec, Tree
from surgery._verbs.partition import Rules as WhereRuleList
from surgery._verbs.select import extract
from surgery._verbs.tree import walk

Policy: TypeAlias = "str | Sequence[tuple[Where, str]]"

STATUSES = ("loaded", "cast", "tied", "missing", "unexpected", "mismatched")
_MEANING = {
    "missing": {"keep-target": "kept from the target", "drop": "dropped"},
    "unexpected": {"keep-source": "added from the donor", "drop": "not taken"},
    "mismatched": {"keep-target": "kept from the target", "keep-source": "taken as it is", "drop": "dropped"},
}


def graft(
    target: Tree,
    donor: Tree,
    *,
    at: str | Path = (),
    donor_at: str | Path = (),
    rules: Rules | None = None,
    missing: Policy = "error",
    unexpected: Policy = "error",
    mismatched: Policy = "error",
) -> tuple[Tree, Report]:
    """Put a donor's leaves into a target tree.

    Args:
        target: the tree whose containers, devices and places are kept.
        donor: the tree whose leaves are taken; may be lazy, or of another framework.
        at: where in the target they go.
        donor_at: where in the donor they come from.
        rules: edit rules from donor places to places under `at`; leaves that no rule
            takes go to the place of the same name.
        missing: what becomes of target leaves that nobody fills, `at` or not:
            `"error"`, `"keep-target"`, `"drop"`, or where-rules of these.
        unexpected: donor leaves without a place: `"error"`, `"drop"`, `"keep-source"`
            (added), or where-rules on the place they would have.
        mismatched: another shape, or a dtype that would narrow: `"error"`,
            `"keep-target"`, `"keep-source"`, `"drop"`, or where-rules. A dtype that
            widens is cast, and the report says so.

    Returns:
        `(tree, report)`. Containers that hold no grafted leaf are shared with the
        target; so are all untouched leaves.

    Raises:
        SurgeryError: everything without a policy, at once.

    >>> import numpy as np
    >>> model = {"backbone": {"w": np.zeros(2)}, "head": {"w": np.zeros(3)}}
    >>> tree, report = graft(model, {"w": np.ones(2)}, at="backbone", missing=[("head/**", "keep-target")])
    >>> print(report)
    graft: 1 loaded, 0 cast, 0 tied, 1 missing, 0 unexpected, 0 mismatched
      loaded   backbone/w  f64[2]
      missing  head/w      f64[3]  kept from the target
    """
    target = editable(target, "graft")
    donor = _part(donor, donor_at) if donor_at else as_tree(donor)
    place = _place(target, at)
    if rules is None and missing == "keep-target" and unexpected == mismatched == "error":
        quick = _graft_quickly(target, donor, place)
        if quick is not None:
            return quick
    if rules is not None:
        donor = make_plan(rules, donor, rest="keep", verb="graft").apply(donor)
    work = _Graft(walk(target), missing, unexpected, mismatched)
    work.take(walk(donor), place)
    return work.finish()


def _part(donor: Tree, at: str | Path) -> Tree:
    try:
        return extract(donor, at)
    except PathError as error:
        first = error.problems[0]
        message = f"{first.message} in the donor"
        raise PathError(message, verb="graft", path=first.path, hint=first.hint) from None


def _place(target: Tree, at: str | Path) -> Path:
    """Return the path that `at` means in the target, with digit keys of the type they have there."""
    path = parse_path(at) if isinstance(at, str) else at
    node = target
    for key in path:
        if type(node) is not dict or key not in node:
            found = walk(target)
            return retyper(found, found)(path)
        node = node[key]
    return path


@dataclass
class _Graft:
    """The slow and complete way: one place at a time, every problem collected."""

    target: Flat
    missing: Any
    unexpected: Any
    mismatched: Any
    rows: dict[Path, Row] = field(default_factory=dict)
    leaves: dict[Path, Leaf] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sep = self.target.structure.sep
        self.dropped: set[Path] = set()

    def text(self, path: Path) -> str:
        return text_of(path, self.sep)

    def take(self, donor: Flat, place: Path) -> None:
        """Find the place of every donor leaf."""
        retype = retyper(self.target, self.target)
        arrivals = {self._inside_box(retype((*place, *path))): leaf for path, leaf in donor.items()}
        if len(arrivals) < len(donor):
            raise RuleError(
                "two leaves of the donor go to one place", verb="graft", hint="rename one with rules="
            )
        unexpected = _policies("unexpected", self.unexpected, Flat(arrivals, structure=self.target.structure))
        mismatched = _policies("mismatched", self.mismatched, self.target)
        names = [self.text(path) for path in self.target if path not in arrivals]
        for path, leaf in arrivals.items():
            if path in self.target:
                self._fit(path, leaf, mismatched)
            else:
                self._surplus(path, leaf, unexpected.get(path, "error"), names)
        self._fill_ties()
        missing = _policies("missing", self.missing, self.target)
        for path, leaf in self.target.items():
            if path not in self.rows:
                self._absent(path, leaf, missing.get(path, "error"), arrivals)

    def _inside_box(self, path: Path) -> Path:
        """Return the place of a leaf that a file spells `w/value`, where the target has `w` in a box."""
        boxed = path[:-1]
        while path not in self.target and path and path[-1] == "value" and boxed in self.target:
            if not any(node.kind.family == "box" for node in self.target.structure.get(boxed, ())):
                break
            path, boxed = boxed, boxed[:-1]
        return path

    def _fit(self, path: Path, leaf: Leaf, policies: Mapping[Path, str]) -> None:
        mine = self.target[path]
        have, want = spec_of(leaf), spec_of(mine)
        if path and is_opaque(str(path[-1])):
            self._load(path, leaf, mine if is_array(mine) else None)
        elif have == want:
            self._load(path, leaf, mine)
        elif (
            _is_number(mine)
            and _is_number(leaf)
            and have.shape == want.shape
            and fits_without_loss(leaf, want.dtype)
        ):
            self._load(path, leaf, mine, cast=want.dtype)
        else:
            policy = policies.get(path, "error")
            what = _difference(have, want) if _is_number(mine) and _is_number(leaf) else "the type differs"
            if policy == "error":
                self.problems.append(
                    Problem(
                        what,
                        self.text(path),
                        f"{want}  from the target",
                        f"{have}  from the donor",
                        f"mismatched=[('{self.text(path)}', 'keep-target')] keeps what is there; rules= can transform",
                        SpecError,
                    )
                )
            if policy == "keep-source":
                self.leaves[path] = leaf
            elif policy == "drop":
                self.dropped.add(path)
            note = _MEANING["mismatched"].get(policy, "")
            self.rows[path] = Row("mismatched", path, str(have), str(want), note)

    def _load(self, path: Path, leaf: Leaf, like: Leaf | None, cast: DType | None = None) -> None:
        """Put a leaf where that of the target is, as an array of its library."""
        have = str(spec_of(leaf))
        try:
            if cast is not None:
                leaf = cast_for(leaf, cast, like)
            self.leaves[path] = leaf if like is None else place_like(leaf, like)
        except SurgeryError as error:
            self.problems.append(problem_at(self.text(path), error))
        before, after = ("", have) if cast is None else (have, str(spec_of(like)))
        self.rows[path] = Row("loaded" if cast is None else "cast", path, before, after)

    def _surplus(self, path: Path, leaf: Leaf, policy: str, names: Sequence[str]) -> None:
        if policy == "error":
            few = len(self.problems) < SHOWN
            hint = (nearest(self.text(path), names) if few else None) or "unexpected='drop' leaves it out"
            text = "a leaf of the donor has no place in the target"
            have = str(spec_of(leaf))
            self.problems.append(Problem(text, self.text(path), found=have, hint=hint, error=StructureError))
        elif policy == "keep-source":
            self.leaves[path] = leaf
        self.rows[path] = Row(
            "unexpected", path, str(spec_of(leaf)), note=_MEANING["unexpected"].get(policy, "")
        )

    def _absent(self, path: Path, leaf: Leaf, policy: str, arrivals: Mapping[Path, Leaf]) -> None:
        if policy == "error":
            few = len(self.problems) < SHOWN
            near = nearest(self.text(path), [self.text(p) for p in arrivals]) if few else None
            hint = near or f"missing=[('{self.text(path)}', 'keep-target')] keeps what is there"
            text = "no leaf of the donor fills a place"
            self.problems.append(
                Problem(text, self.text(path), str(spec_of(leaf)), hint=hint, error=StructureError)
            )
        elif policy == "drop":
            self.dropped.add(path)
        self.rows[path] = Row(
            "missing", path, after=str(spec_of(leaf)), note=_MEANING["missing"].get(policy, "")
        )

    def _fill_ties(self) -> None:
        """All names of one target tensor get one leaf, or the donor is told to be untied."""
        for group in tie_groups(self.target):
            filled = [path for path in group if path in self.leaves]
            if not filled:
                continue
            first = self.leaves[filled[0]]
            for path in group:
                if path not in self.rows:
                    self.leaves[path] = first
                    note = f"with '{self.text(filled[0])}'"
                    self.rows[path] = Row("tied", path, after=str(spec_of(first)), note=note)
                elif path in self.leaves:
                    self._meet(path, filled[0])

    def _meet(self, path: Path, other: Path) -> None:
        """Give two names of one tensor one leaf, if what goes to them is the same."""
        try:
            same = is_one_tensor(self.leaves[other], self.leaves[path])
        except SurgeryError as error:
            self.problems.append(problem_at(self.text(path), error))
            return
        if same:
            self.leaves[path] = self.leaves[other]
            return
        self.problems.append(
            Problem(
                "two different leaves go to two names of one tensor",
                self.text(path),
                expected=f"what goes to '{self.text(other)}'",
                hint="untie the target first: transform(target, [(path, path, ops.untie())])",
                error=RuleError,
            )
        )

    def finish(self) -> tuple[Tree, Report]:
        raise_problems("graft", self.problems, of=f"{len(self.target)} leaves in the target")
        kept = {
            path: self.leaves.get(path, leaf)
            for path, leaf in self.target.items()
            if path not in self.dropped
        }
        kept.update((path, leaf) for path, leaf in self.leaves.items() if path not in self.target)
        tree = build(kept, self.target.structure, verb="graft", holes=bool(self.dropped))
        order = [*self.target, *(path for path in self.rows if path not in self.target)]
        rows = [self.rows[path] for path in order]
        return tree, Report("graft", rows, sep=self.sep, statuses=STATUSES)


def _is_number(leaf: Leaf) -> bool:
    """Whether a leaf is an array or a Python number, and no text, function, or whatever else."""
    return find_backend(leaf) is not None


def _difference(have: TensorSpec, want: TensorSpec) -> str:
    return "the shape differs" if have.shape != want.shape else "the dtype narrows"


def _policies(status: str, policy: Any, flat: Flat) -> dict[Path, str]:
    """Return the policy of each leaf, checked."""
    allowed = ["error", *_MEANING[status]]
    rules = [("**", policy)] if isinstance(policy, str) else list(policy)
    for _, value in rules:
        if value not in allowed:
            raise RuleError(
                f"{status}={value!r} is no policy",
                verb="graft",
                hint=f"one of {', '.join(map(repr, allowed))}",
            )
    if isinstance(policy, str):
        return dict.fromkeys(flat, policy)
    ready = WhereRuleList(rules, "error", "graft")
    return {path: ready.values[n] for path, n in ready.assign(flat, ties=False).items()}


def _graft_quickly(target: Tree, donor: Tree, place: Path) -> tuple[Tree, Report] | None:
    """Copy only the containers on the way to grafted leaves; None where anything is out of the ordinary."""
    if isinstance(target, Mapping) and not all_plain(target):
        return None  # names that may be joined: the report shows their separator
    for key in reversed(place):
        donor = {key: donor}
    try:
        work = Overlay(target, donor)
    except Irregular:
        return None

    def report() -> Iterator[Row]:
        for path, leaf in walk(target).items():
            if path in work.taken:
                yield Row("loaded", path, after=str(spec_of(work.taken[path])))
            else:
                yield Row("missing", path, after=str(spec_of(leaf)), note=_MEANING["missing"]["keep-target"])

    return work.tree, Report("graft", report, statuses=STATUSES)
