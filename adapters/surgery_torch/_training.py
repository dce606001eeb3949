"""A torch training loop's objects as a training state, and a state written back into them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import surgery as sg
from surgery.extend import (
    AdapterError,
    Bank,
    Parts,
    Problem,
    StructureError,
    TrainingState,
    Tree,
    backend_of,
    is_array,
    nearest,
    raise_problems,
    walk,
    without_wrappers,
)
from surgery_torch._arrays import TORCH
from surgery_torch._module import load_into
from surgery_torch._optim import NATIVE, algorithm_of, is_optimizer_dict, named

OPTIMIZER_KEYS = ("optimizer", "optimizer_state_dict", "optimizer_state", "opt")


def torch_parts(source: Any, names: Sequence[str] | None) -> Parts | None:
    """Return model and optimizer state of a live pair, a checkpoint, or a pair of trees."""
    if isinstance(source, tuple) and len(source) == 2:
        model, opt = source
        if isinstance(model, torch.nn.Module) and isinstance(opt, torch.optim.Optimizer):
            for group in opt.param_groups:
                algorithm_of(group, type(opt).__name__)
            if names is not None:
                _check_names(names, model, opt)
            return Parts(model.state_dict(), named(opt.state_dict(), names or live_names(model, opt)))
        if is_optimizer_dict(opt):
            return Parts(model, opt if names is None else named(opt, names))
        return None
    if not isinstance(source, Mapping):
        return None
    key = next((key for key in OPTIMIZER_KEYS if is_optimizer_dict(source.get(key))), None)
    if key is None:
        return None
    opt = source[key] if names is None else named(source[key], names)
    inside, _ = sg.unwrap(source, prefixes=False)
    model, _ = sg.unwrap(inside, inside=False)
    return Parts(model, opt if model is inside else _named_without_wrappers(opt, inside))


def _named_without_wrappers(opt: Mapping[str, Any], model: Tree) -> Mapping[str, Any]:
    """Take the wrapper keys of the model out of the names that the optimizer has for its parameters."""
    _, places = without_wrappers(walk(model))
    names = {".".join(map(str, old)): ".".join(map(str, new)) for old, new in places.items()}
    groups = [
        {**group, "param_names": [names.get(name, name) for name in group["param_names"]]}
        if "param_names" in group
        else group
        for group in opt["param_groups"]
    ]
    return {**opt, "param_groups": groups}


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


def _check_names(names: Sequence[str], module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise where a name is that of another parameter than the one that stands there: live ones are known."""
    known = dict(module.named_parameters(remove_duplicate=False))
    updated = [one for group in optimizer.param_groups for one in group["params"]]
    problems = [
        Problem(
            "the name is that of another parameter than the optimizer has there",
            name,
            expected=own,
            hint="leave names= out: live parameters are known without them",
            error=StructureError,
        )
        for name, one, own in zip(names, updated, live_names(module, optimizer), strict=False)
        if name in known and known[name] is not one
    ]
    raise_problems("TrainingState.of", problems)


def write_training(state: TrainingState, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write parameters, moments, counts and hyperparameters into live objects, by name.

    Moments keep their dtype, and are copied: the optimizer's own loading would cast
    them to the dtype of the parameters, and share memory with what it is given.

    Raises:
        StructureError: the optimizer is another, or has other groups than the state.
    """
    if state.slots is None:
        load_into(module, state.params)
        return
    live_names(module, optimizer)  # refuses an optimizer that updates what the module does not have
    banks = state.slots.banks
    members = _members(banks, module)
    _check_fit(banks, members, module, optimizer)
    load_into(module, state.params)
    for bank, parameters, group in zip(banks, members, optimizer.param_groups, strict=True):
        group.update({key: _copy(value) for key, value in bank.hyper.items()})
        for path, parameter in zip(bank.members, parameters, strict=True):
            own = _state_of(bank, path, parameter, group)
            optimizer.state.pop(parameter, None)  # without state is not the same as with an empty one
            if own:
                optimizer.state[parameter] = own
    # What torch's own loading does last: options that older states lack, step numbers made tensors.
    optimizer.__setstate__({"state": optimizer.state, "param_groups": optimizer.param_groups})


def _members(banks: Sequence[Bank], module: torch.nn.Module) -> list[list[torch.nn.Parameter]]:
    """Return the parameters that the banks name, whichever name of a tied one is used."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    texts = [[".".join(map(str, path)) for path in bank.members] for bank in banks]
    problems = [
        Problem(
            "the state has moments for a parameter that the module does not have",
            text,
            hint=nearest(text, parameters),
            error=StructureError,
        )
        for group in texts
        for text in group
        if text not in parameters
    ]
    raise_problems("write_into", problems)
    return [[parameters[text] for text in group] for group in texts]


def _check_fit(
    banks: Sequence[Bank],
    members: Sequence[Sequence[torch.nn.Parameter]],
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Raise unless the optimizer is one of the state's kind, over the same groups of real parameters."""
    name = type(optimizer).__name__
    for bank, group in zip(banks, optimizer.param_groups, strict=False):
        if algorithm_of(group, name) != bank.algorithm:
            raise StructureError(
                "the optimizer is of another kind than the state",
                verb="write_into",
                expected=f"{bank.algorithm}, as in {bank.id} of the state",
                found=name,
                hint="build the optimizer that the state was taken from",
            )
    names = {id(parameter): text for text, parameter in module.named_parameters()}
    wanted = {id(one): n for n, group in enumerate(members) for one in group}
    live = {id(one): n for n, group in enumerate(optimizer.param_groups) for one in group["params"]}
    problems = [
        Problem(
            "the optimizer groups its parameters in another way than the state",
            names[one],
            expected=f"group {wanted[one]}" if one in wanted else "in no group",
            found=f"group {live[one]}" if one in live else "in no group",
            hint="build the optimizer with the same groups",
            error=StructureError,
        )
        for one in dict.fromkeys([*wanted, *live])
        if wanted.get(one) != live.get(one)
    ]
    if not problems and len(banks) != len(optimizer.param_groups):
        found = f"{len(optimizer.param_groups)} groups"
        problems.append(
            Problem("the optimizer has another number of groups", None, f"{len(banks)} groups", found)
        )
    problems += [
        Problem(
            "the optimizer holds a meta parameter",
            names[id(one)],
            hint="load the module first, then build it",
        )
        for group in optimizer.param_groups
        for one in group["params"]
        if one.is_meta
    ]
    raise_problems("write_into", problems)


def _state_of(
    bank: Bank, path: Any, parameter: torch.nn.Parameter, group: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the state of one parameter, sharing memory with nothing."""
    own: dict[str, Any] = {}
    if path in bank.counts:
        on_device = group.get("capturable") or group.get("fused")
        own["step"] = _copy(bank.counts[path], parameter.device if on_device else None)
    for name, held in bank.slots.items():
        if path in held:
            own[NATIVE[name]] = _copy(held[path], parameter.device)
    return own


def _copy(value: Any, device: Any = None) -> Any:
    if not is_array(value):
        return value
    if not isinstance(value, torch.Tensor):
        return TORCH.from_numpy(backend_of(value).to_numpy(value).copy(), device=device)
    return value.detach().clone() if device is None else value.detach().to(device, copy=True)
