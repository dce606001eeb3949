"""Writing a tree back into a live module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

import surgery as sg
from surgery.extend import Path, Problem, Report, SpecError, Tree, backend_of, raise_problems, spec_of
from surgery_torch._arrays import TORCH
from surgery_torch._state_dict import module_tree, non_persistent_buffers

EXTRA_STATE = "_extra_state"  # torch's name for what a module keeps beside its tensors


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

    Everything is read and checked before the first tensor is written. Parameters stay
    the objects they are, so ties, `requires_grad` and the optimizer's references hold.
    A meta tensor, and an expanded buffer, cannot be written to: a new one with its
    `requires_grad` takes its place under all of its names. Nothing shares memory with
    `tree` afterwards. Non-persistent buffers, which no state_dict holds, are kept
    unless `tree` has them.

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
    _refuse_unwritable(module, target)
    grafted, report = sg.graft(
        target,
        tree,
        at=at,
        donor_at=donor_at,
        rules=rules,
        missing=_keep_recomputed(module, missing),
        unexpected=unexpected,
        mismatched=mismatched,
    )
    _refuse_changes(target, grafted)
    tensors = _ready(target, grafted)
    _write_extra_state(module, target, grafted)
    with torch.no_grad():
        for name, new in tensors.items():
            if _is_writable(target[name]):
                target[name].copy_(new)
            else:
                _replace(module, target[name], new)
    return report


def _refuse_unwritable(module: nn.Module, target: Mapping[str, Any]) -> None:
    problems = []
    for name, old in target.items():
        if isinstance(old, UninitializedTensorMixin):
            text, hint = "a lazy module has no shape here yet", "run the module once on an input"
            problems.append(Problem(text, name, hint=hint, error=SpecError))
        elif isinstance(old, nn.Parameter) and not old.is_meta and not _is_writable(old):
            text, hint = (
                "torch cannot write to this parameter in place",
                "give the module a clone of it first",
            )
            problems.append(Problem(text, name, hint=hint, error=SpecError))
    raise_problems("load_into", problems, of=f"{len(target)} leaves of a {type(module).__name__}")


def _is_writable(tensor: torch.Tensor) -> bool:
    """Whether `copy_` into it works: it has memory, and each element its own."""
    expanded = any(step == 0 and size > 1 for step, size in zip(_strides(tensor), tensor.shape, strict=False))
    return not (tensor.is_meta or tensor.is_inference() or expanded)


def _strides(tensor: torch.Tensor) -> tuple[int, ...]:
    return tensor.stride() if tensor.layout is torch.strided else ()


def _keep_recomputed(module: nn.Module, missing: Any) -> Any:
    """Add to a policy that buffers which no state_dict holds keep what they have, unless they are on meta."""
    kept = {name: buffer for name, buffer in non_persistent_buffers(module).items() if not buffer.is_meta}
    if not kept or missing == "keep-target":
        return missing
    given = [("**", missing)] if isinstance(missing, str) else list(missing)
    return [*((tuple(name.split(".")), "keep-target") for name in kept), *given]


def _refuse_changes(target: Mapping[str, Any], grafted: Mapping[str, Any]) -> None:
    problems = []
    for name, old in target.items():
        if name not in grafted:
            problems.append(Problem("a policy drops what the module needs", name, error=SpecError))
        elif not _is_tensor(name, old):
            continue
        elif spec_of(grafted[name]) != spec_of(old):
            expected, found = str(spec_of(old)), str(spec_of(grafted[name]))
            text, hint = "a policy would change the module's own tensor", "change the module first"
            problems.append(Problem(text, name, expected, found, hint, SpecError))
        elif grafted[name] is not old and not backend_of(grafted[name]).holds_data(grafted[name]):
            hint = "load real tensors: these have a shape only"
            problems.append(Problem("the tree has no data", name, hint=hint, error=SpecError))
    extra = [name for name in grafted if name not in target]
    problems += [
        Problem("a policy adds what the module does not have", name, error=SpecError) for name in extra
    ]
    raise_problems("load_into", problems, of=f"{len(target)} leaves")


def _is_tensor(name: str, leaf: Any) -> bool:
    """Whether this is a parameter or a buffer; extra state is neither, even if it is a tensor."""
    return isinstance(leaf, torch.Tensor) and name.rpartition(".")[2] != EXTRA_STATE


def _ready(target: Mapping[str, Any], grafted: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors to write, by the first name of each tensor of the module, all of them read.

    What shares memory with the module is copied: writing one name would change what is
    still to be written to another.
    """
    own = {old.untyped_storage()._cdata for old in target.values() if _has_storage(old)}
    out: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, old in target.items():
        new = grafted[name]
        if not _is_tensor(name, old) or new is old or id(old) in seen:
            continue
        seen.add(id(old))
        backend = backend_of(new)
        if backend is not TORCH:
            out[name] = TORCH.from_numpy(backend.to_numpy(new), like=None if old.is_meta else old)
            borrowed = backend.name == "numpy"  # an array that torch can share; a file's is read afresh
        else:
            out[name] = new.detach()
            borrowed = True
        shared = _has_storage(new) and new.untyped_storage()._cdata in own
        if shared or (borrowed and not _is_writable(old)):
            out[name] = TORCH.copy(out[name])
    return out


def _has_storage(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided and not leaf.is_meta


def _write_extra_state(module: nn.Module, target: Mapping[str, Any], grafted: Mapping[str, Any]) -> None:
    """Set extra states first: they are the modules' own code, which may refuse what it is given."""
    done: list[tuple[nn.Module, Any]] = []
    for name, old in target.items():
        owner_name, _, attribute = name.rpartition(".")
        if attribute != EXTRA_STATE or grafted[name] is old:
            continue
        owner = module.get_submodule(owner_name)
        try:
            done.append((owner, old))
            owner.set_extra_state(grafted[name])
        except Exception as error:
            for changed, before in done[:-1]:
                changed.set_extra_state(before)
            raise SpecError(
                f"the module refuses its extra state: {type(error).__name__}: {error}",
                verb="load_into",
                path=name,
            ) from error


def _replace(module: nn.Module, old: torch.Tensor, new: torch.Tensor) -> None:
    """Put a new tensor in the place of one that cannot be written to, under all of its names."""
    ready = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is old:
                    held[name] = ready  # type: ignore[assignment]
