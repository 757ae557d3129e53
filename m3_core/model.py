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
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from m3_core.backbone import Backbone, BackboneConfig, TokenBatch
from m3_core.errors import ModelError, RepresentationMissing
from m3_core.tokenizer import M3Tokenizer
from m3_core.types import Representation

SPARSE_FILE, MULTI_FILE = "sparse_linear.pt", "colbert_linear.pt"
HUB_FILES = (
    "*.json",
    "*.safetensors",
    "pytorch_model*.bin",
    SPARSE_FILE,
    MULTI_FILE,
    "*.txt",
    "sentencepiece.bpe.model",
)
BUNDLED = Path(__file__).parent / "models"
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
        self, config: Mapping[str, Any], *, sparse: bool = True, multi_dim: int | None = None
    ) -> None:
        super().__init__()
        self.raw_config = dict(config)
        self.config = BackboneConfig.from_json(config)
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
        config = _read_config(folder)
        state = {_strip(name): value for name, value in _read_weights(folder).items()}
        state = {name: value for name, value in state.items() if not name.startswith(_IGNORED)}
        sparse, multi = _read_head(folder / SPARSE_FILE), _read_head(folder / MULTI_FILE)
        model = M3Model(config, sparse=sparse is not None, multi_dim=len(multi["weight"]) if multi else None)
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
                f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model embeds {model.config.vocab_size}"
            )
        model.fingerprint = model.compute_fingerprint(tokenizer)
        return model.eval(), tokenizer

    def compute_fingerprint(self, tokenizer: M3Tokenizer) -> str:
        """32 hex digits of a SHA-256 over names, shapes and float32 values of all weights, and the tokenizer."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().data)
        digest.update(tokenizer.backend.to_str().encode())
        return digest.hexdigest()[:32]

    def save(self, folder: str | Path, tokenizer: M3Tokenizer, *, dtype: torch.dtype = torch.float32) -> None:
        """Write a BGE-M3 folder that this library, FlagEmbedding and sentence-transformers open."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
        config = {**self.raw_config, "torch_dtype": names[dtype]}
        _write_json(folder / "config.json", config)
        save_file(_tensors(self.backbone, dtype), folder / "model.safetensors", metadata={"format": "pt"})
        for head, name in ((self.sparse_linear, SPARSE_FILE), (self.colbert_linear, MULTI_FILE)):
            if head is not None:
                torch.save(_tensors(head, dtype), folder / name)
        tokenizer.save(folder)
        for name, content in _sentence_transformers_files(self.config):
            (folder / name).parent.mkdir(exist_ok=True)
            _write_json(folder / name, content)


def find_model(name: str | Path) -> Path:
    """The folder of a model: a folder, a bundled model's name, or a repository on the Hugging Face hub.

    Raises:
        ModelError: there is no such folder, and the hub does not have it or cannot be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    if (BUNDLED / str(name)).is_dir():
        return BUNDLED / str(name)
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        bundled = ", ".join(sorted(path.name for path in BUNDLED.glob("*") if path.is_dir()))
        raise ModelError(
            f"there is no folder {str(name)!r}; give a folder, a bundled model ({bundled}) or a hub name like BAAI/bge-m3"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"{name!r} is no folder here and could not be fetched from the hub: {str(error).splitlines()[0]}"
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no config.json; a BGE-M3 folder has one") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    for stem, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", _read_pickle)):
        if (folder / stem).is_file():
            return read(folder / stem)
        index = folder / f"{stem}.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            return {
                name: value for shard in shards for name, value in read(folder / Path(shard).name).items()
            }
    raise ModelError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read, it is damaged or cut off: {error}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.pt`` or ``.bin`` file; anything else in it is refused, and never run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        UnpicklingError,
        BadZipFile,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} cannot be read as tensors, it is damaged or holds something else: {reason}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} is not a dictionary of tensors")
    return dict(state)


def _read_head(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    state = _read_pickle(path)
    if set(state) != {"weight", "bias"} or state["weight"].ndim != 2:
        raise ModelError(f"{path} should hold a weight (out, hidden) and a bias, but holds {sorted(state)}")
    return state


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
