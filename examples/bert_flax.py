"""A BERT encoder in Flax linen, with the module names of Hugging Face's.

The recipe `hf/bert` converts a PyTorch checkpoint to exactly these parameters.
There is no dropout: this is for embedding sentences, and for heads on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class BertConfig:
    """What the shapes and the arithmetic depend on, under the names of a `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> BertConfig:
        """Take the fields from a model's config; what this module does not compute is refused."""
        for name, ours in {"hidden_act": "gelu", "position_embedding_type": "absolute"}.items():
            if config.get(name, ours) != ours:
                raise ValueError(f"{name}={config[name]!r} is not implemented here, only {ours!r}")
        return cls(**{field.name: config[field.name] for field in fields(cls)})


class Embeddings(nn.Module):
    """The sum of word, position and token type embeddings, normalised."""

    config: BertConfig

    @nn.compact
    def __call__(self, ids: jax.Array, types: jax.Array) -> jax.Array:
        c = self.config
        words = nn.Embed(c.vocab_size, c.hidden_size, name="word_embeddings")(ids)
        places = nn.Embed(c.max_position_embeddings, c.hidden_size, name="position_embeddings")(
            jnp.arange(ids.shape[-1])
        )
        kinds = nn.Embed(c.type_vocab_size, c.hidden_size, name="token_type_embeddings")(types)
        return nn.LayerNorm(epsilon=c.layer_norm_eps, name="LayerNorm")(words + kinds + places)


class SelfAttention(nn.Module):
    """Heads that attend to every token whose mask is 1."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        width, heads = self.config.hidden_size, self.config.num_attention_heads

        def project(name: str) -> jax.Array:
            return nn.Dense(width, name=name)(x).reshape(*x.shape[:-1], heads, width // heads)

        scores = jnp.einsum("bqhd,bkhd->bhqk", project("query"), project("key")) / (width // heads) ** 0.5
        scores = jnp.where(mask[:, None, None, :] > 0, scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), project("value"))
        return mixed.reshape(x.shape)


class Output(nn.Module):
    """A projection back to the width of the stream, added to it and normalised."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array, stream: jax.Array) -> jax.Array:
        x = nn.Dense(self.config.hidden_size, name="dense")(x)
        return nn.LayerNorm(epsilon=self.config.layer_norm_eps, name="LayerNorm")(x + stream)


class Attention(nn.Module):
    """Self-attention and its output, as one residual block."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        mixed = SelfAttention(self.config, name="self")(x, mask)
        return Output(self.config, name="output")(mixed, x)


class Intermediate(nn.Module):
    """The wide layer of a block. PyTorch's gelu is the exact one."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.gelu(nn.Dense(self.config.intermediate_size, name="dense")(x), approximate=False)


class Layer(nn.Module):
    """One transformer block."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = Attention(self.config, name="attention")(x, mask)
        return Output(self.config, name="output")(Intermediate(self.config, name="intermediate")(x), x)


class Layers(nn.Module):
    """The blocks, named `0`, `1`, ... as in a torch ModuleList."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        for n in range(self.config.num_hidden_layers):
            x = Layer(self.config, name=str(n))(x, mask)
        return x


class Encoder(nn.Module):
    """What holds the blocks: `encoder/layer/0`."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return Layers(self.config, name="layer")(x, mask)


class Pooler(nn.Module):
    """A dense layer on the first token."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(nn.Dense(self.config.hidden_size, name="dense")(x[:, 0]))


class Bert(nn.Module):
    """BERT without a head.

    Attributes:
        config: shapes.
        pooler: with the pooled output of the first token; without it the module has no
            parameters for it.
    """

    config: BertConfig
    pooler: bool = True

    @nn.compact
    def __call__(
        self, ids: jax.Array, mask: jax.Array, types: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return the last hidden states f32[batch,length,width], and the pooled output or None."""
        x = Embeddings(self.config, name="embeddings")(ids, jnp.zeros_like(ids) if types is None else types)
        x = Encoder(self.config, name="encoder")(x, mask)
        return x, Pooler(self.config, name="pooler")(x) if self.pooler else None


def mean_of_tokens(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the mean of the tokens whose mask is 1: how this model makes one vector of a sentence."""
    weights = mask[..., None].astype(hidden.dtype)
    return (hidden * weights).sum(axis=1) / weights.sum(axis=1)
