"""A training state: parameters, buffers and optimizer slots that are edited together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from surgery._errors import AdapterError, RuleError
from surgery._rules.stage import Kept, Stage
from surgery._training.slots import Slots, move_slots, restore, slots
from surgery._trees.flat import Flat
from surgery._trees.registry import adapters_in_use
from surgery._trees.structure import build
from surgery._types import Tree
from surgery._verbs.tree import walk


@dataclass(frozen=True)
class Parts:
    """What an adapter finds in a training loop's objects.

    Attributes:
        params: the tree that plans address: parameters, and torch's buffers.
        opt: the optimizer state in the adapter's own form, or None.
        rebuild: makes the loop's own object of new params and a new optimizer state.
        write: writes them into live objects, where there are such.
    """

    params: Tree
    opt: Any = None
    rebuild: Callable[[Tree, Any], Any] | None = None
    write: Callable[[TrainingState, Any, Any], None] | None = None


@dataclass(frozen=True)
class TrainingState:
    """Parameters and optimizer state under the same paths, so that one plan edits both.

    Attributes:
        weights: the parameters (and torch's buffers), flat.
        slots: the optimizer state in neutral form, or None without one.
    """

    weights: Flat = field(repr=False)
    slots: Slots | None
    parts: Parts = field(repr=False, compare=False)

    @classmethod
    def of(
        cls,
        source: Any = None,
        /,
        *,
        params: Tree | None = None,
        opt: Any = None,
        names: Sequence[str] | None = None,
    ) -> TrainingState:
        """Return the training state in a training loop's own objects.

        Args:
            source: a flax TrainState, a pair (torch module, torch optimizer), or the
                tree in a checkpoint file that holds a model and a torch optimizer.
            params, opt: instead of `source`, a tree of parameters and an optimizer state
                of optax or torch.
            names: for a torch state that does not name its parameters, their names in
                the order of its groups.

        Raises:
            AdapterError: nobody knows such objects, or whose moments these are cannot be
                told.

        >>> import jax.numpy as jnp, optax, surgery as sg
        >>> params = {"h_0": {"w": jnp.ones((2, 3))}, "h_1": {"w": jnp.ones((2, 3))}}
        >>> state = sg.TrainingState.of(params=params, opt=optax.adam(1e-3).init(params))
        >>> plan = sg.plan([("h_{i:int}/w", "h/w", sg.ops.stack(axis=0))], params)
        >>> plan.apply(state).opt[0].mu["h"]["w"].shape
        (2, 2, 3)
        """
        if (source is None) == (params is None):
            raise RuleError(
                "give either a training loop's objects, or params= and opt=", verb="TrainingState.of"
            )
        if source is None:
            found = next(
                (p for a in adapters_in_use() if (p := a.training((params, opt), names)) is not None), None
            )
            parts = found or Parts(params, opt)
        else:
            parts = _find_parts(source, names)
        weights = walk(parts.params)
        return cls(weights, None if parts.opt is None else slots(parts.opt, parts.params), parts)

    @property
    def params(self) -> Tree:
        """The parameters in their own containers."""
        return build(self.weights, self.weights.structure, verb="params")

    @property
    def opt(self) -> Any:
        """The optimizer state in its native form, or None."""
        return None if self.slots is None else restore(self.slots)

    @property
    def native(self) -> Any:
        """The training loop's own object, such as a flax TrainState, with what is here now."""
        if self.parts.rebuild is None:
            raise AdapterError(
                "this state was not made from one object", verb="native", hint="use .params and .opt"
            )
        return self.parts.rebuild(self.params, self.opt)

    def write_into(self, module: Any, optimizer: Any) -> None:
        """Write parameters and moments into a live torch module and optimizer, in place, by name."""
        write = next((a.write_training for a in adapters_in_use() if a.read(module) is not None), None)
        if write is None:
            raise AdapterError(f"a {type(module).__name__} is no module to write into", verb="write_into")
        write(self, module, optimizer)

    def edited(self, stages: Sequence[Stage], fresh: Any, remainder: Kept) -> TrainingState:
        """Return the state after the stages of a plan."""
        state = self
        for stage in stages:
            weights = stage.run(state.weights, verb="apply", remainder=remainder)
            moved = state.slots
            if moved is not None:
                moved = move_slots(moved, stage, weights.structure, fresh, weights)
            state = replace(state, weights=weights, slots=moved)
        return state


TrainingState.__module__ = "surgery"


def _find_parts(source: Any, names: Sequence[str] | None) -> Parts:
    for adapter in adapters_in_use():
        parts: Parts | None = adapter.training(source, names)
        if parts is not None:
            return parts
    raise AdapterError(
        f"a {type(source).__name__} is no training state that an adapter knows",
        verb="TrainingState.of",
        hint="a flax TrainState, (module, optimizer), a checkpoint with both, or params= and opt=",
    )
