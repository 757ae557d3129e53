"""Makes a small backbone of a large one: fewer pieces, fewer layers, a smaller width, more positions.

Pieces are pruned (see ``vocabulary``), layers are the first N, positions are tiled, and the width, when asked
for, is reduced by projection (see ``project``). The result is an initialisation: distillation repairs what the
projection loses.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3_core.errors import InputError, ModelError

from .backbone import Tensors, save_folder, save_tensors
from .rows import read_lines
from .split import digest
from .tokenizer import build_tokenizer, read_vocabulary
from .vocabulary import prune

POSITIONS = "embeddings.position_embeddings.weight"
WORDS = "embeddings.word_embeddings.weight"
MLM_BIAS = "cls.predictions.bias"


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the small model; ``hidden`` None keeps the width."""

    vocabulary: int = 32_000
    layers: int = 6
    hidden: int | None = None
    positions: int = 8192


def shrink(backbone: Path, texts: Path, output: Path, size: Size) -> None:
    """Write the small model folder ``output``, made of ``backbone`` for the texts in the JSON lines ``texts``.

    ``mlm_head.safetensors`` is written too where the width is kept (its bias pruned with the vocabulary).
    Raises InputError where the asked size is larger than the backbone.
    """
    from safetensors.numpy import load_file

    config = _read_config(backbone)
    if size.layers > config["num_hidden_layers"]:
        raise InputError(f"--layers {size.layers}: the backbone has {config['num_hidden_layers']}")
    lines = [(row["lang"], row["text"]) for row in read_lines(texts)]
    vocabulary = read_vocabulary(backbone)
    kept = prune(vocabulary, lines, size.vocabulary)
    pieces = [vocabulary[number] for number in kept]

    model = first_layers(load_file(backbone / "model.safetensors"), size.layers)
    model[WORDS] = model[WORDS][kept]
    config |= {
        "vocab_size": len(kept),
        "num_hidden_layers": size.layers,
        "pad_token_id": pieces.index("[PAD]"),
    }
    head_file = backbone / "mlm_head.safetensors"
    head = load_file(head_file) if head_file.exists() and size.hidden is None else None
    if size.hidden is not None:
        from .project import project

        sample = _sample(pieces, [text for _, text in lines])
        model, changes = project(model, config, sample, size.hidden)
        config |= changes
    model[POSITIONS] = extend_positions(model[POSITIONS], size.positions)
    config["max_position_embeddings"] = size.positions
    save_folder(output, config, model, pieces, max_length=size.positions)
    if head is not None:
        save_tensors({**head, MLM_BIAS: head[MLM_BIAS][kept]}, output / "mlm_head.safetensors")


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} is not a model folder: {error}") from error
    return config


def first_layers(model: Tensors, layers: int) -> Tensors:
    """The tensors without those of layer ``layers`` and above."""
    prefix = "encoder.layer."
    return {
        name: tensor
        for name, tensor in model.items()
        if not name.startswith(prefix) or int(name[len(prefix) :].split(".")[0]) < layers
    }


def extend_positions(table: npt.NDArray[np.float32], positions: int) -> npt.NDArray[np.float32]:
    """Position embeddings for ``positions`` places, from a table of (n, hidden).

    The learned n come first, unchanged; then places 1 to n - 1 again and again. Neighbours stay neighbours, so
    attention in a long text works as in a short one, apart from every seam. Place 0 is not repeated: only [CLS]
    ever stood there, and its embedding says so.
    """
    learned = len(table)
    places = np.arange(positions)
    beyond = places >= learned
    places[beyond] = 1 + (places[beyond] - learned) % (learned - 1)
    return np.ascontiguousarray(table[places])


def _sample(
    pieces: Sequence[str], texts: Sequence[str], *, tokens: int = 60_000, length: int = 128
) -> list[list[int]]:
    """Token ids of texts (cut to ``length``), together about ``tokens``, chosen by digest."""
    tokenizer = build_tokenizer(pieces)
    tokenizer.enable_truncation(length)
    chosen: list[list[int]] = []
    taken = 0
    for text in sorted(texts, key=digest):
        if taken >= tokens:
            break
        chosen.append(tokenizer.encode(text).ids)
        taken += len(chosen[-1])
    return chosen
