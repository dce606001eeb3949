"""torch optimizer states in neutral form, and back into live optimizers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from surgery.extend import (
    AdapterError,
    Bank,
    Flat,
    Leaf,
    Parts,
    Path,
    Problem,
    Slots,
    SpecError,
    StructureError,
    TrainingState,
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
OPTIMIZER_KEYS = ("optimizer", "optimizer_state_dict", "optimizer_state", "opt")


def is_optimizer_dict(tree: Any) -> bool:
    """Whether a tree is what `optimizer.state_dict()` gives."""
    return isinstance(tree, Mapping) and {"state", "param_groups"} <= tree.keys()


def torch_slots(state: Mapping[str, Any], params: Flat) -> Slots:
    """Return a torch optimizer state in neutral form; its groups must name their parameters.

    Raises:
        AdapterError: parameters are not named, or a slot is not known here.
        SpecError: a slot has another shape than its parameter.
        StructureError: there is state for a parameter that is in no group.
    """
    names = _names(state)
    problems: list[Problem] = []
    orphans = [key for key in state["state"] if key not in names]
    for key in orphans:
        problems.append(Problem("there is state for a parameter in no group", str(key), error=StructureError))
    banks = []
    for n, group in enumerate(state["param_groups"]):
        banks.append(_bank(n, group, state["state"], names, params, problems))
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
        for number, name in zip(group["params"], group["param_names"], strict=True):
            out[number] = tuple(name.split("."))
    return out


def _bank(
    n: int,
    group: Mapping[str, Any],
    states: Mapping[Any, Mapping[str, Any]],
    names: Mapping[Any, Path],
    params: Flat,
    problems: list[Problem],
) -> Bank:
    slots: dict[str, dict[Path, Leaf]] = {}
    counts: dict[Path, Leaf] = {}
    members = [names[number] for number in group["params"]]
    for number, path in zip(group["params"], members, strict=True):
        text = ".".join(map(str, path))
        if path not in params:
            problems.append(
                Problem("the optimizer names a parameter that is not there", text, error=StructureError)
            )
            continue
        for key, value in states.get(number, {}).items():
            if key == "step":
                counts[path] = value
            elif value is None:
                continue
            elif key not in CANONICAL:
                hint = f"known: {', '.join(CANONICAL)}"
                problems.append(
                    Problem(f"the slot '{key}' is not known here", text, hint=hint, error=AdapterError)
                )
            elif spec_of(value).shape != spec_of(params[path]).shape:
                expected, found = str(spec_of(params[path])), str(spec_of(value))
                message = f"the slot '{key}' has another shape than its parameter"
                problems.append(Problem(message, text, expected, found, error=SpecError))
            else:
                slots.setdefault(CANONICAL[key], {})[path] = value
    algorithm = "adam" if "betas" in group else "sgd" if "momentum" in group else "unknown"
    hyper = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    return Bank(f"group {n}", algorithm, tuple(members), slots, counts, hyper=hyper)


@dataclass(frozen=True)
class _Restorer:
    """Builds a state_dict of the same groups; parameters are numbered afresh where they changed."""

    state: dict[str, Any]
    names: dict[Any, Path]

    def __call__(self, slots: Slots) -> dict[str, Any]:
        numbers = {path: number for number, path in self.names.items()}
        members = [path for bank in slots.banks for path in bank.members]
        if set(members) != set(numbers):
            numbers = {path: n for n, path in enumerate(members)}
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
        out = {**group, "params": [numbers[path] for path in bank.members]}
        if "param_names" in group:
            out["param_names"] = [".".join(map(str, path)) for path in bank.members]
        return out


def named(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a state_dict whose groups name their parameters, in the order of the groups.

    Raises:
        AdapterError: there are more or fewer names than parameters.
    """
    count = sum(len(group["params"]) for group in state["param_groups"])
    if len(names) != count:
        raise AdapterError(
            "the names do not fit the optimizer's parameters",
            verb="TrainingState.of",
            expected=f"{count} names, in the order of its groups",
            found=f"{len(names)}",
        )
    given = iter(names)
    groups = [
        {**group, "param_names": [next(given) for _ in group["params"]]} for group in state["param_groups"]
    ]
    return {**state, "param_groups": groups}


def live_names(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of an optimizer's parameters in the order of its groups, by identity.

    Raises:
        AdapterError: the optimizer updates a parameter that the module does not have.
    """
    known = {id(parameter): name for name, parameter in module.named_parameters()}
    out = []
    for n, group in enumerate(optimizer.param_groups):
        for k, parameter in enumerate(group["params"]):
            if id(parameter) not in known:
                raise AdapterError(
                    f"parameter {k} of group {n} is not a parameter of the module",
                    verb="TrainingState.of",
                    found=f"shape {list(parameter.shape)}",
                    hint="the module it came from may have been replaced: build the optimizer again",
                )
            out.append(known[id(parameter)])
    return out


def torch_parts(source: Any, names: Sequence[str] | None) -> Parts | None:
    """Return model and optimizer state of a live pair, a checkpoint, or a pair of trees."""
    if isinstance(source, tuple) and len(source) == 2:
        model, opt = source
        if isinstance(model, torch.nn.Module) and isinstance(opt, torch.optim.Optimizer):
            return Parts(model.state_dict(), named(opt.state_dict(), names or live_names(model, opt)))
        if is_optimizer_dict(opt):
            return Parts(model, opt if names is None else named(opt, names))
        return None
    if not isinstance(source, Mapping):
        return None
    key = next((key for key in OPTIMIZER_KEYS if is_optimizer_dict(source.get(key))), None)
    if key is None:
        return None
    from surgery import unwrap

    model, _ = unwrap({name: value for name, value in source.items() if name != key})
    opt = source[key]
    return Parts(model, opt if names is None else named(opt, names))


def write_training(state: TrainingState, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write parameters, moments, counts and hyperparameters into live objects, by name.

    Moments keep their dtype, and are copied: the optimizer's own loading would cast
    them to the dtype of the parameters, and share memory with what it is given.

    Raises:
        StructureError: the optimizer has other groups than the state.
    """
    from surgery_torch._module import load_into

    found = state.slots
    if found is None:
        load_into(module, state.params)
        return
    names = iter(live_names(module, optimizer))
    live = [[next(names) for _ in group["params"]] for group in optimizer.param_groups]
    wanted = [[".".join(map(str, path)) for path in bank.members] for bank in found.banks]
    if [set(group) for group in live] != [set(group) for group in wanted]:
        raise StructureError(
            "the optimizer groups its parameters in another way than the state",
            verb="write_into",
            expected=str([len(group) for group in wanted]),
            found=str([len(group) for group in live]),
            hint="build the optimizer with the same groups",
        )
    load_into(module, state.params)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for bank, group in zip(found.banks, optimizer.param_groups, strict=True):
        group.update({key: value for key, value in bank.hyper.items() if key in group})
        for path in bank.members:
            parameter = parameters[".".join(map(str, path))]
            own: dict[str, Any] = {}
            if path in bank.counts:
                own["step"] = _copy(bank.counts[path], None)
            for name, held in bank.slots.items():
                if path in held:
                    own[NATIVE[name]] = _copy(held[path], parameter.device)
            optimizer.state[parameter] = own


def _copy(value: Any, device: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().clone() if device is None else value.detach().clone().to(device)
