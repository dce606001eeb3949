"""Parts 1 and 2: a trained PyTorch checkpoint becomes Flax parameters, and comes back."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import surgery as sg
from bert_flax import Bert, BertConfig, mean_of_tokens
from demo_page import check, heading, say, surgery, table
from sentences import Tokens, minilm, to_rank, tokens, torch_embeddings

TOLERANCE = 1e-5  # of unit vectors in float32
NEAREST = 3


def there(out: Path) -> None:
    """Convert with the command, and embed real sentences with both models."""
    heading("1. A PyTorch checkpoint becomes Flax parameters")
    flax_file = out / "minilm.msgpack"
    report = surgery("convert", minilm(), flax_file, "--to", "linen", "--recipe", "hf/bert", "--force")
    show(report, 8)

    sentences = to_rank()
    batch = tokens(sentences)
    expected = torch_embeddings(batch)
    found = flax_embeddings(flax_file, batch)
    difference = float(np.abs(found - expected).max())
    say(
        f"\n{len(sentences)} sentences, embedded by transformers' BertModel and by ours (examples/bert_flax.py):"
    )
    check(f"largest difference {difference:.1e}, allowed {TOLERANCE:.0e}", difference <= TOLERANCE)
    ranks = [nearest(vectors)[:, :NEAREST] for vectors in (expected, found)]
    check(
        f"the {NEAREST} nearest of every sentence are the same, in the same order",
        bool((ranks[0] == ranks[1]).all()),
    )
    similar = found @ found.T
    rows = [(sentences[n], sentences[k], f"{similar[n, k]:.2f}") for n, k in enumerate(ranks[1][:, 0])]
    table([("sentence", "nearest in Flax", "cosine"), *rows[0:10:3]])


def flax_embeddings(file: Path, batch: Tokens) -> NDArray[np.float32]:
    """Return the sentences as vectors of unit length, from the converted file."""
    bert = Bert(BertConfig.of(sg.load(minilm()).config))
    variables = sg.load(file, to="jax")
    hidden, _ = jax.jit(bert.apply)(variables, batch.ids, batch.mask)
    means = mean_of_tokens(hidden, jnp.asarray(batch.mask))
    return np.asarray(means / jnp.linalg.norm(means, axis=-1, keepdims=True))


def nearest(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return for each row the numbers of the others, the most similar first."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    return np.argsort(-similar, axis=1)


def and_back(out: Path) -> None:
    """Convert back with the remainder, bit for bit; and without it, which is refused."""
    heading("2. And back, bit for bit")
    flax_file, back = out / "minilm.msgpack", f"{out}/back/"
    say("One tensor has no place in Flax. It was named above, and kept beside the result:")
    show(surgery("ls", f"{flax_file}.remainder.safetensors"))

    say("\nConverting back finds it there:")
    surgery("convert", flax_file, back, "--recipe", "hf/bert", "--reverse", "--force")
    show(surgery("diff", minilm(), back, "--exact"))
    count = len(sg.flatten(sg.load(back)))
    check(f"all {count} tensors are there again, bit for bit", count == len(sg.flatten(sg.load(minilm()))))

    say("\nWithout it, the way back says what is missing instead of leaving it out:")
    with tempfile.TemporaryDirectory(dir=out, prefix="alone-") as alone:
        copy, back = Path(shutil.copy(flax_file, alone)), f"{alone}/back/"
        show(surgery("convert", copy, back, "--recipe", "hf/bert", "--reverse", expect=4))
        check("refused with exit code 4, and nothing written", not Path(back).exists())


def show(printed: str, most: int = 20) -> None:
    """Print what a command printed, narrower, and no more than so many lines of it."""
    lines = [re.sub(r"(?<=\S) {3,}", "  ", line) for line in printed.splitlines()]
    cut = len(lines) - most
    if cut > 0:
        lines[most - 1 : -1] = [f"  ... {cut + 1} more lines"]
    say("\n".join(lines))
