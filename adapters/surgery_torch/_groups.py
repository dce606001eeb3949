"""Where-rules as torch wants them: parameter groups, and `requires_grad`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from surgery.extend import REQUIRED, Report, Row, RuleError, WhereRules, spec_of, walk


def param_groups(
    module: nn.Module, rules: Sequence[tuple[Any, Any]], options: Mapping[Any, Mapping[str, Any] | None]
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer, from the rules that label the parameters.

    Args:
        module: whose parameters are grouped, a tied one once, by its first name.
        rules: where-rules, as for `surgery.label`.
        options: label -> hyperparameters of that group; None leaves its parameters out.

    Returns:
        One group per label that is not left out, in the order of `options`, each with
        `params` as (name, parameter) pairs, so that the optimizer remembers names, and
        the label as `name`. Nothing is changed in the module: `freeze` does that.

    Raises:
        RuleError: a parameter matches no rule, a rule no parameter, a label has no
            options, or options have no such label.

    >>> import torch, surgery as sg
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 3))
    >>> groups = sg.torch.param_groups(net, [("0.**", "frozen"), ("**", "train")],
    ...                                {"train": {"lr": 5e-3}, "frozen": None})
    >>> torch.optim.Adam(groups).param_groups[0]["param_names"]
    ['1.weight', '1.bias']
    """
    labels = _labels(module, rules, "param_groups")
    known = {value for _, value in rules}
    unused = sorted(repr(label) for label in options if label not in known)
    if unused:
        hint = "a label in options= is one of the values in rules"
        raise RuleError(f"no rule gives the label {', '.join(unused)}", verb="param_groups", hint=hint)
    unknown = sorted({repr(label) for label in labels.values() if label not in options})
    if unknown:
        raise RuleError(
            f"no options are given for {', '.join(unknown)}",
            verb="param_groups",
            hint="options={label: {'lr': ...}, other_label: None}",
        )
    groups = []
    for label, given in options.items():
        if given is None:
            continue
        params = [(name, parameter) for name, parameter in module.named_parameters() if labels[name] == label]
        if params:
            groups.append({"params": params, "name": label, **given})
    return groups


def freeze(module: nn.Module, rules: Sequence[tuple[Any, Any]], *, train: Any = "train") -> Report:
    """Set `requires_grad` of every parameter by rules, in place.

    Args:
        module: changed in place.
        rules: where-rules; parameters whose value is `train` are trained, all others are
            frozen. The same list labels an optax tree.
        train: the value that means trainable.

    Returns:
        A report of what is trained and what is frozen, counting parameters.

    >>> import torch, surgery as sg
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 3))
    >>> print(sg.torch.freeze(net, [("0.**", "frozen"), ("**", "train")]))
    freeze: 9 of 19 parameters are trained
      frozen   0.weight  f32[2,4]
      frozen   0.bias    f32[2]
      trained  1.weight  f32[3,2]
      trained  1.bias    f32[3]
    """
    labels = _labels(module, rules, "freeze")
    rows: list[Row] = []
    trained = total = 0
    for name, parameter in module.named_parameters():
        wanted = labels[name] == train
        parameter.requires_grad_(wanted)
        trained += parameter.numel() if wanted else 0
        total += parameter.numel()
        rows.append(
            Row("trained" if wanted else "frozen", tuple(name.split(".")), after=str(spec_of(parameter)))
        )
    return Report("freeze", rows, sep=".", title=f"{trained:,} of {total:,} parameters are trained")


def _labels(module: nn.Module, rules: Sequence[tuple[Any, Any]], verb: str) -> dict[str, Any]:
    """Return the label of each parameter, under every name that it has."""
    named = OrderedDict(module.named_parameters(remove_duplicate=False))
    if not named:
        raise RuleError("the module has no parameters", verb=verb)
    vars(named)["_metadata"] = {}  # so that it is read as the state_dict that it is part of
    labels = WhereRules(rules, REQUIRED, verb).labels(walk(named))
    return {".".join(map(str, path)): label for path, label in labels.items()}
