"""What a third party needs to teach the package another library, container or file format.

An adapter subclasses `Adapter` and is named in the entry-point group
`surgery.adapters`, under the root module that calls for it; a format subclasses
`Format` and is named in `surgery.formats`. `surgery.testing` holds the suites
that both must pass.
"""

from __future__ import annotations

from surgery._arrays.backend import Backend
from surgery._dtypes import DType, is_known, is_lossless, itemsize_in_memory, name_of, numpy_dtype
from surgery._errors import (
    AdapterError,
    FileError,
    PathError,
    Problem,
    RuleError,
    SpecError,
    StructureError,
    SurgeryError,
    nearest,
    raise_problems,
)
from surgery._files.atomic import replacing
from surgery._files.format import FileTree, Format
from surgery._files.leaves import FileLeaf, leaves_for_file
from surgery._ops.base import Box, Exactness, Op, Pull, SlotKind, register_op
from surgery._ops.lazy import Lazy
from surgery._paths.path import text_of
from surgery._report import Report, Row
from surgery._training.slots import Bank, Slots
from surgery._training.state import Parts, TrainingState
from surgery._trees.flat import Flat
from surgery._trees.registry import (
    API,
    Adapter,
    backend_of,
    find_backend,
    is_array,
    kind_of,
    register,
    spec_of,
    unregister,
)
from surgery._trees.structure import (
    BOX,
    Attributed,
    Family,
    NamedBox,
    Node,
    NodeKind,
    Structure,
    attributes_of,
    build,
    is_childless,
    same_aux,
)
from surgery._types import Key, Leaf, Missing, Move, Path, TensorSpec, Tree
from surgery._verbs.partition import REQUIRED
from surgery._verbs.partition import Rules as WhereRules
from surgery._verbs.tree import walk
from surgery._verbs.unwrap import without_wrappers

__all__ = [
    "API",
    "BOX",
    "Bank",
    "Adapter",
    "AdapterError",
    "Attributed",
    "Backend",
    "Box",
    "DType",
    "Exactness",
    "Family",
    "FileError",
    "FileLeaf",
    "FileTree",
    "Flat",
    "Format",
    "Key",
    "Lazy",
    "Leaf",
    "Missing",
    "Move",
    "NamedBox",
    "Node",
    "NodeKind",
    "Op",
    "Parts",
    "Path",
    "PathError",
    "Problem",
    "Pull",
    "REQUIRED",
    "Report",
    "Row",
    "RuleError",
    "SlotKind",
    "Slots",
    "SpecError",
    "Structure",
    "StructureError",
    "SurgeryError",
    "TensorSpec",
    "TrainingState",
    "Tree",
    "WhereRules",
    "attributes_of",
    "backend_of",
    "build",
    "find_backend",
    "is_childless",
    "is_array",
    "is_known",
    "is_lossless",
    "itemsize_in_memory",
    "kind_of",
    "leaves_for_file",
    "name_of",
    "nearest",
    "numpy_dtype",
    "raise_problems",
    "register",
    "register_op",
    "replacing",
    "same_aux",
    "spec_of",
    "text_of",
    "unregister",
    "walk",
    "without_wrappers",
]
