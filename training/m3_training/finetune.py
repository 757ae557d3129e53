"""Unified fine-tuning: question-passage pairs, the others of a batch as negatives, all three heads at once."""

from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from m3_core.backbone import TokenBatch
from m3_core.model import M3Model, ModelOutput
from m3_core.tokenizer import M3Tokenizer

from .config import FineTune
from .data import PairData
from .loop import Trainer, packed, trainable
from .losses import Lexical, dense_scores, multi_scores, sparse_scores, unified_loss

START_WEIGHT = 0.3  # of every token in a fresh sparse head: begins as a count of shared tokens, and alive


def with_heads(model: M3Model) -> M3Model:
    """The model with all three heads; a missing one starts where the raw backbone already ranks.

    The multi-vector head starts as the identity (as wide as the hidden states), the sparse one as the same small
    weight for every token.
    """
    width = model.config.hidden_size
    whole = M3Model(
        model.raw_config, multi_dim=model.colbert_linear.out_features if model.colbert_linear else width
    )
    whole.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        if model.sparse_linear is None and whole.sparse_linear is not None:
            whole.sparse_linear.weight.zero_()
            whole.sparse_linear.bias.fill_(START_WEIGHT)
        if model.colbert_linear is None and whole.colbert_linear is not None:
            torch.nn.init.eye_(whole.colbert_linear.weight)
            whole.colbert_linear.bias.zero_()
    return whole


class UnifiedObjective:
    """The unified loss of the planned batch of a step."""

    def __init__(self, model: M3Model, tokenizer: M3Tokenizer, data: PairData, recipe: FineTune) -> None:
        self.model, self.tokenizer, self.data, self.config = model, tokenizer, data, recipe.loss
        self._identity = f"{recipe.loss!r} {data.identity()}"

    def identity(self) -> str:
        """Of the loss options, the pairs and their order."""
        return self._identity

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss; the log gets its parts, the share of queries whose own passage came first, and non-zero weights."""
        pairs = self.data.batch(step)
        queries, query_order = packed(pairs.queries)
        passages, passage_order = packed(pairs.passages)
        q, p = self.model(queries), self.model(passages)
        scores = {
            "dense": dense_scores(q.dense, p.dense),
            "sparse": sparse_scores(_lexical(queries, q), _lexical(passages, p), self.tokenizer.special_ids),
            "multi": multi_scores(q.multi, _vectors(queries), p.multi, _vectors(passages)),
        }
        places = {row: place for place, row in enumerate(passage_order)}
        targets = torch.tensor([places[row] for row in query_order])
        loss, parts = unified_loss(scores, targets, self.config)
        first = {f"first_{mode}": _first(value, targets) for mode, value in scores.items()}
        non_zero = {
            "non_zero_query": _non_zero(q, queries),
            "non_zero_passage": _non_zero(p, passages),
        }
        sizes = {"pairs": float(len(targets)), "passage_tokens": mean(passages.lengths)}
        return loss, {**parts, **first, **non_zero, **sizes}


def fine_tune(model: M3Model, tokenizer: M3Tokenizer, recipe: FineTune, data: Path, output: Path) -> Trainer:
    """A trainer for the unified loss over the recipe's files in the folder ``data``."""
    student = trainable(with_heads(model), recipe.loop)
    pairs = PairData(data, tokenizer, recipe.data, steps=recipe.loop.steps, seed=recipe.loop.seed)
    objective = UnifiedObjective(student, tokenizer, pairs, recipe)
    return Trainer(student, tokenizer, objective, recipe.loop, output)


def _lexical(batch: TokenBatch, output: ModelOutput) -> Lexical:
    assert output.weights is not None
    return Lexical(batch.ids, output.weights, batch.lengths)


def _vectors(batch: TokenBatch) -> list[int]:
    """Multi-vectors of each text: every token but the CLS."""
    return [length - 1 for length in batch.lengths]


def _first(scores: Tensor, targets: Tensor) -> float:
    return (scores.argmax(1) == targets).float().mean().item()


def _non_zero(output: ModelOutput, batch: TokenBatch) -> float:
    """Tokens with a lexical weight above 0 per text; near 0, the sparse head has collapsed."""
    assert output.weights is not None
    return int((output.weights > 0).sum()) / len(batch.lengths)
