"""The containers of flax, and any other pytree that is registered with jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from surgery.extend import BOX, Family, Key, SpecError, Tree


def one_level(node: Any) -> tuple[list[tuple[Key, Tree]], Any]:
    """Return the children of a registered pytree by key, and the treedef that builds it again."""
    found, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    keys = [_key(path[0]) for path, _ in found]
    if len(set(keys)) < len(keys):  # jax lets two children have one key; here each has a place of its own
        keys = list(range(len(keys)))
    return [(key, child) for key, (_, child) in zip(keys, found, strict=True)], treedef


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
        return type(node), node._dict  # unfreeze() sorts the keys, and fails where they cannot be sorted

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


@dataclass(frozen=True, slots=True)
class BoxAux:
    """What a box is apart from its child.

    Attributes:
        treedef: builds the box again.
        rank: the number of axes that the child had, None where it is no array.
    """

    treedef: Any
    rank: int | None = field(compare=False)

    def with_child(self, child: Any) -> Any:
        """Return the box around another child. No `__init__` runs, and no hook."""
        return jax.tree_util.tree_unflatten(self.treedef, [child])


class Boxed:
    """One child with static metadata around it, through jax's own treedef.

    nnx Variables must be rebuilt so: making a new one runs hooks, and fails outside a
    mesh where the metadata names axes.
    """

    family: Family = "box"

    def __init__(self, cls: type) -> None:
        self.name = cls.__name__

    def open(self, node: Any) -> tuple[BoxAux, dict[Key, Tree]]:
        (child,), treedef = jax.tree_util.tree_flatten(node, is_leaf=lambda x: x is not node)
        return BoxAux(treedef, _rank(child)), {BOX: child}

    def close(self, aux: BoxAux, children: dict[Key, Tree]) -> Any:
        child = children[BOX]
        rank = _rank(child)
        if None not in (rank, aux.rank) and rank != aux.rank:
            names = self.axis_names(aux)
            if names is not None:
                raise SpecError(
                    f"a {self.name} names {len(names)} axes of an array that has {rank}",
                    expected=f"names {names}",
                    found=f"shape {list(child.shape)}",
                    hint="change the axes with an op, which carries the names along",
                )
        return aux.with_child(child)

    def axis_names(self, aux: BoxAux) -> tuple[Any, ...] | None:
        return None

    def with_axis_names(self, aux: BoxAux, names: tuple[Any, ...]) -> BoxAux:
        return aux


def _rank(child: Any) -> int | None:
    rank = getattr(child, "ndim", None)
    return rank if type(rank) is int else None


def _per_axis(names: Any, rank: int | None) -> tuple[Any, ...]:
    """Return one name per axis. As in a PartitionSpec, axes at the end may go without.

    Raises:
        SpecError: there are more names than axes.
    """
    found = tuple(names)
    if rank is not None and len(found) > rank:
        raise SpecError(f"a box names {len(found)} axes of an array that has {rank}", found=f"names {found}")
    return found if rank is None else (*found, *(None,) * (rank - len(found)))


class PartitionedBox(Boxed):
    """linen's Partitioned and its kin, which name the axes of the array in them."""

    def axis_names(self, aux: BoxAux) -> tuple[Any, ...] | None:
        names = aux.with_child(None).names
        return None if names is None else _per_axis(names, aux.rank)

    def with_axis_names(self, aux: BoxAux, names: tuple[Any, ...]) -> BoxAux:
        old = aux.with_child(0)
        new = old.replace(names=_like(old.names, names))
        return BoxAux(jax.tree_util.tree_structure(new), len(names))


class VariableBox(Boxed):
    """nnx Variables. Their metadata may name axes too, under one of several keys."""

    keys = ("out_sharding", "sharding_names", "sharding", "optimizer_sharding")

    def _named(self, aux: BoxAux) -> dict[str, Any]:
        metadata = aux.with_child(None).get_metadata()
        kinds = (tuple, PartitionSpec, NamedSharding)
        return {key: metadata[key] for key in self.keys if isinstance(metadata.get(key), kinds)}

    def axis_names(self, aux: BoxAux) -> tuple[Any, ...] | None:
        found = {
            key: _per_axis(names.spec if isinstance(names, NamedSharding) else names, aux.rank)
            for key, names in self._named(aux).items()
        }
        if len(set(found.values())) > 1:
            raise SpecError(
                f"a {self.name} names its axes in two ways", found=f"{found}", hint="take one of them off"
            )
        return next(iter(found.values()), None)

    def with_axis_names(self, aux: BoxAux, names: tuple[Any, ...]) -> BoxAux:
        variable = aux.with_child(0)
        variable.set_metadata(**{key: _like(old, names) for key, old in self._named(aux).items()})
        return BoxAux(jax.tree_util.tree_structure(variable), len(names))


def _like(old: Any, names: tuple[Any, ...]) -> Any:
    """Return names in the type in which they were given."""
    if not isinstance(old, (PartitionSpec, NamedSharding)):
        return names
    spec = PartitionSpec(*names)  # type: ignore[no-untyped-call]
    return (
        spec if isinstance(old, PartitionSpec) else NamedSharding(old.mesh, spec, memory_kind=old.memory_kind)
    )
