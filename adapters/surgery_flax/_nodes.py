"""The containers of flax, and any other pytree that is registered with jax."""

from __future__ import annotations

from typing import Any

import jax

from surgery.extend import BOX, Family, Key, SpecError, Tree


def one_level(node: Any) -> tuple[list[tuple[Key, Tree]], Any]:
    """Return the children of a registered pytree by key, and the treedef that builds it again."""
    found, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return [(_key(path[0]), child) for path, child in found], treedef


def _key(entry: Any) -> Key:
    for name in ("name", "key", "idx"):
        if hasattr(entry, name):
            key: Key = getattr(entry, name)
            return key
    return str(entry)


class Registered:
    """A pytree class registered with jax; static data travels in its treedef."""

    family: Family = "fields"

    def __init__(self, cls: type) -> None:
        self.name = cls.__name__

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        children, treedef = one_level(node)
        return treedef, dict(children)

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        return jax.tree_util.tree_unflatten(aux, list(children.values()))


class Frozen:
    """flax's FrozenDict. Inside it keeps plain dicts, and so does its treedef."""

    name = "FrozenDict"
    family: Family = "mapping"

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        return type(node), node.unfreeze()

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        return aux(children)


class State:
    """nnx.State: a mapping over nested plain dicts with int and str keys."""

    name = "State"
    family: Family = "mapping"

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        return type(node), dict(node.raw_mapping)

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        return aux(children)


class Boxed:
    """One child with static metadata around it, through jax's own treedef.

    nnx Variables must be rebuilt so: making a new one runs hooks, and fails outside a
    mesh where the metadata names axes.
    """

    family: Family = "box"
    fields: tuple[str, ...] = ()

    def __init__(self, cls: type) -> None:
        self.name = cls.__name__

    def open(self, node: Any) -> tuple[Any, dict[Key, Tree]]:
        leaves, treedef = jax.tree_util.tree_flatten(node, is_leaf=lambda x: x is not node)
        return treedef, {BOX: leaves[0]}

    def close(self, aux: Any, children: dict[Key, Tree]) -> Any:
        box = jax.tree_util.tree_unflatten(aux, [children[BOX]])
        names = self.axis_names(aux)
        rank = getattr(children[BOX], "ndim", None)
        if names is not None and rank is not None and rank != len(names):
            raise SpecError(
                f"a {self.name} names {len(names)} axes of an array that has {rank}",
                expected=f"names {names}",
                found=f"shape {list(children[BOX].shape)}",
                hint="change the axes with an op, which carries the names along",
            )
        return box

    def axis_names(self, aux: Any) -> tuple[Any, ...] | None:
        return None

    def with_axis_names(self, aux: Any, names: tuple[Any, ...]) -> Any:
        return aux


class PartitionedBox(Boxed):
    """linen's Partitioned and its kin, which name the axes of the array in them."""

    def axis_names(self, aux: Any) -> tuple[Any, ...] | None:
        names = jax.tree_util.tree_unflatten(aux, [None]).names
        return None if names is None else tuple(names)

    def with_axis_names(self, aux: Any, names: tuple[Any, ...]) -> Any:
        box = jax.tree_util.tree_unflatten(aux, [0]).replace(names=names)
        return jax.tree_util.tree_structure(box)


class VariableBox(Boxed):
    """nnx Variables. Their metadata may name axes too, under one of several keys."""

    keys = ("out_sharding", "sharding_names", "sharding")

    def _find(self, aux: Any) -> tuple[str, tuple[Any, ...]] | None:
        metadata = jax.tree_util.tree_unflatten(aux, [None]).get_metadata()
        for key in self.keys:
            names = metadata.get(key)
            if isinstance(names, tuple):
                return key, names
        return None

    def axis_names(self, aux: Any) -> tuple[Any, ...] | None:
        found = self._find(aux)
        return None if found is None else found[1]

    def with_axis_names(self, aux: Any, names: tuple[Any, ...]) -> Any:
        found = self._find(aux)
        if found is None:
            return aux
        variable = jax.tree_util.tree_unflatten(aux, [0])
        variable.set_metadata(**{found[0]: names})
        return jax.tree_util.tree_structure(variable)
