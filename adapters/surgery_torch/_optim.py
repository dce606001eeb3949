"""torch optimizer states in neutral form, and back into a state_dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.extend import (
    AdapterError,
    Bank,
    Flat,
    Leaf,
    Path,
    Problem,
    Slots,
    SpecError,
    StructureError,
    nearest,
    raise_problems,
    spec_of,
)

# torch's names of slots, and the canonical ones.
CANONICAL = {
    "exp_avg": "mu",
    "exp_avg_sq": "nu",
    "max_exp_avg_sq": "nu_max",
    "momentum_buffer": "trace",
}
NATIVE = {name: native for native, name in CANONICAL.items()}

# A state_dict does not say which optimizer wrote it. These hyperparameters of a group do.
KNOWN = {"adam": ("betas", "eps", "amsgrad"), "sgd": ("momentum", "dampening", "nesterov")}
_NEEDED = {"adam": ("step", "exp_avg", "exp_avg_sq"), "sgd": ()}
_OTHERS = {
    "Adadelta": ("rho",),
    "Adafactor": ("beta2_decay",),
    "Adagrad": ("lr_decay", "initial_accumulator_value"),
    "ASGD": ("lambd", "t0"),
    "LBFGS": ("history_size",),
    "Muon": ("ns_steps",),
    "NAdam": ("momentum_decay",),
    "RMSprop": ("alpha", "centered"),
    "Rprop": ("etas", "step_sizes"),
    "Adamax, RAdam or SparseAdam": ("betas", "eps"),
}


def is_optimizer_dict(tree: Any) -> bool:
    """Whether a tree is what `optimizer.state_dict()` gives."""
    return isinstance(tree, Mapping) and {"state", "param_groups"} <= tree.keys()


def algorithm_of(group: Mapping[str, Any], name: str | None = None) -> str:
    """Return the algorithm that a parameter group is for.

    Args:
        group: its hyperparameters.
        name: the class of the optimizer, where there is a live one.

    Raises:
        AdapterError: it is none of those that are known here. Nothing is guessed from
            slots of the same name: what they mean is the algorithm's to say.
    """
    for algorithm, keys in KNOWN.items():
        if all(key in group for key in keys):
            return algorithm
    found = name or next((who for who, keys in _OTHERS.items() if all(key in group for key in keys)), None)
    raise AdapterError(
        f"the state of {found or 'this optimizer'} is not known here",
        expected="Adam, AdamW or SGD",
        found=", ".join(key for key in group if key not in ("params", "param_names")),
        hint="take its params alone; its raw state is a tree that structure verbs can edit",
    )


def torch_slots(state: Mapping[str, Any], params: Flat) -> Slots:
    """Return a torch optimizer state in neutral form; its groups must name their parameters.

    Raises:
        AdapterError: parameters are not named, or an optimizer or slot is not known here.
        SpecError: a slot has another shape than its parameter.
        StructureError: there is state for a parameter that is in no group, or too little
            state for a parameter.
    """
    names = _names(state)
    problems: list[Problem] = []
    for key in state["state"]:
        if key not in names:
            problems.append(
                Problem("there is state for a parameter in no group", str(key), error=StructureError)
            )
    banks = [
        _Reading(n, group, state["state"], names, params, problems).bank()
        for n, group in enumerate(state["param_groups"])
    ]
    raise_problems("slots", problems)
    return Slots(tuple(banks), _Restorer(dict(state), names), params.structure)


def _names(state: Mapping[str, Any]) -> dict[Any, Path]:
    """Return the path of each parameter by its number in the state."""
    out: dict[Any, Path] = {}
    for group in state["param_groups"]:
        if "param_names" not in group:
            raise AdapterError(
                "this optimizer state does not name its parameters, and order or shape cannot tell them",
                verb="slots",
                hint="TrainingState.of(..., names=[...]) in the order of its groups; "
                "or build optimizers with model.named_parameters()",
            )
        if len(group["params"]) != len(group["param_names"]):
            expected, found = f"{len(group['params'])} names", f"{len(group['param_names'])}"
            raise AdapterError(
                "a group has not as many names as parameters", verb="slots", expected=expected, found=found
            )
        before = set(out)  # twice in one group is allowed
        for number, name in zip(group["params"], group["param_names"], strict=True):
            if number in before:
                raise StructureError(
                    "one parameter stands in two groups of the optimizer",
                    verb="slots",
                    path=name,
                    found=f"number {number}",
                )
            out[number] = tuple(name.split("."))
    if len(set(out.values())) < len(out):
        seen: set[Path] = set()
        twice = next(path for path in out.values() if path in seen or seen.add(path))  # type: ignore[func-returns-value]
        raise StructureError(
            "two parameters of the optimizer have one name", verb="slots", path=".".join(map(str, twice))
        )
    return out


@dataclass
class _Reading:
    """One group of a state_dict while it is read into a bank."""

    n: int
    group: Mapping[str, Any]
    states: Mapping[Any, Mapping[str, Any]]
    names: Mapping[Any, Path]
    params: Flat
    problems: list[Problem]

    def bank(self) -> Bank:
        algorithm = algorithm_of(self.group)
        slots: dict[str, dict[Path, Leaf]] = {}
        counts: dict[Path, Leaf] = {}
        for number in dict.fromkeys(self.group["params"]):
            path, held = self.names[number], self.states.get(number, {})
            text = ".".join(map(str, path))
            if path not in self.params:
                known = [".".join(map(str, other)) for other in self.params]
                self.complain("the optimizer names a parameter that is not there", text, nearest(text, known))
                continue
            self.check_complete(algorithm, held, text)
            for key, value in held.items():
                if key == "step":
                    counts[path] = value
                elif value is not None:
                    self.read_slot(key, value, path, text, slots)
        hyper = {key: value for key, value in self.group.items() if key not in ("params", "param_names")}
        members = tuple(self.names[number] for number in self.group["params"])
        return Bank(f"group {self.n}", algorithm, members, slots, counts, hyper=hyper)

    def complain(
        self, what: str, text: str, hint: str | None = None, error: type[Any] = StructureError
    ) -> None:
        self.problems.append(Problem(what, text, hint=hint, error=error))

    def check_complete(self, algorithm: str, held: Mapping[str, Any], text: str) -> None:
        """Torch makes the state of a parameter when it has none at all; a part of it fails there later."""
        needed = [*_NEEDED[algorithm], *(["max_exp_avg_sq"] if self.group.get("amsgrad") else [])]
        missing = [key for key in needed if held and held.get(key) is None]
        if missing:
            shown = ", ".join(f"'{key}'" for key in missing)
            self.complain(f"the optimizer keeps a part of its state, without {shown},", text)

    def read_slot(
        self, key: str, value: Any, path: Path, text: str, slots: dict[str, dict[Path, Leaf]]
    ) -> None:
        want, have = spec_of(self.params[path]), spec_of(value)
        if key not in CANONICAL:
            known = f"known: {', '.join(CANONICAL)}"
            self.complain(f"the slot '{key}' is not known here", text, known, AdapterError)
        elif have.shape != want.shape:
            message = f"the slot '{key}' has another shape than its parameter"
            self.problems.append(Problem(message, text, str(want), str(have), error=SpecError))
        else:
            slots.setdefault(CANONICAL[key], {})[path] = value


@dataclass(frozen=True)
class _Restorer:
    """Builds a state_dict of the same groups; parameters are numbered afresh where they changed."""

    state: dict[str, Any]
    names: dict[Any, Path]

    def __call__(self, slots: Slots) -> dict[str, Any]:
        numbers = {path: number for number, path in self.names.items()}
        members = [path for bank in slots.banks for path in bank.members]
        if set(members) != set(numbers):
            numbers = {path: n for n, path in enumerate(dict.fromkeys(members))}
        states = {}
        for bank in slots.banks:
            for path in bank.members:
                own = self._state_of(bank, path, numbers.get(path))
                if own:
                    states[numbers[path]] = own
        order = [key for key in self.state["state"] if key in states]
        ordered = {key: states[key] for key in [*order, *(key for key in states if key not in order)]}
        groups = [
            self._group(group, bank, numbers)
            for group, bank in zip(self.state["param_groups"], slots.banks, strict=True)
        ]
        return {**self.state, "state": ordered, "param_groups": groups}

    def _state_of(self, bank: Bank, path: Path, number: Any) -> dict[str, Any]:
        found = {"step": bank.counts[path]} if path in bank.counts else {}
        found.update((NATIVE[name], held[path]) for name, held in bank.slots.items() if path in held)
        before = self.state["state"].get(number, {}) if self.names.get(number) == path else {}
        out = {key: found.get(key, value) for key, value in before.items() if key in found or value is None}
        out.update(found)
        return out

    def _group(self, group: Mapping[str, Any], bank: Bank, numbers: Mapping[Path, Any]) -> dict[str, Any]:
        out = {**group, **bank.hyper, "params": [numbers[path] for path in bank.members]}
        if "param_names" in group:
            out["param_names"] = [".".join(map(str, path)) for path in bank.members]
        return out


def named(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a state_dict whose groups name their parameters, in the order of the groups.

    Raises:
        AdapterError: there are more or fewer names than parameters, or they are the state's
            own in another order.
    """
    count = sum(len(group["params"]) for group in state["param_groups"])
    if len(names) != count:
        raise AdapterError(
            "the names do not fit the optimizer's parameters",
            verb="TrainingState.of",
            expected=f"{count} names, in the order of its groups",
            found=f"{len(names)}",
        )
    own = [name for group in state["param_groups"] for name in group.get("param_names", ())]
    if sorted(own) == sorted(names) and own != list(names):
        name, other = next((a, b) for a, b in zip(names, own, strict=True) if a != b)
        raise AdapterError(
            "the state has these names itself, in another order",
            verb="TrainingState.of",
            path=name,
            expected=other,
            hint="leave names= out; or, where its own are wrong, take 'param_names' out of its groups",
        )
    given = iter(names)
    groups = [
        {**group, "param_names": [next(given) for _ in group["params"]]} for group in state["param_groups"]
    ]
    return {**state, "param_groups": groups}
