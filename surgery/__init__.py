"""Model surgery: one checked plan for parameters and optimizer state, in Flax and PyTorch.

    import surgery as sg

Every name below is loaded when it is first used; none of them imports a framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from surgery import ops as ops
    from surgery import testing as testing
    from surgery._errors import AdapterError as AdapterError
    from surgery._errors import FileError as FileError
    from surgery._errors import PathError as PathError
    from surgery._errors import RuleError as RuleError
    from surgery._errors import SpecError as SpecError
    from surgery._errors import StructureError as StructureError
    from surgery._errors import SurgeryError as SurgeryError
    from surgery._files.convert import convert as convert
    from surgery._files.files import load as load
    from surgery._files.files import realize as realize
    from surgery._files.files import save as save
    from surgery._files.format import FileTree as FileTree
    from surgery._plans.edit import rename as rename
    from surgery._plans.edit import transform as transform
    from surgery._plans.graft import graft as graft
    from surgery._plans.plan import Plan as Plan
    from surgery._plans.plan import plan as plan
    from surgery._plans.recipes import Recipe as Recipe
    from surgery._plans.recipes import recipe as recipe
    from surgery._plans.recipes import recipes as recipes
    from surgery._report import Report as Report
    from surgery._rules.rules import Rule as Rule
    from surgery._training.slots import Slots as Slots
    from surgery._training.slots import restore as restore
    from surgery._training.slots import slots as slots
    from surgery._training.state import TrainingState as TrainingState
    from surgery._trees.flat import Flat as Flat
    from surgery._types import Key as Key
    from surgery._types import Missing as Missing
    from surgery._types import Path as Path
    from surgery._types import TensorSpec as TensorSpec
    from surgery._types import Tree as Tree
    from surgery._verbs.diff import diff as diff
    from surgery._verbs.diff import equal as equal
    from surgery._verbs.merge import merge as merge
    from surgery._verbs.partition import label as label
    from surgery._verbs.partition import partition as partition
    from surgery._verbs.select import drop as drop
    from surgery._verbs.select import extract as extract
    from surgery._verbs.select import matches as matches
    from surgery._verbs.select import select as select
    from surgery._verbs.summary import summarize as summarize
    from surgery._verbs.tree import flatten as flatten
    from surgery._verbs.tree import map_with_path as map_with_path
    from surgery._verbs.tree import paths as paths
    from surgery._verbs.tree import spec as spec
    from surgery._verbs.tree import unflatten as unflatten
    from surgery._verbs.unwrap import unwrap as unwrap

_WHERE = {
    "_errors": "AdapterError FileError PathError RuleError SpecError StructureError SurgeryError",
    "_files.convert": "convert",
    "_files.files": "load realize save",
    "_files.format": "FileTree",
    "_plans.edit": "rename transform",
    "_plans.graft": "graft",
    "_plans.plan": "Plan plan",
    "_plans.recipes": "Recipe recipe recipes",
    "_report": "Report",
    "_rules.rules": "Rule",
    "_training.slots": "Slots restore slots",
    "_training.state": "TrainingState",
    "_trees.flat": "Flat",
    "_types": "Key Missing Path TensorSpec Tree",
    "_verbs.diff": "diff equal",
    "_verbs.merge": "merge",
    "_verbs.partition": "label partition",
    "_verbs.select": "drop extract matches select",
    "_verbs.summary": "summarize",
    "_verbs.tree": "flatten map_with_path paths spec unflatten",
    "_verbs.unwrap": "unwrap",
}
_HOME = {name: module for module, names in _WHERE.items() for name in names.split()}
_ROOMS = {"ops": "surgery.ops", "testing": "surgery.testing"}
_ADAPTERS = {"flax": "surgery_flax", "torch": "surgery_torch"}

__all__ = [
    "AdapterError",
    "FileError",
    "FileTree",
    "Flat",
    "Key",
    "Missing",
    "Path",
    "PathError",
    "Plan",
    "Recipe",
    "Report",
    "Rule",
    "RuleError",
    "Slots",
    "SpecError",
    "StructureError",
    "SurgeryError",
    "TensorSpec",
    "TrainingState",
    "Tree",
    "convert",
    "diff",
    "drop",
    "equal",
    "extract",
    "flatten",
    "graft",
    "label",
    "load",
    "map_with_path",
    "matches",
    "merge",
    "ops",
    "partition",
    "paths",
    "plan",
    "realize",
    "recipe",
    "recipes",
    "rename",
    "restore",
    "save",
    "select",
    "slots",
    "spec",
    "summarize",
    "testing",
    "transform",
    "unflatten",
    "unwrap",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"surgery.{_HOME[name]}"), name)
    elif name in _ROOMS or name in _ADAPTERS:
        value = import_module(_ROOMS.get(name) or _ADAPTERS[name])
    else:
        raise AttributeError(f"module 'surgery' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_ADAPTERS])
