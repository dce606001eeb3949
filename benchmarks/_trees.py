"""Trees like those of real transformers: their names, their depth, distinct small arrays for leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

EMBEDDINGS = (
    "word_embeddings/embedding",
    "position_embeddings/embedding",
    "token_type_embeddings/embedding",
    "LayerNorm/scale",
    "LayerNorm/bias",
)
LAYER = (
    *(f"attention/self/{name}/{part}" for name in ("query", "key", "value") for part in ("kernel", "bias")),
    *(
        f"attention/output/{part}"
        for part in ("dense/kernel", "dense/bias", "LayerNorm/scale", "LayerNorm/bias")
    ),
    *(f"intermediate/dense/{part}" for part in ("kernel", "bias")),
    *(f"output/{part}" for part in ("dense/kernel", "dense/bias", "LayerNorm/scale", "LayerNorm/bias")),
)
HEAD = ("dense/kernel", "dense/bias", "LayerNorm/scale", "LayerNorm/bias")


def names(leaves: int) -> Iterator[tuple[str, ...]]:
    """The paths of a BERT of about that many leaves, in the layout of Hugging Face's Flax classes."""
    layers = max(1, (leaves - len(EMBEDDINGS) - len(HEAD)) // len(LAYER))
    for text in EMBEDDINGS:
        yield ("bert", "embeddings", *text.split("/"))
    for n in range(layers):
        for text in LAYER:
            yield ("bert", "encoder", "layer", str(n), *text.split("/"))
    for text in HEAD:
        yield ("cls", "predictions", "transform", *text.split("/"))


def transformer(leaves: int, first: int = 0) -> dict[str, Any]:
    """Nested dicts with a distinct array at every path."""
    root: dict[str, Any] = {}
    for n, (*parents, last) in enumerate(names(leaves), first):
        node = root
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = np.full(4, n, np.float32)
    return root


def adam_state(leaves: int) -> dict[str, Any]:
    """Parameters and Adam's state on them, of about that many leaves in all, in optax's own types."""
    import optax

    each = leaves // 3
    mu, nu = transformer(each, leaves), transformer(each, 2 * leaves)
    state = optax.ScaleByAdamState(np.zeros((), np.int32), mu, nu)
    return {"params": transformer(each), "opt_state": (state, optax.EmptyState())}


def every(tree: dict[str, Any], step: int) -> dict[str, Any]:
    """Nested dicts that hold a new array for every `step`-th leaf: a donor of 1 in `step` leaves."""
    import flax.traverse_util

    flat = flax.traverse_util.flatten_dict(tree)
    chosen = {path: leaf + 1 for n, (path, leaf) in enumerate(flat.items()) if n % step == 0}
    return flax.traverse_util.unflatten_dict(chosen)


RULES = (
    "bert/embeddings/word_embeddings/*",
    "bert/embeddings/*/embedding",
    "**/embeddings/LayerNorm/*",
    "**/attention/**/LayerNorm/bias",
    "**/attention/**/LayerNorm/*",
    "bert/**/LayerNorm/scale",
    "cls/**/kernel",
    "cls/**/LayerNorm/*",
    "cls/**",
    "bert/encoder/layer/0/**",
    "bert/encoder/layer/1/**/kernel",
    "bert/encoder/layer/*/attention/self/query/kernel",
    "bert/encoder/layer/*/attention/self/key/kernel",
    "bert/encoder/layer/*/attention/self/value/kernel",
    "*/*/layer/*/attention/self/*/bias",
    "**/attention/output/dense/*",
    "**/intermediate/dense/kernel",
    "bert/**/output/dense/kernel",
    "**/bias",
    "**",
)


def rules(count: int) -> list[tuple[str, str]]:
    """An ordered list of that many globs; where the tree has layers enough, all of them have work to do."""
    blocks = ("attention/self/**", "attention/output/**", "intermediate/**", "output/**")
    layers = [f"bert/encoder/layer/{n}/{block}?" for n in range(2, 60) for block in blocks]
    globs = [*layers[: count - len(RULES)], *(f"{glob}?" for glob in RULES)] if count > len(RULES) else RULES
    return [(glob, f"group {n}") for n, glob in enumerate(globs)]


def as_regex(glob: str) -> str:
    """The regular expression that a user would write for a glob."""
    text = glob.removesuffix("?").replace("**/", "\0").replace("**", "\1").replace("*", "[^/]*")
    return text.replace("\0", "(?:.*/)?").replace("\1", ".*")
