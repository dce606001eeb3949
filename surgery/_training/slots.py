"""An optimizer state in neutral form: named slots under the parameters' paths.

A bank is what one algorithm keeps for its members: for each canonical slot name
(optax's: `mu`, `nu`, `trace`) a partial tree path -> tensor, a step count per
member, hyperparameters, and the rest verbatim. Absent, zero, and zero with steps
behind it stay three different things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from surgery._errors import AdapterError, Problem, RuleError, SpecError, raise_problems
from surgery._ops.base import SlotKind
from surgery._paths.path import text_of
from surgery._rules.binding import Binding
from surgery._rules.stage import Stage
from surgery._trees.flat import Flat
from surgery._trees.registry import adapters_in_use, backend_of, is_array, kind_of, spec_of
from surgery._trees.structure import Structure
from surgery._types import Leaf, Path, Tree
from surgery._verbs.partition import REQUIRED
from surgery._verbs.partition import Rules as WhereRuleList
from surgery._verbs.tree import walk

# How to move each slot that is known, by its canonical name.
KINDS: dict[str, SlotKind] = {
    "mu": "covector",
    "nu": "covector_sq",
    "nu_max": "covector_sq",
    "trace": "covector",
}

POLICIES = ("zero", "reset")


@dataclass(frozen=True)
class Bank:
    """What one algorithm keeps for some parameters.

    Attributes:
        id: where it stands in the native state, as text.
        algorithm: such as `"adam"`.
        members: the parameters it updates, whether or not they have state yet.
        slots: canonical name -> path -> tensor; a member without state has no entry.
        counts: path -> number of steps, for members that have taken any.
        one_count: True where the native state has a single count for all members.
        hyper: hyperparameters, as far as the native state holds them.
    """

    id: str
    algorithm: str
    members: tuple[Path, ...]
    slots: Mapping[str, Mapping[Path, Leaf]]
    counts: Mapping[Path, Leaf] = field(default_factory=dict)
    one_count: bool = False
    hyper: Mapping[str, Any] = field(default_factory=dict)

    def kind(self, name: str) -> SlotKind:
        """Return how a slot moves.

        Raises:
            AdapterError: nobody said so; it is refused, not guessed.
        """
        if name not in KINDS:
            raise AdapterError(f"the slot '{name}' of {self.algorithm} has no known kind")
        return KINDS[name]


@dataclass(frozen=True)
class Slots:
    """An optimizer state, neutral: an ordered list of banks.

    Attributes:
        banks: one per inner optax state, or per torch parameter group.
        restore: builds the native state again from banks and the containers of the
            parameters; belongs to the adapter that took it apart.
        params: the containers of the parameters.
        edits: what was done to the parameters since, which `restore` must do to containers
            that differ from theirs.
    """

    banks: tuple[Bank, ...]
    restore: Callable[[Slots], Any] = field(repr=False, compare=False)
    params: Structure = field(default_factory=Structure, repr=False)
    edits: tuple[Stage, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        lines = [
            f"{bank.id}: {bank.algorithm}, {len(bank.members)} parameters, "
            + ", ".join(f"{name} ({len(found)})" for name, found in bank.slots.items())
            for bank in self.banks
        ]
        return "\n".join(["Slots", *(f"  {line}" for line in lines)])


Slots.__module__ = "surgery"


def slots(opt_state: Tree, params: Tree) -> Slots:
    """Return an optimizer state in neutral form.

    Args:
        opt_state: an optax state, or what `optimizer.state_dict()` gave.
        params: the parameters it belongs to.

    Raises:
        AdapterError: no adapter knows it, or it holds something whose kind is unknown.
    """
    flat = walk(params)
    for adapter in adapters_in_use():
        found: Slots | None = adapter.slots(opt_state, flat)
        if found is not None:
            return found
    raise AdapterError(
        f"a {type(opt_state).__name__} is no optimizer state that an adapter knows",
        verb="slots",
        hint="optax states, and the state_dict() of torch optimizers",
    )


def restore(found: Slots) -> Any:
    """Return the native optimizer state that `slots` took apart, edited or not."""
    return found.restore(found)


def optimizer_state_above(tree: Tree, paths: Iterable[Path]) -> Path | None:
    """Return the first of some paths that lies in an optimizer state, wherever in the tree that stands."""
    adapters = list(adapters_in_use())
    seen: dict[Path, tuple[bool, Tree]] = {}

    def look(path: Path) -> tuple[bool, Tree]:
        """Whether a place is in a state, and the node there (None where no container leads to it)."""
        if path not in seen:
            inside, node = look(path[:-1]) if path else (False, tree)
            if path and not inside:
                node = _child(node, path[-1])
            inside = inside or any(adapter.is_optimizer_state(node) for adapter in adapters)
            seen[path] = inside, node
        return seen[path]

    return next((path for path in paths if look(path)[0]), None)


def _child(node: Tree, key: Any) -> Tree:
    kind = kind_of(node)
    while kind is not None and kind.family == "box":
        (node,) = kind.open(node)[1].values()
        kind = kind_of(node)
    return None if kind is None else kind.open(node)[1].get(key)


def move_slots(found: Slots, stage: Stage, params: Structure, fresh: Any, flat: Flat) -> Slots:
    """Return the slots after an edit of the parameters.

    Args:
        found: the slots before.
        stage: the edit.
        params: the containers of the edited parameters.
        fresh: the policy for what has no history.
        flat: the edited parameters.

    Raises:
        SurgeryError: history would be lost or mixed without a word.
    """
    made = [
        path for binding in stage.bindings if binding.makes for names in binding.targets for path in names
    ]
    policy = _policies(made, fresh, found, flat)
    problems: list[Problem] = _homeless(made, found)
    kept = {
        path: binding.tie
        for binding in stage.bindings
        if binding.tie is not None and not binding.targets
        for names in binding.sources
        for path in names
    }
    banks = tuple(
        _move_bank(_under_kept_names(bank, kept), stage, policy, flat, problems) for bank in found.banks
    )
    raise_problems("apply", problems)
    return replace(found, banks=banks, params=params, edits=(*found.edits, stage))


def _policies(made: list[Path], fresh: Any, found: Slots, flat: Flat) -> dict[Path, str]:
    """Return the policy of each new parameter; where moments exist elsewhere there is no default."""
    if not made or not any(bank.slots for bank in found.banks):
        return {}
    rules = [("**", fresh)] if isinstance(fresh, str) else list(fresh or [])
    for _, value in rules:
        if value not in POLICIES:
            raise RuleError(
                f"fresh={value!r} is no policy", verb="apply", hint=f"one of {', '.join(map(repr, POLICIES))}"
            )
    ready = WhereRuleList(rules, REQUIRED, "apply")
    out = {path: ready.of(path, flat.get(path)) for path in made}
    problems = [
        Problem(
            "a new leaf has no history, and no policy says what to put in its place",
            text_of(path),
            hint="fresh=[('**', 'reset')] begins anew; 'zero' puts zero moments under the old count",
            error=RuleError,
        )
        for path, value in out.items()
        if value is REQUIRED
    ]
    raise_problems("apply", problems)
    return out


def _homeless(made: Sequence[Path], found: Slots) -> list[Problem]:
    """New parameters need a bank; where banks have different members, nobody said which."""
    if len({frozenset(bank.members) for bank in found.banks}) < 2:
        return []
    hint = "edit without it, and let an optimizer built for the new parameters take up the old state"
    ids = ", ".join(bank.id for bank in found.banks)
    text = "which part of the optimizer a new parameter belongs to cannot be told"
    return [Problem(text, text_of(path), found=ids, hint=hint, error=RuleError) for path in made]


def _under_kept_names(bank: Bank, kept: Mapping[Path, Path]) -> Bank:
    """Put what is held under a name that is dropped as an alias under the name that stays."""
    moved = {path: other for path in bank.members if (other := kept.get(path)) and other not in bank.members}
    if not moved:
        return bank
    return replace(
        bank,
        members=tuple(moved.get(path, path) for path in bank.members),
        counts={moved.get(path, path): count for path, count in bank.counts.items()},
        slots={
            name: {moved.get(path, path): leaf for path, leaf in held.items()}
            for name, held in bank.slots.items()
        },
    )


def _move_bank(
    bank: Bank, stage: Stage, policy: Mapping[Path, str], flat: Flat, problems: list[Problem]
) -> Bank:
    """Move what one bank holds, its members in the order that they have there."""
    work = _Move(bank, policy, flat, problems)
    taken_by = {path: binding for binding in stage.bindings for names in binding.sources for path in names}
    touched: dict[int, Binding] = {}
    for path in bank.members:
        if path in taken_by:
            touched.setdefault(id(taken_by[path]), taken_by[path])
    for binding in touched.values():
        work.move(binding)
    for binding in stage.bindings:
        if binding.makes:
            work.make([path for names in binding.targets for path in names])
    members = _in_tree_order(bank.members, tuple(work.members), stage)
    return replace(bank, members=members, slots=work.slots, counts=work.counts)


def _in_tree_order(before: Sequence[Path], members: tuple[Path, ...], stage: Stage) -> tuple[Path, ...]:
    """Let members that stood in the order of the parameters stand in that of the edited ones.

    Torch loads the state of an optimizer by position: in another order, moments would come
    to parameters of the same shape without a word.
    """
    old = {path: n for n, path in enumerate(stage.source)}
    places = [old[path] for path in before if path in old]
    if places != sorted(places):
        return members
    new = {path: n for n, path in enumerate(stage.result)}
    names = (names for binding in stage.bindings for names in binding.targets)
    first = {path: min(new[name] for name in group) for group in names for path in group}
    return tuple(sorted(members, key=first.__getitem__))


class _Move:
    """The new content of one bank, as it is found."""

    def __init__(self, bank: Bank, policy: Mapping[Path, str], flat: Flat, problems: list[Problem]) -> None:
        self.bank, self.policy, self.flat, self.problems = bank, policy, flat, problems
        self.members: dict[Path, None] = {}
        self.counts: dict[Path, Leaf] = {}
        self.slots: dict[str, dict[Path, Leaf]] = {name: {} for name in bank.slots}

    def complain(self, what: str, path: Path, found: str | None = None, hint: str | None = None) -> None:
        self.problems.append(Problem(what, text_of(path), found=found, hint=hint, error=SpecError))

    def move(self, binding: Binding) -> None:
        """Move the slots of the parameters that one binding takes."""
        targets = [names[0] for names in binding.targets]
        if not targets or binding.tie is not None:
            return  # dropped with its parameter, or an alias of one that is moved
        sources = [
            member
            for names in binding.sources
            if (member := next((p for p in names if p in self.bank.members), None)) is not None
        ]
        if len(sources) < len(binding.sources):
            text = "one op joins parameters of which this optimizer updates only some"
            self.complain(text, targets[0], f"bank {self.bank.id}")
            return
        self.members.update(dict.fromkeys(targets))
        self.move_count(sources, targets)
        for name in self.slots:
            self.move_slot(name, binding, sources, targets)

    def move_slot(self, name: str, binding: Binding, sources: list[Path], targets: list[Path]) -> None:
        held = self.bank.slots[name]
        missing = [path for path in sources if path not in held]
        if len(missing) == len(sources):
            return
        kind = self.bank.kind(name)
        worth = binding.exactness(kind)
        if missing:
            text = f"one op joins parameters of which only some have '{name}'"
            self.complain(text, targets[0], f"none for '{text_of(missing[0])}'")
        elif worth != "exact":
            text = f"'{name}' cannot be moved exactly by {', '.join(map(repr, binding.ops))}"
            self.complain(text, targets[0], worth)
        else:
            results = binding.run([held[path] for path in sources], kind)
            self.slots[name].update(zip(targets, results, strict=True))

    def move_count(self, sources: list[Path], targets: list[Path]) -> None:
        found = [self.bank.counts[path] for path in sources if path in self.bank.counts]
        if not found:
            return
        distinct = {id(count): count for count in found}.values()
        numbers: set[float] = set()
        if len(distinct) > 1:  # one count has no need to be read: it may be traced, or abstract
            numbers = {float(backend_of(count).to_numpy(count)) for count in distinct}
        if len(numbers) > 1 or len(found) < len(sources):
            text = "one op joins parameters that have taken different numbers of steps"
            self.complain(text, targets[0], ", ".join(f"{number:g}" for number in sorted(numbers)))
            return
        for n, path in enumerate(targets):
            self.counts[path] = found[0] if n == 0 or self.bank.one_count else _own(found[0])

    def make(self, paths: list[Path]) -> None:
        """Give new parameters what their policy says: nothing yet, or zeros under the old count."""
        for path in paths:
            self.members[path] = None
            held = next((leaf for slot in self.bank.slots.values() for leaf in slot.values()), None)
            if held is None:
                continue
            if self.policy[path] == "reset":
                if self.bank.one_count:
                    text = (
                        "this optimizer has one step count for all parameters: one of them cannot begin anew"
                    )
                    hint = "fresh='zero' keeps the count; or give the new parameters a transform of their own"
                    self.complain(text, path, hint=hint)
                continue
            counts = [*{id(count): count for count in self.bank.counts.values()}.values()]
            numbers = sorted({float(backend_of(one).to_numpy(one)) for one in counts if len(counts) > 1})
            if len(numbers) > 1:
                text = (
                    "no one old count: the parameters of this optimizer have taken different numbers of steps"
                )
                shown = ", ".join(f"{number:g}" for number in numbers)
                self.complain(text, path, shown, "fresh='reset' begins anew")
                continue
            for name in self.slots:
                self.slots[name][path] = _zeros(self.flat[path], held)
            self.counts.update((path, _own(count)) for count in counts[:1])


def _own(count: Leaf) -> Leaf:
    """Return a count of its own: torch adds to it in place, once per parameter."""
    return backend_of(count).copy(count) if is_array(count) else count


def _zeros(like: Leaf, dtype_of: Leaf) -> Leaf:
    import numpy as np

    from surgery._dtypes import numpy_dtype

    shape, dtype = spec_of(like).shape, numpy_dtype(spec_of(dtype_of).dtype)
    return backend_of(like).from_numpy(np.zeros(shape, dtype), like=like)
