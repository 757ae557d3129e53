"""The transformer under the three heads, on token rows without padding.

All tokens of a batch are the rows of one (T, hidden) matrix; only attention knows where a text ends. The
parameter names are those of transformers' ``XLMRobertaModel`` and ``BertModel``, which are the same network
with other position offsets, so that a state dict moves both ways unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m3_core.errors import ModelError

_PAD_TOKENS = {"xlm-roberta": 1, "roberta": 1, "bert": 0}
"""The architectures, and the id of the pad token where ``config.json`` does not say."""
_ACTIVATIONS = {
    "gelu": "none",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
}


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """The part of a ``config.json`` that decides what the network computes."""

    model_type: str
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    positions: int
    position_offset: int
    pad_token_id: int
    token_types: int
    layer_norm_eps: float
    gelu: str
    dropout: float

    @property
    def max_length(self) -> int:
        """The longest text in tokens, special tokens counted."""
        return self.positions - self.position_offset

    @staticmethod
    def from_json(config: Mapping[str, Any], source: str = "config.json") -> "BackboneConfig":
        """Read a transformers configuration of an XLM-RoBERTa or BERT encoder.

        Raises:
            ModelError: another architecture, or an option this network does not have; named.
        """
        kind = config.get("model_type")
        if kind not in _PAD_TOKENS:
            raise ModelError(
                f"{source}: model_type {kind!r} is not supported; M3 models have one of {', '.join(_PAD_TOKENS)}"
            )
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise ModelError(f"{source}: position_embedding_type must be absolute")
        activation = config.get("hidden_act", "gelu")
        if activation not in _ACTIVATIONS:
            raise ModelError(f"{source}: hidden_act {activation!r} is not one of {', '.join(_ACTIVATIONS)}")
        try:
            pad = config.get("pad_token_id")
            pad = _PAD_TOKENS[kind] if pad is None else int(pad)
            parsed = BackboneConfig(
                model_type=kind,
                vocab_size=int(config["vocab_size"]),
                hidden_size=int(config["hidden_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=int(config["num_attention_heads"]),
                intermediate_size=int(config["intermediate_size"]),
                positions=int(config["max_position_embeddings"]),
                position_offset=0 if kind == "bert" else pad + 1,
                pad_token_id=pad,
                token_types=int(config.get("type_vocab_size", 2)),
                layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
                gelu=_ACTIVATIONS[activation],
                dropout=float(config.get("hidden_dropout_prob", 0.0)),
            )
        except KeyError as error:
            raise ModelError(f"{source}: the entry {error} is missing") from error
        except (TypeError, ValueError) as error:
            raise ModelError(f"{source}: an entry is not a number: {error}") from error
        parsed._check(source)
        return parsed

    def _check(self, source: str) -> None:
        for name in ("vocab_size", "hidden_size", "layers", "heads", "intermediate_size", "token_types"):
            if getattr(self, name) < 1:
                raise ModelError(f"{source}: {name} must be at least 1, not {getattr(self, name)}")
        if self.hidden_size % self.heads:
            raise ModelError(
                f"{source}: hidden_size {self.hidden_size} does not divide into {self.heads} attention heads"
            )
        if self.max_length < 3:
            raise ModelError(f"{source}: {self.positions} positions leave no room for a text")


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Texts as token rows.

    ids: (T,) int64; lengths: tokens of each text, in order, their sum is T; cls: (T,) bool, true at every
    CLS, the inserted ones of MCLS too (the first token of every text is one).
    """

    ids: Tensor
    lengths: tuple[int, ...]
    cls: Tensor

    @staticmethod
    def of(
        texts: Sequence[Sequence[int]], device: torch.device | str = "cpu", *, cls_every: int | None = None
    ) -> "TokenBatch":
        """A batch of tokenised texts, special tokens included.

        The CLS are known by their place, not by their id, which a text may spell out: the first token, and with
        MCLS every token ``cls_every`` places further that is not the last.
        """
        lengths = tuple(len(text) for text in texts)
        ids = torch.tensor([token for text in texts for token in text], dtype=torch.int64)
        places = torch.cat([torch.arange(length) for length in lengths])
        cls = places == 0
        if cls_every:
            last = torch.zeros_like(cls)
            last[torch.tensor(lengths).cumsum(0) - 1] = True
            cls |= (places % cls_every == 0) & ~last
        return TokenBatch(ids.to(device), lengths, cls.to(device))


class _Linear(nn.Linear):
    """Computes in ``compute_dtype`` and returns it; parameters already in that type are used as they are."""

    def forward(self, rows: Tensor, compute_dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        return F.linear(rows.to(compute_dtype), self.weight.to(compute_dtype), self.bias.to(compute_dtype))


class _Embeddings(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.positions, width)
        self.token_type_embeddings = nn.Embedding(config.token_types, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)


class _SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = _Linear(width, width)
        self.key = _Linear(width, width)
        self.value = _Linear(width, width)


class _Output(nn.Module):
    """The projection back to the residual stream, and its LayerNorm (post-norm, as BERT)."""

    def __init__(self, inner: int, width: int, eps: float) -> None:
        super().__init__()
        self.dense = _Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)


class _Attention(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.self = _SelfAttention(config.hidden_size)
        self.output = _Output(config.hidden_size, config.hidden_size, config.layer_norm_eps)


class _Intermediate(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.dense = _Linear(config.hidden_size, config.intermediate_size)


class _Layer(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Intermediate(config)
        self.output = _Output(config.intermediate_size, config.hidden_size, config.layer_norm_eps)
        self.heads, self.gelu, self.dropout = config.heads, config.gelu, config.dropout

    def forward(self, rows: Tensor, lengths: Sequence[int], dtype: torch.dtype) -> Tensor:
        """(T, hidden) float32 -> the same. Products in ``dtype``; residual stream and LayerNorm in float32."""
        low = rows.to(dtype)
        projection = self.attention.self
        mixed = attend(
            projection.query(low, dtype),
            projection.key(low, dtype),
            projection.value(low, dtype),
            lengths,
            self.heads,
        )
        rows = self._add(self.attention.output, mixed, rows, dtype)
        inner = F.gelu(self.intermediate.dense(rows, dtype), approximate=self.gelu)
        return self._add(self.output, inner, rows, dtype)

    def _add(self, output: _Output, inner: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
        added = F.dropout(output.dense(inner, dtype), self.dropout, self.training).float()
        normalised: Tensor = output.LayerNorm(rows + added)
        return normalised


class _Encoder(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.layers))


class Backbone(nn.Module):
    """XLM-RoBERTa or BERT without the pooler. ``compute_dtype`` is the type of the matrix products."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)

    def forward(self, batch: TokenBatch) -> Tensor:
        """The last hidden state, (T, hidden) float32."""
        return self.hidden_states(batch)[-1]

    def hidden_states(self, batch: TokenBatch, *, every: bool = False) -> list[Tensor]:
        """The last hidden state alone, or with ``every`` also the embeddings and each layer, first to last."""
        rows = self._embed(batch)
        states = [rows]
        for layer in self.encoder.layer:
            rows = layer(rows, batch.lengths, self.compute_dtype)
            states = [*states, rows] if every else [rows]
        return states

    def _embed(self, batch: TokenBatch) -> Tensor:
        table, offset = self.embeddings, self.config.position_offset
        positions = torch.cat([torch.arange(offset, offset + length) for length in batch.lengths])
        rows = (
            table.word_embeddings(batch.ids).float()
            + table.position_embeddings(positions.to(batch.ids.device)).float()
            + table.token_type_embeddings.weight[0].float()
        )
        normalised: Tensor = table.LayerNorm(rows)
        return F.dropout(normalised, self.config.dropout, self.training)

    def cast(self, dtype: torch.dtype) -> None:
        """Keep the weights of the matrix products in ``dtype`` and compute them in it; the rest stays float32."""
        self.compute_dtype = dtype
        for module in self.modules():
            if isinstance(module, _Linear):
                module.to(dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], heads: int) -> Tensor:
    """Self-attention inside each text. query, key, value: (T, hidden) rows. Returns (T, hidden).

    On a CPU, neighbours of equal length are one batched product and nothing is padded. On a GPU, where many
    small products cost more than the padding, the batch is one masked product.
    """
    if query.device.type == "cpu" and query.requires_grad:
        return _attend_trained(query, key, value, lengths, heads)
    if query.device.type != "cpu" and len(set(lengths)) > 1:
        return _attend_padded(query, key, value, lengths, heads)
    parts, start = [], 0
    for length, group in groupby(lengths):
        count = len(list(group))
        rows = slice(start, start + count * length)
        shape = (count, length, heads, query.shape[1] // heads)
        q, k, v = (x[rows].view(shape).transpose(1, 2) for x in (query, key, value))
        mixed = F.scaled_dot_product_attention(q, k, v)
        parts.append(mixed.transpose(1, 2).reshape(count * length, -1))
        start = rows.stop
    return torch.cat(parts) if len(parts) != 1 else parts[0]


def _attend_padded(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], heads: int) -> Tensor:
    sizes = torch.tensor(lengths, device=query.device)
    inside = torch.arange(max(lengths), device=query.device) < sizes[:, None]  # (texts, longest)

    def pad(rows: Tensor) -> Tensor:
        padded = rows.new_zeros(*inside.shape, rows.shape[1])
        padded[inside] = rows
        return padded.view(*inside.shape, heads, -1).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(
        pad(query), pad(key), pad(value), attn_mask=inside[:, None, None, :]
    )
    return mixed.transpose(1, 2).flatten(2)[inside]


def _attend_trained(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], heads: int) -> Tensor:
    """The same, with a backward pass that is fast on a CPU: torch's fused one is 2.5 times slower in bfloat16."""
    sizes = torch.tensor(lengths)
    inside = torch.arange(max(lengths)) < sizes[:, None]  # (texts, longest)
    rows = inside.flatten().nonzero().squeeze(1)

    def pad(flat: Tensor) -> Tensor:
        padded = flat.new_zeros(inside.numel(), flat.shape[1]).index_copy(0, rows, flat)
        return padded.view(*inside.shape, heads, -1).transpose(1, 2)

    scale = (query.shape[1] // heads) ** -0.5
    outside = torch.zeros(inside.shape, dtype=query.dtype).masked_fill(~inside, -1e9)
    scores = (pad(query) * scale) @ pad(key).transpose(2, 3) + outside[:, None, None, :]
    mixed: Tensor = scores.softmax(-1) @ pad(value)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)[rows]
