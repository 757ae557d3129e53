"""Writes the tokenizer files of a BERT folder from its vocabulary."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m3_core.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Typographic characters that the vocabulary lacks; left alone, each would be an [UNK]. Its pieces are composed
# (NFC), while Persian, Korean and Turkish texts often come decomposed: normalising saves them whole words.
TYPOGRAPHY = {
    "’": "'",
    "‘": "'",
    "`": "'",
    "“": '"',
    "”": '"',
    "–": "-",
    "—": "-",
    "‒": "-",
    "‑": "-",
    "…": "...",
}


def read_vocabulary(folder: Path) -> list[str]:
    """The pieces of ``folder/vocab.txt``, in the order of their ids."""
    path = folder / "vocab.txt"
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing: {folder} is no WordPiece model folder") from error


def build_tokenizer(vocabulary: Sequence[str]) -> "Tokenizer":
    """A cased WordPiece tokenizer whose ids are the places in ``vocabulary``; raises ModelError without [UNK] etc."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    ids = {piece: number for number, piece in enumerate(vocabulary)}
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise ModelError(f"the vocabulary lacks {', '.join(missing)}")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            *(normalizers.Replace(character, plain) for character, plain in TYPOGRAPHY.items()),
            normalizers.BertNormalizer(lowercase=False, strip_accents=False),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def write_tokenizer(folder: Path, vocabulary: Sequence[str], *, max_length: int) -> None:
    """Write ``vocab.txt``, ``tokenizer.json`` and ``tokenizer_config.json`` of a cased WordPiece model.

    [SEP] is also named as the end-of-text token: FlagEmbedding keeps only cls, eos, pad and unk out of the
    lexical weights, so that without it [SEP] would count as a word there.
    """
    tokenizer = build_tokenizer(vocabulary)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # everything is in tokenizer.json
        "model_max_length": max_length,
        "do_lower_case": False,
        "strip_accents": False,
        "bos_token": "[CLS]",
        "cls_token": "[CLS]",
        "eos_token": "[SEP]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
