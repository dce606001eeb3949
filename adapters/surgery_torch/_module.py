"""Writing a tree back into a live module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import surgery as sg
from surgery.extend import Path, Report, SpecError, Tree, find_backend
from surgery_torch._state_dict import module_tree


def load_into(
    module: nn.Module,
    tree: Tree,
    *,
    at: str | Path = (),
    donor_at: str | Path = (),
    rules: Any = None,
    missing: Any = "error",
    unexpected: Any = "error",
    mismatched: Any = "error",
) -> Report:
    """Write a tree into a module, in place. Arguments and errors are those of `surgery.graft`.

    Everything is checked before the first tensor is written. Parameters stay the
    objects they are, so ties, `requires_grad` and the optimizer's references hold.
    A meta parameter cannot be written to: it is replaced, under all of its names,
    by a new one with its `requires_grad`.

    A buffer that no state_dict holds keeps what it has where the tree does not fill
    it; on the meta device it has nothing to keep, and that is an error.

    A policy can keep what the module has, never change its shape; `"drop"` and
    `"keep-source"` are refused. A narrowing dtype is refused too: torch's own
    loading would round without a word.

    Returns:
        The report of the graft.

    >>> import torch, surgery as sg
    >>> module = torch.nn.Linear(2, 1)
    >>> print(sg.torch.load_into(module, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}))
    graft: 2 loaded, 0 cast, 0 tied, 0 missing, 0 unexpected, 0 mismatched
      loaded  weight  f32[1,2]
      loaded  bias    f32[1]
    """
    target = module_tree(module)
    grafted, report = sg.graft(
        target,
        tree,
        at=at,
        donor_at=donor_at,
        rules=rules,
        missing=_with_unsaved(module, target, missing),
        unexpected=unexpected,
        mismatched=mismatched,
    )
    _refuse_changes(target, grafted)
    replaced: dict[int, nn.Parameter | torch.Tensor] = {}
    with torch.no_grad():
        for name, old in target.items():
            if grafted[name] is not old:
                _write(module, name, old, grafted[name], replaced)
    return report


def _with_unsaved(module: nn.Module, target: dict[str, Any], missing: Any) -> Any:
    """Let buffers that no state_dict holds keep their values, behind what the caller says of them."""
    saved = module.state_dict().keys()
    keep = [
        (tuple(name.split(".")), "keep-target")
        for name, tensor in target.items()
        if name not in saved and not tensor.is_meta
    ]
    if not keep:
        return missing
    return [*keep, ("**", missing)] if isinstance(missing, str) else [*missing, *keep]


def _refuse_changes(target: dict[str, Any], grafted: dict[str, Any]) -> None:
    for name, old in target.items():
        if name not in grafted:
            raise SpecError("a policy drops what the module needs", verb="load_into", path=name)
        new = grafted[name]
        if isinstance(old, torch.Tensor) and (new.shape != old.shape or new.dtype != old.dtype):
            raise SpecError(
                "a policy would change the module's own tensor",
                verb="load_into",
                path=name,
                expected=f"{old.dtype} {list(old.shape)}",
                found=f"{new.dtype} {list(new.shape)}",
                hint="change the module first, then load into it",
            )
    extra = [name for name in grafted if name not in target]
    if extra:
        raise SpecError("a policy adds what the module does not have", verb="load_into", path=extra[0])


def _write(
    module: nn.Module, name: str, old: Any, new: Any, replaced: dict[int, nn.Parameter | torch.Tensor]
) -> None:
    owner_name, _, attribute = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if attribute == "_extra_state":
        owner.set_extra_state(new)
    elif not old.is_meta:
        old.copy_(new)
    else:
        if id(old) not in replaced:
            real = find_backend(new) is not None and isinstance(new, torch.Tensor)
            tensor = new if real else torch.as_tensor(new)
            is_parameter = isinstance(old, nn.Parameter)
            replaced[id(old)] = nn.Parameter(tensor, old.requires_grad) if is_parameter else tensor
        setattr(owner, attribute, replaced[id(old)])
