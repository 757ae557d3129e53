"""The unified loss against naive dense computations in float64, hand-computed values and FlagEmbedding."""

from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from m3_training.config import LossConfig, PerMode
from m3_training.losses import Lexical, dense_scores, multi_scores, sparse_scores, unified_loss

VOCAB, SPECIAL = 50, (0, 1, 2, 3)
QUERIES, PASSAGES = (5, 3, 1), (7, 12, 2, 4)


def lexical(lengths: tuple[int, ...], seed: int) -> Lexical:
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    ids = torch.randint(0, VOCAB // 4, (total,), generator=generator)  # few ids, so that they repeat
    weights = torch.rand(total, generator=generator, dtype=torch.float64) - 0.2
    return Lexical(ids, weights.requires_grad_(), lengths)


def naive_table(texts: Lexical) -> Tensor:
    """(n, vocab): maximum over positions, token by token."""
    rows, start = [], 0
    for length in texts.lengths:
        best: dict[int, Tensor] = {}
        for place in range(start, start + length):
            token, weight = int(texts.ids[place]), torch.relu(texts.weights[place])
            if token not in SPECIAL and (token not in best or weight > best[token]):
                best[token] = weight
        zero = torch.zeros((), dtype=torch.float64)
        rows.append(torch.stack([best.get(token, zero) for token in range(VOCAB)]))
        start += length
    return torch.stack(rows)


def test_sparse_scores_and_gradients_equal_the_naive_dense_computation() -> None:
    queries, passages = lexical(QUERIES, 1), lexical(PASSAGES, 2)
    naive = naive_table(queries) @ naive_table(passages).T
    wanted = torch.autograd.grad(naive.square().sum(), [queries.weights, passages.weights])

    scores = sparse_scores(
        Lexical(queries.ids, torch.relu(queries.weights), queries.lengths),
        Lexical(passages.ids, torch.relu(passages.weights), passages.lengths),
        SPECIAL,
    )
    gradients = torch.autograd.grad(scores.square().sum(), [queries.weights, passages.weights])
    assert scores.abs().sum() > 0
    torch.testing.assert_close(scores, naive, rtol=1e-12, atol=1e-12)
    for gradient, expected in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_sparse_scores_of_one_shared_token_by_hand() -> None:
    # token 7 weighs 0.5 and 0.25 in the query (the larger counts) and 2 in the passage; 3 is special
    query = Lexical(torch.tensor([7, 3, 7, 9]), torch.tensor([0.25, 5.0, 0.5, 1.0]), (4,))
    passage = Lexical(torch.tensor([3, 7, 8]), torch.tensor([5.0, 2.0, 4.0]), (2, 1))
    assert sparse_scores(query, passage, SPECIAL).tolist() == [[1.0, 0.0]]


def test_sparse_scores_of_queries_without_words_are_zero() -> None:
    query = Lexical(torch.tensor([0, 2]), torch.tensor([1.0, 1.0]), (2,))
    passage = Lexical(torch.tensor([0, 7, 2]), torch.ones(3), (3,))
    assert sparse_scores(query, passage, SPECIAL).tolist() == [[0.0]]


def test_sparse_memory_does_not_depend_on_the_vocabulary() -> None:
    # a table of 4 texts x 2**40 ids could not be allocated
    far = 2**40
    query = Lexical(torch.tensor([far, 5, 6, far - 1]), torch.ones(4), (2, 2))
    passage = Lexical(torch.tensor([far, far - 1, 5, 5]), torch.ones(4), (2, 2))
    assert sparse_scores(query, passage, SPECIAL).tolist() == [[1.0, 1.0], [1.0, 0.0]]


def unit_rows(lengths: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(lengths), 6, generator=generator, dtype=torch.float64)
    return F.normalize(rows, dim=-1).requires_grad_()


def test_multi_scores_and_gradients_equal_one_pair_at_a_time() -> None:
    queries, passages = unit_rows(QUERIES, 3), unit_rows(PASSAGES, 4)
    naive = torch.stack(
        [
            torch.stack([(q @ p.T).max(dim=1).values.mean() for p in passages.split(PASSAGES)])
            for q in queries.split(QUERIES)
        ]
    )
    wanted = torch.autograd.grad(naive.square().sum(), [queries, passages])
    scores = multi_scores(queries, QUERIES, passages, PASSAGES)
    torch.testing.assert_close(scores, naive, rtol=1e-12, atol=1e-12)
    for gradient, expected in zip(
        torch.autograd.grad(scores.square().sum(), [queries, passages]), wanted, strict=True
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_multi_scores_do_not_match_padding() -> None:
    # the short passage is opposite to the query; padding would score 0
    query, passages = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert multi_scores(query, (1,), passages, (1, 2)).tolist() == [[-1.0, 0.0]]


def scores_of(
    dense: list[list[float]], sparse: list[list[float]], multi: list[list[float]]
) -> dict[str, Tensor]:
    values = {"dense": dense, "sparse": sparse, "multi": multi}
    return {
        mode: torch.tensor(rows, dtype=torch.float64, requires_grad=True) for mode, rows in values.items()
    }


def test_unified_loss_by_hand() -> None:
    # one query, two passages, temperature 1: every softmax is a logistic function of the difference of two scores
    scores = scores_of([[2.0, 1.0]], [[0.0, 2.0]], [[3.0, 1.0]])
    config = LossConfig(
        temperature=1.0,
        scores=PerMode(dense=1.0, sparse=0.5, multi=2.0),
        contrast=PerMode(dense=1.0, sparse=0.1, multi=1.0, ensemble=1.0),
        distil=PerMode(dense=1.0, sparse=0.1, multi=1.0, ensemble=0.0),
    )
    differences = {"dense": 1.0, "sparse": -2.0, "multi": 2.0, "ensemble": 1.0 - 1.0 + 4.0}
    cost = {mode: log(1 + exp(-d)) for mode, d in differences.items()}  # of the first passage
    other = {mode: log(1 + exp(d)) for mode, d in differences.items()}  # of the second
    p = 1 / (1 + exp(-4.0))
    towards = {mode: p * cost[mode] + (1 - p) * other[mode] for mode in ("dense", "sparse", "multi")}
    contrast = (cost["dense"] + 0.1 * cost["sparse"] + cost["multi"] + cost["ensemble"]) / 4
    distil = (towards["dense"] + 0.1 * towards["sparse"] + towards["multi"]) / 3
    loss, parts = unified_loss(scores, torch.tensor([0]), config)
    assert loss.item() == pytest.approx((contrast + distil) / 2, rel=1e-12)
    assert parts["contrast_ensemble"] == pytest.approx(cost["ensemble"])
    assert parts["distil_sparse"] == pytest.approx(towards["sparse"])


def test_the_teacher_gets_no_gradient_from_distillation() -> None:
    scores = scores_of([[1.0, 0.0]], [[0.0, 1.0]], [[0.9, 0.2]])
    only_dense = LossConfig(
        temperature=1.0,
        contrast=PerMode(dense=0.0, sparse=0.0, multi=0.0, ensemble=1e-300),
        distil=PerMode(dense=1.0, sparse=0.0, multi=0.0, ensemble=0.0),
    )
    loss, _ = unified_loss(scores, torch.tensor([0]), only_dense)
    dense, multi = torch.autograd.grad(loss, [scores["dense"], scores["multi"]])
    assert dense.abs().sum() > 0.01
    assert multi.abs().sum() < 1e-200


def test_without_distillation_the_loss_is_not_halved() -> None:
    scores = scores_of([[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.2]])
    config = LossConfig(contrast=PerMode(), distil=PerMode(dense=0, sparse=0, multi=0, ensemble=0))
    loss, parts = unified_loss(scores, torch.tensor([0]), config)
    contrast = [value for name, value in parts.items() if name.startswith("contrast")]
    assert loss.item() == pytest.approx(sum(contrast) / 4)


def test_excluded_passages_count_as_if_they_were_not_there() -> None:
    wide = scores_of([[1.0, 0.5, 0.9]], [[0.2, 0.1, 3.0]], [[0.8, 0.2, 0.8]])
    narrow = {mode: value.detach()[:, :2] for mode, value in wide.items()}
    excluded = torch.tensor([[False, False, True]])
    with_it, _ = unified_loss(wide, torch.tensor([0]), LossConfig(), excluded)
    without, _ = unified_loss(narrow, torch.tensor([0]), LossConfig())
    assert with_it.item() == pytest.approx(without.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(with_it, [wide["sparse"]])
    assert torch.isfinite(gradient).all()
    assert gradient[0, 2] == 0


def test_targets_need_not_be_the_diagonal() -> None:
    queries, passages = unit_rows((1, 1), 5), unit_rows((1, 1, 1), 6)
    scores = dict.fromkeys(("dense", "sparse", "multi"), dense_scores(queries, passages))
    targets = torch.tensor([2, 0])
    _, parts = unified_loss(scores, targets, LossConfig(temperature=0.05))
    wanted = F.cross_entropy(queries @ passages.T / 0.05, targets)
    assert parts["contrast_dense"] == pytest.approx(wanted.item(), rel=1e-12)


def test_parts_equal_flagembedding() -> None:
    """InfoNCE and distillation of FlagEmbedding's training model, on the same scores."""
    modeling = pytest.importorskip("FlagEmbedding.finetune.embedder.encoder_only.m3.modeling")
    reference = modeling.EncoderOnlyEmbedderM3Model
    generator = torch.Generator().manual_seed(7)
    dense, sparse, multi = (torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    scores = {"dense": dense, "sparse": sparse, "multi": multi}
    config = LossConfig(temperature=1.0)
    targets = torch.arange(4)
    _, parts = unified_loss(scores, targets, config)
    teacher = torch.softmax(dense + 0.3 * sparse + multi, dim=-1)
    for mode, value in scores.items():
        wanted = reference.distill_loss("kl_div", teacher, value, group_size=None)
        assert parts[f"distil_{mode}"] == pytest.approx(wanted.item(), rel=1e-6)
        assert parts[f"contrast_{mode}"] == pytest.approx(F.cross_entropy(value, targets).item(), rel=1e-12)
