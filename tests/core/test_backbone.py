"""The backbone against transformers, attention against float64, configurations that cannot be used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3_core.backbone import Backbone, BackboneConfig, TokenBatch, _attend_padded, attend
from m3_core.errors import ModelError
from m3_core.model import M3Model

CONFIG: dict[str, Any] = {
    "model_type": "xlm-roberta",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
    "pad_token_id": 1,
}


def rows_of(lengths: list[int], vocab: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, vocab, length).tolist() for length in lengths]


@pytest.mark.parametrize("kind", ["bert", "xlmr"])
def test_every_layer_equals_transformers(kind: str, bert_folder: Path, xlmr_folder: Path) -> None:
    from transformers import AutoModel

    folder = bert_folder if kind == "bert" else xlmr_folder
    model, tokenizer = M3Model.load(folder)
    reference = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    lengths = [3, 40, 40, 7, 300, 5]
    rows = rows_of(lengths, model.config.vocab_size)
    padded = torch.full((len(rows), max(lengths)), tokenizer.pad_id)
    mask = torch.zeros_like(padded)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids), 1
    with torch.no_grad():
        expected = reference(padded, attention_mask=mask, output_hidden_states=True).hidden_states
        found = model.backbone.hidden_states(TokenBatch.of(rows), every=True)
    assert len(found) == len(expected) == model.config.layers + 1
    for layer, states in zip(found, expected, strict=True):
        np.testing.assert_allclose(layer.numpy(), states[mask.bool()].numpy(), rtol=0, atol=1e-5)


def test_the_longest_text_uses_the_last_position(xlmr_folder: Path) -> None:
    from transformers import AutoModel

    model, _ = M3Model.load(xlmr_folder)
    assert model.config.max_length == 8192
    reference = AutoModel.from_pretrained(xlmr_folder, add_pooling_layer=False).eval()
    ids = rows_of([8192], model.config.vocab_size)
    with torch.no_grad():
        expected = reference(torch.tensor(ids)).last_hidden_state[0]
        found = model.backbone(TokenBatch.of(ids))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [9, 7, 7, 2, 1, 1], [3, 9, 3]])
def test_attention_equals_float64(lengths: list[int]) -> None:
    heads, width = 4, 16
    query, key, value = torch.randn(3, sum(lengths), width, generator=torch.Generator().manual_seed(1))
    expected, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        q, k, v = (x[part].double().view(length, heads, -1).transpose(0, 1) for x in (query, key, value))
        shares = torch.softmax(q @ k.transpose(1, 2) / (width / heads) ** 0.5, dim=-1)
        expected.append((shares @ v).transpose(0, 1).reshape(length, width))
        start += length
    for found in (
        attend(query, key, value, lengths, heads),
        _attend_padded(query, key, value, lengths, heads),
    ):
        np.testing.assert_allclose(found.numpy(), torch.cat(expected).numpy(), rtol=0, atol=1e-6)


def test_gradients_flow_through_both_attentions_alike() -> None:
    lengths, heads = [6, 4, 4, 1], 2
    gradients = []
    for attention in (attend, _attend_padded):
        rows = torch.randn(
            15, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64
        ).requires_grad_()
        (attention(rows, rows * 2, rows + 1, lengths, heads) ** 2).sum().backward()
        gradients.append(rows.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


def test_cls_are_known_by_place() -> None:
    plain = TokenBatch.of([[0, 7, 0, 2], [0, 2]])
    assert plain.cls.tolist() == [True, False, False, False, True, False]
    # With MCLS, every third place but the last token's.
    many = TokenBatch.of([[0, 7, 8, 0, 9, 2], [0, 7, 8, 2]], cls_every=3)
    assert many.cls.tolist() == [True, False, False, True, False, False, True, False, False, False]
    assert many.lengths == (6, 4)


def test_positions_start_after_the_padding_of_roberta_and_at_0_in_bert() -> None:
    assert BackboneConfig.from_json(CONFIG).position_offset == 2
    assert BackboneConfig.from_json({**CONFIG, "pad_token_id": None}).position_offset == 2
    assert BackboneConfig.from_json({**CONFIG, "model_type": "bert"}).position_offset == 0
    assert BackboneConfig.from_json(CONFIG).max_length == 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, r"somewhere: model_type 'llama' is not supported.*xlm-roberta"),
        ({"model_type": None}, "model_type None"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type must be absolute"),
        ({"hidden_act": "silu"}, "hidden_act 'silu'"),
        ({"hidden_size": "wide"}, "not a number.*wide"),
        ({"num_hidden_layers": None}, "not a number"),
        ({"num_hidden_layers": 0}, "layers must be at least 1, not 0"),
        ({"num_attention_heads": 5}, "hidden_size 32 does not divide into 5 attention heads"),
        ({"max_position_embeddings": 4}, "4 positions leave no room"),
    ],
)
def test_unusable_configurations_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        BackboneConfig.from_json({**CONFIG, **change}, "somewhere")


def test_a_missing_entry_is_named() -> None:
    config = {name: value for name, value in CONFIG.items() if name != "vocab_size"}
    with pytest.raises(ModelError, match="the entry 'vocab_size' is missing"):
        BackboneConfig.from_json(config)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig.from_json({**CONFIG, "hidden_dropout_prob": 0.5}))
    batch = TokenBatch.of(rows_of([12, 9], 100))
    with torch.no_grad():
        assert not torch.equal(backbone.train()(batch), backbone(batch))
        assert torch.equal(backbone.eval()(batch), backbone(batch))
