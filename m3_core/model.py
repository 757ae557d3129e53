"""The M3 model: a backbone and up to three heads; loading and saving of BGE-M3 folders.

A folder holds ``config.json``, ``model.safetensors`` or ``pytorch_model.bin``, ``sparse_linear.pt``,
``colbert_linear.pt`` and the tokenizer's files. A saved one also opens in sentence-transformers and in
FlagEmbedding. Nothing in a folder is ever executed: weights are read as tensors only.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from m3_core.backbone import Backbone, BackboneConfig, TokenBatch
from m3_core.errors import ModelError, RepresentationMissing
from m3_core.folder import MULTI_FILE, SPARSE_FILE, read_head, read_json, read_weights
from m3_core.tokenizer import M3Tokenizer
from m3_core.types import Representation

_IGNORED = ("pooler.", "embeddings.position_ids", "lm_head.", "cls.")
_PREFIXES = ("roberta.", "bert.", "model.")


@dataclass(frozen=True, slots=True, eq=False)
class ModelOutput:
    """Of a batch of n texts and T tokens, with gradients if the model is being trained.

    dense: (n, d), normalised. weights: (T,) >= 0, the lexical weight of every token, special ones included.
    multi: (T - number of CLS, d_m), each normalised, rows in the order of the batch. A representation that
    was not asked for is None.
    """

    dense: Tensor | None
    weights: Tensor | None
    multi: Tensor | None


class M3Model(nn.Module):
    """Backbone, lexical head (hidden -> 1) and multi-vector head (hidden -> d_m); heads may be missing.

    fingerprint: of the weights and the tokenizer it was loaded with, None for a model made in memory.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        sparse: bool = True,
        multi_dim: int | None = None,
        source: str = "config.json",
    ) -> None:
        super().__init__()
        self.raw_config = dict(config)
        self.config = BackboneConfig.from_json(config, source)
        self.backbone = Backbone(self.config)
        width = self.config.hidden_size
        self.sparse_linear = nn.Linear(width, 1) if sparse else None
        self.colbert_linear = nn.Linear(width, multi_dim) if multi_dim else None
        self.fingerprint: str | None = None

    @property
    def representations(self) -> frozenset[Representation]:
        """What the heads can give; dense is always there."""
        heads = {Representation.SPARSE: self.sparse_linear, Representation.MULTI: self.colbert_linear}
        return frozenset({Representation.DENSE, *(kind for kind, head in heads.items() if head is not None)})

    def check(self, wanted: Collection[Representation]) -> None:
        """Raise RepresentationMissing for a representation the model has no head for."""
        files = {Representation.SPARSE: SPARSE_FILE, Representation.MULTI: MULTI_FILE}
        for kind in wanted:
            if kind not in self.representations:
                raise RepresentationMissing(
                    f"the model has no {kind.value} representation: its folder holds no {files[kind]}; "
                    f"it offers {', '.join(sorted(self.representations))}"
                )

    def forward(
        self, batch: TokenBatch, wanted: Collection[Representation] = tuple(Representation)
    ) -> ModelOutput:
        """The wanted representations from one pass through the backbone (arXiv 2402.03216, section 3.2)."""
        self.check(wanted)
        hidden = self.backbone(batch)
        dense = weights = multi = None
        if Representation.DENSE in wanted:
            dense = F.normalize(self._cls(hidden, batch), dim=-1)
        if Representation.SPARSE in wanted and self.sparse_linear is not None:
            weights = F.relu(self.sparse_linear(hidden)).squeeze(-1)
        if Representation.MULTI in wanted and self.colbert_linear is not None:
            multi = F.normalize(self.colbert_linear(hidden[~batch.cls]), dim=-1)
        return ModelOutput(dense, weights, multi)

    @staticmethod
    def _cls(hidden: Tensor, batch: TokenBatch) -> Tensor:
        """(n, hidden): the hidden state of each text's CLS; with MCLS the mean of all its CLS (section 3.4)."""
        states = hidden[batch.cls]
        if len(states) == len(batch.lengths):
            return states
        sizes = torch.tensor(batch.lengths, device=hidden.device)
        owner = torch.repeat_interleave(torch.arange(len(sizes), device=hidden.device), sizes)[batch.cls]
        sums = hidden.new_zeros(len(sizes), hidden.shape[1]).index_add(0, owner, states)
        return sums / torch.bincount(owner, minlength=len(sizes))[:, None]

    def cast(self, dtype: torch.dtype) -> "M3Model":
        """Compute matrix products in ``dtype`` (residual stream, LayerNorm and heads stay float32)."""
        self.backbone.cast(dtype)
        return self

    @staticmethod
    def load(folder: str | Path) -> "tuple[M3Model, M3Tokenizer]":
        """Read a BGE-M3 folder, in float32.

        Raises:
            ModelError: a file is missing, damaged, or not of this format; named.
        """
        folder = Path(folder)
        config = read_json(folder / "config.json")
        state = {_strip(name): value for name, value in read_weights(folder).items()}
        state = {name: value for name, value in state.items() if not name.startswith(_IGNORED)}
        sparse, multi = read_head(folder / SPARSE_FILE), read_head(folder / MULTI_FILE)
        with torch.device("meta"):  # the parameters are replaced, so none is allocated or drawn
            model = M3Model(
                config,
                sparse=sparse is not None,
                multi_dim=len(multi["weight"]) if multi else None,
                source=str(folder / "config.json"),
            )
        _fill(model.backbone, state, folder)
        for head, values, name in (
            (model.sparse_linear, sparse, SPARSE_FILE),
            (model.colbert_linear, multi, MULTI_FILE),
        ):
            if head is not None and values is not None:
                _fill(head, values, folder / name)
        tokenizer = M3Tokenizer.load(folder)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ModelError(
                f"{folder}: tokenizer.json has token ids up to {tokenizer.vocab_size - 1}, "
                f"the model embeds {model.config.vocab_size} tokens"
            )
        model.fingerprint = model.compute_fingerprint(tokenizer)
        return model.eval(), tokenizer

    def compute_fingerprint(self, tokenizer: M3Tokenizer) -> str:
        """32 hex digits of a SHA-256 over all that decides a text's vectors.

        That is: names, shapes and float32 values of the weights, what the configuration adds to them, and the
        tokenizer. The same for every ``dtype`` the products are computed in.
        """
        config = self.config
        used = (config.position_offset, config.heads, config.layer_norm_eps, config.gelu)
        digest = hashlib.sha256(repr(used).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().data)
        digest.update(tokenizer.content())
        return digest.hexdigest()[:32]

    def save(self, folder: str | Path, tokenizer: M3Tokenizer, *, dtype: torch.dtype = torch.float32) -> None:
        """Write a BGE-M3 folder that this library, FlagEmbedding and sentence-transformers open."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
        config = {**self.raw_config, "torch_dtype": names[dtype]}
        _write_json(folder / "config.json", config)
        # The weights may be mapped from the very file that is replaced here, so it is not written in place.
        part = folder / "model.safetensors.part"
        save_file(_tensors(self.backbone, dtype), part, metadata={"format": "pt"})
        # safetensors writes for the owner alone; whoever may read the other files may read the weights.
        part.chmod((folder / "config.json").stat().st_mode)
        part.replace(folder / "model.safetensors")
        for head, name in ((self.sparse_linear, SPARSE_FILE), (self.colbert_linear, MULTI_FILE)):
            if head is None:
                (folder / name).unlink(missing_ok=True)
            else:
                torch.save(_tensors(head, dtype), folder / name)
        tokenizer.save(folder)
        for name, content in _sentence_transformers_files(self.config):
            (folder / name).parent.mkdir(exist_ok=True)
            _write_json(folder / name, content)


def _strip(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    # Checkpoints that came from TensorFlow name the LayerNorm parameters gamma and beta.
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _fill(module: nn.Module, state: Mapping[str, Tensor], where: Path) -> None:
    expected = module.state_dict()
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unknown:
        raise ModelError(
            f"{where}: weights missing: {missing[:3] or 'none'}; weights not known: {unknown[:3] or 'none'}"
        )
    for name, value in state.items():
        if not value.is_floating_point():
            raise ModelError(f"{where}: {name} holds {value.dtype}; quantised weights are not supported")
        if value.shape != expected[name].shape:
            raise ModelError(
                f"{where}: {name} has shape {tuple(value.shape)}, config.json says {tuple(expected[name].shape)}"
            )
    module.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)


def _tensors(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", dtype).contiguous() for name, value in module.state_dict().items()}


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sentence_transformers_files(config: BackboneConfig) -> Iterator[tuple[str, object]]:
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    yield (
        "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(kinds)
        ],
    )
    yield (
        "1_Pooling/config.json",
        {"word_embedding_dimension": config.hidden_size, "pooling_mode_cls_token": True},
    )
    yield "sentence_bert_config.json", {"max_seq_length": config.max_length, "do_lower_case": False}
