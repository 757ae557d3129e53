"""Hidden-state distillation: a student that was projected from a teacher learns to say what the teacher says.

The student's hidden states should be the teacher's times the projection P that made it (``prepare shrink``). P is
read off the two word embeddings, which differ by nothing else.
"""

import hashlib
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from m3_core.backbone import TokenBatch
from m3_core.errors import InputError
from m3_core.model import M3Model
from m3_core.tokenizer import M3Tokenizer

from .config import Distil, TextConfig
from .data import read_lines, text_of
from .loop import Trainer, packed, trainable

CHARACTERS = 1200  # read of a text; more than its first tokens need
SHORTEST = 200  # characters left to read where a piece starts inside its text
LAST_LAYER = 2.0  # weight of the last layer beside 1 for the others: the heads stand on it


def projection(teacher: M3Model, student: M3Model) -> Tensor:
    """P, (teacher's hidden size, student's), with word embeddings of the student = those of the teacher times P.

    Raises:
        InputError: the student was not projected from this teacher (or has been trained since).
    """
    large = teacher.backbone.embeddings.word_embeddings.weight.detach().double()
    small = student.backbone.embeddings.word_embeddings.weight.detach().double()
    if len(large) != len(small) or teacher.config.layers != student.config.layers:
        raise InputError("teacher and student need the same vocabulary and number of layers")
    matrix: Tensor = torch.linalg.lstsq(large, small).solution
    error = (large @ matrix - small).abs().max().item()
    if error > 1e-3:
        raise InputError(
            f"the student is no projection of this teacher: its word embeddings are up to {error:.3g} away from one"
        )
    return matrix.float()


class TextData:
    """Texts by language; the batch of a step depends on the seed and the number alone."""

    def __init__(self, path: Path, config: TextConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.texts: dict[str, list[str]] = {}
        digest = hashlib.sha256()
        for number, row in read_lines(path):
            text = text_of(row, "text", f"{path}, line {number}")
            self.texts.setdefault(str(row.get("lang")), []).append(text)
            digest.update(text.encode("utf-8", "surrogatepass"))
        if not self.texts:
            raise InputError(f"{path} holds no texts")
        missing = sorted(set(config.favoured) - set(self.texts))
        if missing:
            raise InputError(f"texts.favoured: {path} holds no texts in {', '.join(missing)}")
        self.identity = f"{config!r} {digest.hexdigest()[:32]}"

    def batch(self, step: int, tokenizer: M3Tokenizer) -> list[list[int]]:
        """Tokenised pieces of texts, about ``batch_tokens`` in all; half of them start inside their text."""
        random = Random(f"{self.seed} {step}")
        weights = [
            len(texts) ** 0.5 * (2 if lang in self.config.favoured else 1)
            for lang, texts in self.texts.items()
        ]
        pieces: list[list[int]] = []
        total = 0
        while True:
            text = random.choice(random.choices(list(self.texts.values()), weights)[0])
            start = random.randrange(max(1, len(text) - SHORTEST)) if random.random() < 0.5 else 0
            tokens = tokenizer.encode([text[start : start + CHARACTERS]], self.config.tokens)[0][0]
            total += len(tokens)
            if total > self.config.batch_tokens:
                return pieces
            pieces.append(tokens)


class HiddenStates:
    """Squared distance to the teacher's projected hidden states, as a share of their variance, over all layers."""

    def __init__(self, student: M3Model, teacher: M3Model, tokenizer: M3Tokenizer, data: TextData) -> None:
        self.student, self.teacher, self.tokenizer, self.data = student, teacher.eval(), tokenizer, data
        self.projection = projection(teacher, student)
        self.teacher.cast(student.backbone.compute_dtype)

    def identity(self) -> str:
        """Of the texts and their options."""
        return self.data.identity

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum over embeddings and layers; the log gets each layer's."""
        batch: TokenBatch = packed(self.data.batch(step, self.tokenizer))[0]
        with torch.no_grad():
            wanted = [
                state @ self.projection for state in self.teacher.backbone.hidden_states(batch, every=True)
            ]
        states = self.student.backbone.hidden_states(batch, every=True)
        layers = [_distance(state, target) for state, target in zip(states, wanted, strict=True)]
        loss = torch.stack([*layers[:-1], LAST_LAYER * layers[-1]]).sum()
        return loss, {f"layer_{number}": layer.item() for number, layer in enumerate(layers)}


def _distance(states: Tensor, targets: Tensor) -> Tensor:
    spread = (targets - targets.mean(0)).square().sum(1).mean()
    return (states - targets).square().sum(1).mean() / spread


def distil(
    student: M3Model, teacher: M3Model, tokenizer: M3Tokenizer, recipe: Distil, data: Path, output: Path
) -> Trainer:
    """A trainer of ``student`` towards ``teacher`` on the recipe's texts in the folder ``data``."""
    trained = trainable(student, recipe.loop)
    texts = TextData(data / recipe.texts.file, recipe.texts, recipe.loop.seed)
    return Trainer(trained, tokenizer, HiddenStates(trained, teacher, tokenizer, texts), recipe.loop, output)
