"""What the core must know of jax, flax and optax: containers, arrays, modules."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import jax

from surgery.extend import API, Adapter, Backend, Flat, Leaf, NodeKind, Parts, Slots, Tree
from surgery_flax._arrays import ABSTRACT, JAX
from surgery_flax._nodes import Boxed, Frozen, PartitionedBox, Registered, State, VariableBox
from surgery_flax._optax import is_optax_state, optax_slots


class FlaxAdapter(Adapter):
    """jax arrays and pytrees; flax and optax where they are imported."""

    name = "flax"
    api = API
    install = "pip install 'model-surgery[flax]'"
    targets = ("jax", "flax", "linen", "nnx")

    def kind(self, node: Any, /) -> NodeKind | None:
        cls = type(node)
        if isinstance(node, (jax.Array, jax.ShapeDtypeStruct)):
            return None
        flax_kind = _flax_kind(node)
        if flax_kind is not None:
            return flax_kind
        plain = isinstance(node, (dict, Mapping, list, tuple)) and not is_dataclass(node)
        if plain or _is_nnx_module(node) or jax.tree_util.all_leaves([node]):
            return None
        return Registered(cls)

    def backend(self, leaf: Leaf, /) -> Backend | None:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return ABSTRACT
        return JAX if isinstance(leaf, jax.Array) else None

    def target(self, name: str, /) -> Backend:
        return JAX

    def slots(self, opt_state: Any, params: Flat, /) -> Slots | None:
        return optax_slots(opt_state, params) if is_optax_state(opt_state) else None

    def finish(self, tree: Tree, target: str, /) -> Tree:
        if target != "nnx":
            return tree
        from surgery_flax._nnx import from_linen

        return from_linen(tree)

    def training(self, source: Any, names: Sequence[str] | None, /) -> Parts | None:
        if "flax.nnx" in sys.modules:
            from surgery_flax._nnx import nnx_parts

            found = nnx_parts(source)
            if found is not None:
                return found
        module = sys.modules.get("flax.training.train_state")
        if module is None or not isinstance(source, module.TrainState):
            return None
        return Parts(
            source.params, source.opt_state, lambda params, opt: source.replace(params=params, opt_state=opt)
        )

    def write_training(self, state: Any, module: Any, optimizer: Any, /) -> None:
        from surgery_flax._nnx import write_nnx

        write_nnx(state, module, optimizer)

    def is_optimizer_state(self, tree: Any, /) -> bool:
        return is_optax_state(tree) or _is_of_an_nnx_optimizer(tree)

    def read(self, obj: Any, /) -> Tree | None:
        if not _is_nnx_module(obj):
            return None
        from flax import nnx

        return nnx.state(obj)

    def editable(self, obj: Any, /) -> str | None:
        if _is_nnx_module(obj):
            return "nnx.state(module)"
        linen = sys.modules.get("flax.linen")
        if linen is not None and isinstance(obj, linen.Module):
            return "module.init(...), or module.variables of a bound one"
        return None


def _flax_kind(node: Any) -> NodeKind | None:
    """The kinds that only exist where flax is imported."""
    cls = type(node)
    core, nnx = sys.modules.get("flax.core"), sys.modules.get("flax.nnx")
    if core is not None:
        if isinstance(node, core.FrozenDict):
            return Frozen()
        if isinstance(node, core.meta.AxisMetadata) and not jax.tree_util.all_leaves([node]):
            return PartitionedBox(cls) if hasattr(node, "names") else Boxed(cls)
    if nnx is not None:
        if isinstance(node, nnx.State):
            return State()
        if isinstance(node, nnx.Variable) or cls.__name__ == "VariableState":
            return VariableBox(cls)
    return None


def _is_of_an_nnx_optimizer(node: Any) -> bool:
    """Whether this is a Variable of `nnx.state(optimizer)`, where the classes of optax are gone."""
    nnx = sys.modules.get("flax.nnx")
    kinds = getattr(sys.modules.get("flax.nnx.training.optimizer"), "OptState", ())
    return nnx is not None and isinstance(node, kinds)


def _is_nnx_module(obj: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(obj, nnx.Module)


ADAPTER = FlaxAdapter()
