"""From one framework to another: names, layouts and arrays in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Literal

from surgery._errors import RuleError, StructureError
from surgery._files.files import realize, target_backend
from surgery._plans.plan import Plan, make_plan
from surgery._plans.recipes import Recipe
from surgery._plans.recipes import recipe as find_recipe
from surgery._training.state import TrainingState
from surgery._trees.modules import as_tree
from surgery._trees.registry import adapter
from surgery._types import Tree

TARGETS = ("linen", "nnx", "torch", "numpy")


def convert(
    source: Tree,
    to: str,
    *,
    recipe: str | FilePath | Recipe | None = None,
    like: Tree | None = None,
    config: Mapping[str, Any] | None = None,
    remainder: Tree | Literal[False] | None = None,
    lazy: bool = False,
) -> Tree:
    """Return a model's tree as another framework has it.

    Args:
        source: a tree, perhaps lazy, or a module.
        to: `"linen"` (the variables dict), `"nnx"` (a State), `"torch"` (a state_dict), or
            `"numpy"` (as the recipe goes, in numpy arrays).
        recipe: the conversion of the model's family, such as `"hf/bert"`, read in the
            direction that `to` asks for.
        like: a tree of the target, real or abstract: names, shapes and dtypes must agree
            with it, and its containers are used. Without a recipe, names must be equal.
        config: the model's config, where the recipe asks for it; a tree loaded from a
            folder knows its own.
        remainder: on the way back, what was lost on the way here.
        lazy: leave leaves of files unread.

    Raises:
        SurgeryError: the plan does not fit: every problem at once.

    >>> import numpy as np
    >>> tree = {f"{name}_embeddings.weight": np.ones((9, 2)) for name in ("word", "position", "token_type")}
    >>> tree |= {"LayerNorm.weight": np.ones(2), "LayerNorm.bias": np.ones(2)}
    >>> tree |= {"dense.weight": np.ones((3, 2)), "dense.bias": np.ones(3)}
    >>> convert(tree, "numpy", recipe="hf/bert")["params"]["dense"]["kernel"].shape
    (2, 3)
    """
    if isinstance(source, TrainingState):
        raise StructureError(
            "a training state cannot be converted as a whole", verb="convert", hint="convert its params"
        )
    made = conversion(source, to, recipe=recipe, like=like, config=config)
    tree = made.apply(as_tree(source), remainder=remainder)
    if not lazy:
        tree = realize(tree, "numpy" if to == "numpy" else to)
    return adapter(to).finish(tree, to) if to != "numpy" and like is None else tree


def conversion(
    source: Tree,
    to: str,
    *,
    recipe: str | FilePath | Recipe | None = None,
    like: Tree | None = None,
    config: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan of a conversion, checked and not applied."""
    if to not in TARGETS:
        raise RuleError(
            f"there is no target '{to}'", verb="convert", hint=f"one of {', '.join(map(repr, TARGETS))}"
        )
    target_backend(to)  # says now, and not after the work, that a library is missing
    tree = as_tree(source)
    if recipe is None:
        if like is None:
            raise RuleError(
                "without a recipe or a tree to be like, names and layouts cannot be known",
                verb="convert",
                hint=f"recipe='hf/bert', or like=...; only to change the arrays: realize(tree, '{to}')",
            )
        return make_plan([("**", "**")], tree, like, rest="error", verb="convert", config=config)
    if to == "nnx" and like is not None:
        raise RuleError(
            "like= compares with linen's names where a recipe leads to nnx",
            verb="convert",
            hint="convert without it, then sg.flax.update(module, state), which checks every place",
        )
    found = recipe if isinstance(recipe, Recipe) else find_recipe(recipe)
    found = towards(found, to)
    return make_plan(found, tree, like, rest="error", verb="convert", config=config)


def towards(found: Recipe, to: str) -> Recipe:
    """Return the recipe in the direction of a target.

    Raises:
        RuleError: it does not lead there.
    """
    family = {"nnx": "linen"}.get(to, to)
    if to == "numpy" or found.target in (None, family):
        return found
    if found.source == family:
        return found.reverse()
    raise RuleError(
        f"the recipe '{found.name}' does not lead to {to}",
        verb="convert",
        expected=to,
        found=f"{found.source} <-> {found.target}",
    )
