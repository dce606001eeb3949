"""A plan: an edit resolved against specs and checked as a whole, before any byte moves.

Planning finds every problem. Applying then only moves leaves, and the same plan
moves parameters, moments, and any tree with the same paths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from surgery._errors import (
    PathError,
    Problem,
    RuleError,
    SpecError,
    StructureError,
    nearest,
    raise_problems,
)
from surgery._ops.base import Exactness, Op, SlotKind
from surgery._paths.path import parse_path, text_of
from surgery._plans.into import put_into
from surgery._plans.rows import rows_of
from surgery._report import Report, Row
from surgery._rules.binding import Binding
from surgery._rules.planning import make_stage
from surgery._rules.resolve import Rest
from surgery._rules.rules import Rule, Rules, as_rule
from surgery._rules.stage import Stage
from surgery._rules.toml import rules_to_toml
from surgery._training.slots import optimizer_state_above
from surgery._training.state import TrainingState
from surgery._trees.flat import Flat
from surgery._trees.modules import as_tree, editable
from surgery._trees.structure import Structure, build
from surgery._types import Path, Tree
from surgery._verbs.tree import specs_of, walk

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A checked edit, ready to be applied to any tree with the leaves it was made for.

    Made by `plan`; a value that can be printed, hashed, inverted and chained.

    Attributes:
        stages: the edits, one after another; one unless plans were chained.
        rules: what was asked for.
    """

    stages: tuple[Stage, ...]
    rules: tuple[Rule, ...] = ()
    verb: str = "plan"

    def apply(
        self,
        tree: Tree,
        into: Tree | None = None,
        *,
        kind: SlotKind = "vector",
        params: Tree | None = None,
        fresh: Any = None,
        remainder: Tree | Literal[False] | None = None,
    ) -> Any:
        """Return the edited tree. Leaves that no op touches are the very same objects.

        Args:
            tree: a tree with the leaves that were planned for, real or abstract.
            into: a tree whose containers, devices and other leaves are taken; the
                results take the places of its leaves.
            kind: what the leaves are, for a bare tree of moments: `"covector"` for
                momentum and Adam's mu, `"covector_sq"` for nu.
            params: for an optimizer state, the parameters it belongs to, before the edit.
            fresh: for a training state or an optimizer state, what leaves without a
                history get: `"zero"`, `"reset"`, or where-rules of these.
            remainder: what `Plan.remainder` kept, for an inverse that needs it, or for a
                recipe read backwards; there, False says to go on without it.

        Raises:
            StructureError, SpecError: the tree is not what was planned for.
        """
        kept = walk(remainder) if remainder is not None and remainder is not False else remainder
        if isinstance(tree, TrainingState) or params is not None:
            if into is not None or kind != "vector":
                raise RuleError(
                    "into= and kind= are for bare trees",
                    verb="apply",
                    hint="a training state moves each of its slots by its own kind, in its own containers",
                )
        if isinstance(tree, TrainingState):
            return tree.edited(self.stages, fresh, kept)
        if params is not None:
            return TrainingState.of(params=params, opt=tree).edited(self.stages, fresh, kept).opt
        self._refuse_values(tree)
        # rename and transform are their own verbs
        verb = "apply" if self.verb in ("plan", "inverse") else self.verb
        flat = walk(editable(tree, verb))
        self._refuse_foreign_state(tree, flat)
        for stage in self.stages:
            flat = stage.run(flat, verb=verb, kind=kind, remainder=kept)
        if into is not None:
            flat = put_into(flat, into)
        return build(flat, flat.structure, verb=verb)

    def _refuse_foreign_state(self, tree: Tree, flat: Flat) -> None:
        """A plan for parameters that is applied to their optimizer's state needs to know them."""
        if not flat.keys() & self.stages[0].source.keys() and optimizer_state_above(tree, flat) is not None:
            raise StructureError(
                "this is an optimizer's state, and the plan was made for something else",
                verb="apply",
                hint="plan.apply(opt_state, params=params), or TrainingState.of(params=params, opt=opt_state)",
            )

    def _refuse_values(self, tree: Tree) -> None:
        """An op that changes values must not act on raw moments as if they were weights."""
        changing: dict[Path, Op] = {}
        for n, stage in enumerate(self.stages):
            ops = ((b, next((op for op in b.ops if op.changes_values), None)) for b in stage.bindings)
            changed = {path: op for b, op in ops if op is not None for names in b.sources for path in names}
            changing.update(self._traced(n, changed))
        place = optimizer_state_above(tree, changing)
        if place is not None:
            raise SpecError(
                f"{changing[place]} would treat moments as weights",
                verb="apply",
                path=text_of(place),
                hint="plan on the parameters, then plan.apply(opt_state, params=params)",
            )

    def inverse(self) -> Plan:
        """Return the plan that goes back, in the containers that the source had.

        Where this plan loses something (`lost`), the inverse needs the remainder.
        """
        return Plan(tuple(stage.inverse() for stage in reversed(self.stages)), (), "inverse")

    def then(self, other: Plan) -> Plan:
        """Return the plan that does this and then the other.

        Raises:
            StructureError, SpecError: the other was not made for what this one gives.
        """
        given, wanted = self.stages[-1].result, other.stages[0].source
        text = "the first plan gives a leaf that the second does not expect"
        problems = [
            Problem(text, text_of(path), error=StructureError) for path in given if path not in wanted
        ]
        for path, spec in wanted.items():
            if path not in given:
                text = "the second plan expects a leaf that the first does not give"
                problems.append(Problem(text, text_of(path), error=StructureError))
            elif given[path] != spec:
                text = "the second plan expects another shape or dtype"
                problems.append(Problem(text, text_of(path), str(spec), str(given[path]), error=SpecError))
        raise_problems("then", problems)
        return Plan((*self.stages, *other.stages), (*self.rules, *other.rules), self.verb)

    @property
    def lost(self) -> dict[Path, str]:
        """What the result does not hold: path in the source -> why."""
        return {
            path: why
            for n, stage in enumerate(self.stages)
            for path, why in self._traced(n, stage.lost).items()
        }

    def _traced(self, n: int, found: Mapping[Path, T]) -> dict[Path, T]:
        """Trace what is said of sources of stage `n` back to the leaves that they came from."""
        for before in reversed(self.stages[:n]):
            found = {
                path: what
                for binding in before.bindings
                for target in (path for names in binding.targets for path in names)
                if (what := found.get(target)) is not None
                for path in (path for names in binding.sources for path in names)
            }
        return dict(found)

    @property
    def needs(self) -> list[Path]:
        """The leaves that `apply` must be given in a remainder."""
        return [path for stage in self.stages for path in stage.needs]

    def remainder(self, tree: Tree) -> Tree:
        """Return the leaves of `tree` that the result does not hold, to be kept beside it."""
        if len(self.stages) > 1:
            raise StructureError(
                "the remainder of chained plans",
                verb="remainder",
                hint="take it from each plan before it is applied",
            )
        flat = walk(editable(tree, "remainder"))
        lost = self.lost
        structure = type(flat.structure)(
            {path: nodes for path, nodes in flat.structure.items() if nodes[-1].keys}
        )
        return build(
            {path: leaf for path, leaf in flat.items() if path in lost},
            structure,
            verb="remainder",
            holes=True,
        )

    def exactness(self, kind: SlotKind = "vector") -> dict[Path, Exactness]:
        """Return what each result is worth for tensors of this kind."""
        return {
            path: binding.exactness(kind)
            for binding in self.stages[-1].bindings
            for names in binding.targets
            for path in names
        }

    @cached_property
    def hash(self) -> str:
        """A sha256 of what the plan does, the same on every machine."""
        data = [
            {
                "source": [[text_of(path), spec.dtype, spec.shape] for path, spec in stage.source.items()],
                "bindings": [binding.to_data() for binding in stage.bindings],
            }
            for stage in self.stages
        ]
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def report(self) -> Report:
        """What will happen to each leaf."""
        rows = [row for stage in self.stages for binding in stage.bindings for row in rows_of(binding, stage)]
        kept = sum(row.status == "kept" for row in rows)
        notes = [f"plan {self.hash[:12]}"] + ([f"{kept} kept as they are, not shown"] if kept else [])
        shown = [row for row in rows if row.status != "kept"]
        return Report(
            self.verb,
            shown,
            notes=notes,
            sep=self._result_sep,
            source_sep=self.stages[0].structure.sep,
            empty="no leaf is renamed or changed",
        )

    @property
    def _result_sep(self) -> str:
        last = self.stages[-1]
        return last.structure.sep if last.containers is None else last.containers.sep

    def explain(self, path: str | Path) -> Report:
        """Say what happens at one path, of the source or of the result, and by which rule.

        Raises:
            PathError: neither has such a leaf; the nearest are named.
        """
        wanted = parse_path(path) if isinstance(path, str) else path
        rows: list[Row] = []
        notes: list[str] = []
        for stage in self.stages:
            for binding in stage.bindings:
                places = [one for names in (*binding.sources, *binding.targets) for one in names]
                if wanted in places:
                    rows += rows_of(binding, stage)
                    notes.append(self._rule_text(binding))
        if not rows:
            known = {
                text_of(one, stage.structure.sep)
                for stage in self.stages
                for one in (*stage.source, *stage.result)
            }
            text = path if isinstance(path, str) else text_of(path)
            raise PathError("no leaf", verb="explain", path=text, hint=nearest(text, sorted(known)))
        sep, source_sep = self._result_sep, self.stages[0].structure.sep
        return Report("explain", rows, notes=list(dict.fromkeys(notes)), sep=sep, source_sep=source_sep)

    def _rule_text(self, binding: Binding) -> str:
        if not binding.rule:
            return "no rule says anything about it"
        if binding.rule <= len(self.rules):
            return f"rule {binding.rule}: {self.rules[binding.rule - 1]!r}"
        return f"rule {binding.rule}"

    def to_recipe(self) -> str:
        """Return the rules as the text of a recipe file.

        Raises:
            RuleError: a rule holds what a file cannot, such as a predicate.
        """
        if not self.rules:
            raise RuleError(
                "an inverse has bindings, not rules", verb="to_recipe", hint="write the plan it came from"
            )
        return rules_to_toml(self.rules)

    def __repr__(self) -> str:
        return str(self.report)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


Plan.__module__ = "surgery"


def plan(
    rules: Rules | RuleSource,
    source: Tree,
    target: Tree | None = None,
    *,
    rest: Rest | None = None,
    config: Mapping[str, Any] | None = None,
) -> Plan:
    """Resolve edit rules against specs and check the whole edit. No data is read.

    Args:
        rules: `[(source, target, *ops), ...]`; the first that matches a leaf takes it. Or a
            recipe.
        source: a tree, a module, or a tree of specs.
        target: what the result must be: its places, shapes and dtypes are checked, and
            its containers are used.
        rest: what becomes of leaves that no rule takes: `"keep"` (the default without a
            target), `"error"` (the default with one, and for recipes), `"drop"`.
        config: the model's config, where a recipe asks for values from it.

    Raises:
        SurgeryError: every problem at once: rules that match nothing, leaves without a
            rule, collisions, shapes, narrowing dtypes.

    >>> tree = {"h": {"0": {"w": 1.0}, "1": {"w": 2.0}}}
    >>> p = plan([("h/{i:int}/w", "layers/w", ops.stack(axis=0))], tree)
    >>> p.apply(tree)
    {'layers': {'w': array([1., 2.])}}
    >>> p.inverse().apply(p.apply(tree))["h"]["1"]
    {'w': array(2.)}
    """
    rest = rest or ("keep" if target is None and not isinstance(rules, RuleSource) else "error")
    if rest not in ("keep", "error", "drop"):
        raise RuleError(f"rest={rest!r} is unknown", verb="plan", hint="'keep', 'error' or 'drop'")
    return make_plan(rules, source, target, rest=rest, verb="plan", config=config)


@runtime_checkable
class RuleSource(Protocol):
    """What gives its rules once a model's config is known: a recipe."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Patterns of what it cannot make without a remainder."""
        ...

    def containers(self, paths: Iterable[Path]) -> Structure | None:
        """Return the containers of what it makes, None to derive them from the source."""
        ...

    def rules_for(self, config: Mapping[str, Any] | None) -> Rules:
        """Return the rules, with the config's values in the parameters of their ops."""
        ...


def make_plan(
    rules: Rules | RuleSource,
    source: Tree,
    target: Tree | None = None,
    *,
    rest: Rest,
    verb: str,
    config: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan for any verb; see `plan`."""
    if config is None:
        config = getattr(source, "config", None)  # a folder of weights knows its model's
    written = rules.rules_for(config) if isinstance(rules, RuleSource) else rules
    parsed = tuple(as_rule(rule, verb) for rule in written)
    flat = walk(as_tree(source))
    goal = walk(as_tree(target)) if target is not None else None
    stage = make_stage(
        parsed,
        specs_of(flat),
        flat.structure,
        target=None if goal is None else specs_of(goal),
        target_structure=None if goal is None else goal.structure,
        rest=rest,
        verb=verb,
        absent=rules.absent if isinstance(rules, RuleSource) else (),
    )
    if isinstance(rules, RuleSource) and goal is None:
        stage = replace(stage, containers=rules.containers(stage.result))
    return Plan((stage,), parsed, verb)
