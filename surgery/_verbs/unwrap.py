"""The model inside a checkpoint: through the wrappers that training loops put around it."""

from __future__ import annotations

from collections.abc import Mapping

from surgery._paths.path import text_of
from surgery._report import Report, Row
from surgery._trees.flat import Flat
from surgery._trees.joined import separator
from surgery._trees.modules import editable
from surgery._trees.registry import is_array, kind_of, spec_of
from surgery._trees.restructure import ordered_paths, restructure
from surgery._trees.structure import build
from surgery._types import Key, Move, Path, Tree
from surgery._verbs.tree import walk

# Keys under which training loops keep the model, the likeliest first. The second list are
# ordinary names of submodules too: they count only beside something else, or around joined names.
MODEL_KEYS = ("state_dict", "model_state_dict", "model_state")
WEAK_KEYS = ("model", "module", "net", "network", "params")
# Copies of the model that an average made: never taken silently.
AVERAGES = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema")
# What surely belongs to a checkpoint and not to a model.
BESIDE = (
    "optimizer",
    "optimizer_state_dict",
    "optimizer_state",
    "optimizer_states",
    "opt_state",
    "scheduler",
    "lr_scheduler",
    "lr_schedulers",
    "epoch",
    "step",
    "global_step",
    "hyper_parameters",
    "config",
    "args",
    "callbacks",
    "loops",
    "pytorch-lightning_version",
)
# Keys that wrappers insert. The private ones go wherever they stand; `module` is a legal
# name of a real submodule, and goes only if every path begins with it.
PRIVATE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
PUBLIC = ("module",)


def unwrap(tree: Tree, *, inside: bool = True, prefixes: bool = True) -> tuple[Tree, Report]:
    """Return the model inside a checkpoint, without wrapper keys, and a report of what was taken.

    Looks through keys such as `state_dict` and `model`, then takes away `_orig_mod`,
    `_fsdp_wrapped_module` and their like wherever they stand, and `module` where
    every path begins with it. A tree without any of it is returned as it is.

    Args:
        tree: what a file held.
        inside: look through the keys of checkpoints.
        prefixes: take wrapper keys away.

    >>> import numpy as np
    >>> w, b = np.ones((2, 3)), np.ones(3)
    >>> tree, report = unwrap({"epoch": 3, "model": {"module.fc.weight": w, "module.fc.bias": b}})
    >>> list(tree)
    ['fc.weight', 'fc.bias']
    >>> print(report)
    unwrap: took 'model', stripped 'module' from 2 leaves
      left out  epoch  i64[]
    """
    tree = editable(tree, "unwrap")
    took: list[Key] = []
    rows: list[Row] = []
    notes: list[str] = []
    while inside and (key := _model_key(tree)) is not None:
        children = _children(tree)
        averages = [name for name in AVERAGES if name in children]
        if averages:
            notes.append(
                f"there is an average too: extract(tree, '{text_of((*took, averages[0]))}') takes it"
            )
        for path, leaf in walk({name: child for name, child in children.items() if name != key}).items():
            rows.append(Row("left out", (*took, *path), before=str(spec_of(leaf))))
        took.append(key)
        tree = children[key]
    stripped, tree = _strip(tree, notes) if prefixes else ({}, tree)
    done = [f"took '{text_of(tuple(took))}'"] if took else []
    done += [f"stripped '{name}' from {count} leaves" for name, count in stripped.items()]
    return tree, Report("unwrap", rows, notes=notes, title=", ".join(done) or "nothing to take off")


def _children(tree: Tree) -> Mapping[Key, Tree]:
    kind = kind_of(tree)
    return kind.open(tree)[1] if kind is not None and kind.family in ("mapping", "fields") else {}


def _model_key(tree: Tree) -> Key | None:
    """Return the key of the model, if this is a checkpoint around one."""
    children = _children(tree)
    for key in (*MODEL_KEYS, *WEAK_KEYS):
        if key not in children or not _has_arrays(children[key]) or kind_of(children[key]) is None:
            continue
        others = [name for name in children if name != key]
        beside = [name for name in others if name in BESIDE and not is_array(children[name])]
        parts = [name for name in others if name not in (*BESIDE, *AVERAGES) and _has_arrays(children[name])]
        if parts and not beside:
            continue  # a model of several parts, of which one happens to have this name
        if key in MODEL_KEYS or others or separator(_children(children[key])) is not None:
            return key
    return None


def _has_arrays(tree: Tree) -> bool:
    return any(is_array(leaf) for leaf in walk(tree).values())


def _strip(tree: Tree, notes: list[str]) -> tuple[dict[str, int], Tree]:
    flat = walk(tree)
    counts, place = without_wrappers(flat)
    if not counts:
        return {}, tree
    if len({place[path] for path in flat}) < len(flat):
        shown = " and ".join(f"'{name}'" for name in counts)
        stay = "stays: without it" if len(counts) == 1 else "stay: without them"
        notes.append(f"{shown} {stay} two leaves would have one name")
        return {}, tree
    moves: list[Move] = list(place.items())
    structure = restructure(flat.structure, moves, verb="unwrap")
    return counts, build({place[path]: leaf for path, leaf in flat.items()}, structure, verb="unwrap")


def without_wrappers(flat: Flat) -> tuple[dict[str, int], dict[Path, Path]]:
    """Return how many leaves have each wrapper key, and each path without them."""
    counts: dict[str, int] = {}
    place: dict[Path, Path] = {path: path for path in ordered_paths(flat, flat.structure)}
    for name in PRIVATE:
        hit = [path for path in place if name in place[path]]
        if hit:
            counts[name] = sum(path in flat for path in hit)
            place.update({path: tuple(key for key in place[path] if key != name) for path in hit})
    for name in PUBLIC:
        while flat and all(place[path][:1] == (name,) and len(place[path]) > 1 for path in flat):
            counts[name] = len(flat)
            place = {path: at[1:] if at[:1] == (name,) else at for path, at in place.items()}
    return counts, place
