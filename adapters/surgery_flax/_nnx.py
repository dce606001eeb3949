"""nnx models: written back into in place, trained with `nnx.Optimizer`, made of linen variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flax import nnx

import surgery as sg
from surgery.extend import (
    AdapterError,
    Parts,
    Path,
    Problem,
    Report,
    RuleError,
    StructureError,
    Tree,
    raise_problems,
    text_of,
    walk,
)


def update(
    module: Any,
    tree: Tree,
    *,
    at: str | Path = (),
    donor_at: str | Path = (),
    rules: Any = None,
    missing: Any = "error",
    unexpected: Any = "error",
    mismatched: Any = "error",
) -> Report:
    """Write a tree into an nnx module or optimizer, in place. Arguments and errors are those of `surgery.graft`.

    `nnx.update` makes a new attribute of an unknown name and takes any shape; here
    everything is checked before the first value is set. Variables stay the objects
    they are, so names that share one go on sharing it.

    Returns:
        The report of the graft.

    Raises:
        StructureError: places would come or go, or change shape or dtype.

    >>> import jax.numpy as jnp, surgery as sg
    >>> from flax import nnx
    >>> module = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    >>> print(sg.flax.update(module, {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}))
    graft: 2 loaded, 0 cast, 0 tied, 0 missing, 0 unexpected, 0 mismatched
      loaded  bias    f32[1]
      loaded  kernel  f32[2,1]
    """
    state, report = _grafted(
        module,
        tree,
        at=at,
        donor_at=donor_at,
        rules=rules,
        missing=missing,
        unexpected=unexpected,
        mismatched=mismatched,
    )
    nnx.update(module, state)
    return report


def _grafted(module: Any, tree: Tree, **how: Any) -> tuple[Any, Report]:
    """Return the state of a module with a tree grafted into it, if the module can take it as it is."""
    state = nnx.state(module)
    grafted, report = sg.graft(state, tree, **how)
    problems = [
        Problem(
            f"a live module cannot have it {row.status}" if row.status in ("removed", "added") else _CHANGED,
            text_of(row.path),
            expected=row.before or None,
            found=row.after or None,
            hint="build a module of the new structure, and update that",
            error=StructureError,
        )
        for row in sg.diff(state, grafted)
        if row.status != "value"
    ]
    raise_problems("update", problems)
    return grafted, report


_CHANGED = "a live module would compute with something else here"


@dataclass(frozen=True)
class NnxParts(Parts):
    """What a model and its optimizer hold.

    Attributes:
        step: the optimizer's own count, apart from those of optax.
    """

    step: Any = None


def nnx_parts(source: Any) -> Parts | None:
    """Return what `(model, optimizer)` hold: the variables that the optimizer updates, and its state."""
    if isinstance(source, nnx.Optimizer):
        model = getattr(source, "model", None)
        if model is None:
            raise AdapterError(
                "an nnx.Optimizer does not hold its model",
                verb="TrainingState.of",
                hint="TrainingState.of((model, optimizer))",
            )
        source = (model, source)
    if not (isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], nnx.Optimizer)):
        return None
    model, optimizer = source
    return NnxParts(nnx.state(model, optimizer.wrt), optimizer.opt_state, step=optimizer.step[...])


def write_nnx(state: Any, module: Any, optimizer: Any) -> None:
    """Write parameters and moments into a live model and its optimizer.

    What else the model holds (batch statistics, random keys) stays as it is. Everything
    is checked before the first value is set.

    Raises:
        SurgeryError: they have other places, shapes or dtypes.
    """
    if not isinstance(optimizer, nnx.Optimizer):
        raise RuleError(
            f"a {type(optimizer).__name__} is no nnx.Optimizer",
            verb="write_into",
            hint="write_into(model, optimizer)",
        )
    trained = walk(nnx.state(module, optimizer.wrt))
    others = [(path, "keep-target") for path in walk(nnx.state(module)) if path not in trained]
    model_state, _ = _grafted(module, state.params, missing=others)
    own = {"opt_state": state.opt}
    step = getattr(state.parts, "step", None)
    if step is not None:
        own["step"] = step
    kept: list[tuple[str, str]] = [] if step is not None else [("step", "keep-target")]
    if getattr(optimizer, "model", None) is not None:
        kept.append(("model/**", "keep-target"))
    optimizer_state, _ = _grafted(optimizer, own, missing=kept)
    nnx.update(optimizer, optimizer_state)
    nnx.update(module, model_state)


# What linen keeps in a collection of this name, nnx keeps in Variables of this type.
COLLECTIONS: dict[str, Any] = {
    "params": nnx.Param,
    "batch_stats": nnx.BatchStat,
    "cache": nnx.Cache,
    "intermediates": nnx.Intermediate,
}


def from_linen(variables: Tree) -> Any:
    """Return the variables of a linen model as an nnx State: collections become types of Variable.

    Names that are numbers become int keys, as those of layers in an `nnx.List`.

    Raises:
        StructureError: a collection has no such type, or two hold one place.
    """
    problems: list[Problem] = []
    out: dict[Any, Any] = {}
    flat = walk(variables)
    for path, leaf in flat.items():
        if any(node.kind.family == "box" for node in flat.structure.get(path, ())):
            text = "the metadata of a box would be lost"
            hint = "take the boxes off first: flax.core.meta.unbox(variables)"
            problems.append(Problem(text, text_of(path), hint=hint, error=StructureError))
            continue
        kind = COLLECTIONS.get(str(path[0])) if path else None
        if kind is None or len(path) < 2:
            text = "nnx has no type of Variable for this collection"
            problems.append(
                Problem(text, text_of(path), f"one of {', '.join(COLLECTIONS)}", error=StructureError)
            )
            continue
        *above, name = (int(key) if str(key).isdecimal() else key for key in path[1:])
        node: Any = out
        for key in above:
            node = node.setdefault(key, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name in node:
            problems.append(
                Problem("two collections hold one place", text_of(path[1:]), error=StructureError)
            )
            continue
        node[name] = kind(leaf)
    raise_problems("convert", problems)
    return nnx.State(out)
