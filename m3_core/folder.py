"""Finding a model's folder and reading what is in it. Weights are read as tensors only; nothing is executed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from m3_core.errors import ModelError

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
_HUB_SECONDS = 10.0


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
    try:
        return _download(str(name))
    except Exception as error:
        raise ModelError(
            f"{str(name)!r} is no folder here and could not be fetched from the hub: {_first_line(error)}"
        ) from error


def _download(name: str) -> Path:
    """The hub's repository, or its copy in the cache if the hub does not answer."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        # A snapshot's own first request waits for ever on a hub that accepts and says nothing.
        HfApi().model_info(name, timeout=_HUB_SECONDS)
    except Exception:
        cached = _cached(name)
        if cached is None:
            raise
        return cached
    return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES), local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file; ModelError, naming the file, if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} holds no {path.name}; a BGE-M3 folder has one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object")
    return content


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors`` or ``pytorch_model.bin``, in one file or in several."""
    for stem, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", _read_pickle)):
        if (folder / stem).is_file():
            return read(folder / stem)
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return {name: value for shard in _shards(index) for name, value in read(folder / shard).items()}
    raise ModelError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def _shards(index: Path) -> list[str]:
    """The names of the files that together hold the weights."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map of tensor names to files")
    return sorted({Path(str(shard)).name for shard in weight_map.values()})


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read, it is damaged or cut off: {error}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.pt`` or ``.bin`` file; anything else in it is refused, and never run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any layer of pickle, zip and torch
        raise ModelError(
            f"{path} cannot be read as tensors, it is damaged or holds something else: {_first_line(error)}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} is not a dictionary of tensors")
    return dict(state)


def read_head(path: Path) -> dict[str, Tensor] | None:
    """Weight and bias of a head's ``.pt`` file, None if there is no such file."""
    if not path.is_file():
        return None
    state = _read_pickle(path)
    if set(state) != {"weight", "bias"} or state["weight"].ndim != 2 or not len(state["weight"]):
        raise ModelError(f"{path} should hold a weight (out, hidden) and a bias, but holds {sorted(state)}")
    return state
