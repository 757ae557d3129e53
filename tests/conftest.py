"""Small random models in BGE-M3 format, made from nothing, and the texts the tests share."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Hypothesis fails a test that is slow; on a busy machine that says nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

TEXTS = (
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "Berlin ist die Hauptstadt von Deutschland und liegt an der Spree.",
    "El zorro marrón salta sobre el perro perezoso en la orilla del río.",
    "Москва является столицей России и крупнейшим городом страны.",
    "東京は日本の首都であり、世界最大の都市圏の一つです。",
    "北京是中华人民共和国的首都,也是全国的政治中心。",
    "서울은 대한민국의 수도이며 가장 큰 도시이다.",
    "القاهرة هي عاصمة مصر وأكبر مدنها من حيث عدد السكان.",
    "תל אביב היא עיר גדולה לחוף הים התיכון.",
    "नई दिल्ली भारत की राजधानी है और यमुना नदी के किनारे बसी है।",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας και η μεγαλύτερη πόλη της.",
)
"""Twelve sentences in twelve languages and eleven scripts."""


@pytest.fixture(scope="session")
def texts() -> tuple[str, ...]:
    return TEXTS


def _special(cls: str, eos: str, pad: str, unk: str) -> dict[str, str]:
    return {
        "cls_token": cls,
        "bos_token": cls,
        "eos_token": eos,
        "sep_token": eos,
        "pad_token": pad,
        "unk_token": unk,
    }


def _write_model(
    folder: Path, tokenizer: object, special: dict[str, str], config: dict[str, object], kind: str
) -> Path:
    import torch

    from m3_core.model import M3Model
    from m3_core.tokenizer import M3Tokenizer

    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))  # type: ignore[attr-defined]
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**special, "tokenizer_class": kind, "model_max_length": 8192})
    )
    torch.manual_seed(7)
    model = M3Model(config, multi_dim=24)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" not in name:
                weight.normal_(0, 0.15)  # larger than BERT's initialisation, so that differences show
        model.sparse_linear.bias.fill_(1.0)  # type: ignore[union-attr]  # most tokens have a weight, not all
    model.save(folder, M3Tokenizer.load(folder))
    return folder


def _pieces() -> tuple[list[str], list[str]]:
    """Every second word of the sample texts, and their characters: a vocabulary that no training shuffles."""
    words = sorted({word for text in TEXTS for word in text.split()})
    return words[::2], sorted({character for word in words for character in word})


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer BERT with a WordPiece vocabulary of the sample texts."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    words, characters = _pieces()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = dict.fromkeys([*names, *words, *characters, *(f"##{character}" for character in characters)])
    tokenizer = Tokenizer(
        models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    tokenizer.add_special_tokens(names)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 8192,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }
    folder = tmp_path_factory.mktemp("models") / "bert"
    return _write_model(
        folder, tokenizer, _special("[CLS]", "[SEP]", "[PAD]", "[UNK]"), config, "BertTokenizerFast"
    )


@pytest.fixture(scope="session")
def xlmr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer XLM-RoBERTa with a Unigram vocabulary of the sample texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words, characters = _pieces()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    scores = dict.fromkeys(names, 0.0)
    scores |= dict.fromkeys((f"▁{word}" for word in words), -9.0) | dict.fromkeys(["▁", *characters], -6.0)
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=names.index("<unk>")))
    tokenizer.add_special_tokens(names)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    config = {
        "model_type": "xlm-roberta",
        "architectures": ["XLMRobertaModel"],
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 8194,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }
    folder = tmp_path_factory.mktemp("models") / "xlmr"
    return _write_model(
        folder, tokenizer, _special("<s>", "</s>", "<pad>", "<unk>"), config, "PreTrainedTokenizerFast"
    )


@pytest.fixture(scope="session")
def tiny_model_folder(bert_folder: Path) -> Path:
    """Any small model, where it does not matter which."""
    return bert_folder
