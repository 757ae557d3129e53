"""The unified loss of M3 fine-tuning (arXiv 2402.03216, section 3.3), from the outputs of packed batches.

Everything here is differentiable and works in the type it is given. Texts are packed rows: ``lengths`` says how
many rows each text has.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import LossConfig, PerMode

MODES = ("dense", "sparse", "multi")


@dataclass(frozen=True, slots=True, eq=False)
class Lexical:
    """Lexical weights of n texts as token rows: ids (T,) int64, weights (T,) >= 0, lengths of the texts."""

    ids: Tensor
    weights: Tensor
    lengths: Sequence[int]


def dense_scores(queries: Tensor, passages: Tensor) -> Tensor:
    """(n, d), (m, d), both normalised -> inner products, (n, m)."""
    return queries @ passages.T


def sparse_scores(queries: Lexical, passages: Lexical, special: Collection[int]) -> Tensor:
    """Sum over shared token ids of the product of their weights, (n, m); ``special`` ids never count.

    A token id's weight in a text is the maximum over its positions. Only the ids that occur in the queries get a
    column, so memory is (n + m) times the number of distinct ids in the queries, whatever the vocabulary.
    """
    excluded = torch.tensor(sorted(special), dtype=torch.int64, device=queries.ids.device)
    columns = torch.unique(queries.ids)
    columns = columns[~torch.isin(columns, excluded)]
    return _columns(queries, columns) @ _columns(passages, columns).T


def _columns(texts: Lexical, columns: Tensor) -> Tensor:
    """(texts, columns): the maximum weight of each column's token id in each text, 0 where it does not occur."""
    count = len(texts.lengths)
    table = texts.weights.new_zeros(count * len(columns))
    if not len(columns):
        return table.view(count, 0)
    place = torch.searchsorted(columns, texts.ids).clamp(max=len(columns) - 1)
    kept = columns[place] == texts.ids
    key = (_owners(texts.lengths, texts.ids.device) * len(columns) + place)[kept]
    table = table.scatter_reduce(0, key, texts.weights[kept], reduce="amax", include_self=True)
    return table.view(count, len(columns))


def multi_scores(
    queries: Tensor, query_lengths: Sequence[int], passages: Tensor, passage_lengths: Sequence[int]
) -> Tensor:
    """Late interaction, (n, m): the mean over a query's vectors of their best inner product in the passage.

    queries: (sum of query_lengths, d_m); passages: (sum of passage_lengths, d_m); both normalised.
    """
    device = queries.device
    sizes = torch.tensor(passage_lengths, device=device)
    inside = torch.arange(max(passage_lengths), device=device) < sizes[:, None]
    place = inside.flatten().nonzero().squeeze(1)
    padded = passages.new_zeros(inside.numel(), passages.shape[1]).index_copy(0, place, passages)
    similar = (queries @ padded.T).view(len(queries), *inside.shape)
    best = similar.masked_fill(~inside, torch.finfo(similar.dtype).min).amax(dim=2)  # (query rows, m)
    counts = torch.tensor(query_lengths, dtype=best.dtype, device=device)
    sums = best.new_zeros(len(query_lengths), best.shape[1])
    return sums.index_add(0, _owners(query_lengths, device), best) / counts[:, None]


def unified_loss(
    scores: dict[str, Tensor], targets: Tensor, config: LossConfig, excluded: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The loss and its parts, of raw ``scores`` (dense, sparse, multi; each (n, m)).

    targets: (n,) the column of each query's positive. excluded: (n, m) bool, pairs that are no negatives although
    they are not the target (another question's passage that answers this one too); never true at a target.

    With s_inter the weighted sum of the three, L = mean over four InfoNCE losses and L' = mean over three cross
    entropies towards softmax(s_inter), which gets no gradient from them; the loss is (L + L') / 2, or L alone
    where all weights of L' are 0.
    """
    low = torch.finfo(next(iter(scores.values())).dtype).min / 4
    logits = {mode: scores[mode] / config.temperature for mode in MODES}
    logits["ensemble"] = torch.stack([_weight(config.scores, mode) * logits[mode] for mode in MODES]).sum(0)
    if excluded is not None:
        logits = {mode: value.masked_fill(excluded, low) for mode, value in logits.items()}
    logs = {mode: value.log_softmax(dim=1) for mode, value in logits.items()}
    teacher = logs["ensemble"].detach().exp()
    contrast = {mode: F.nll_loss(log, targets) for mode, log in logs.items()}
    distil = {mode: -(teacher * logs[mode]).sum(1).mean() for mode in MODES}
    loss = torch.stack([_weight(config.contrast, mode) * part for mode, part in contrast.items()]).mean()
    if any(_weight(config.distil, mode) for mode in MODES):
        towards = torch.stack([_weight(config.distil, mode) * part for mode, part in distil.items()]).mean()
        loss = (loss + towards) / 2
    parts = {f"contrast_{mode}": part.item() for mode, part in contrast.items()}
    parts |= {f"distil_{mode}": part.item() for mode, part in distil.items()}
    return loss, parts


def _weight(weights: PerMode, mode: str) -> float:
    return float(getattr(weights, mode))


def _owners(lengths: Sequence[int], device: torch.device) -> Tensor:
    sizes = torch.tensor(lengths, device=device)
    return torch.repeat_interleave(torch.arange(len(lengths), device=device), sizes)
