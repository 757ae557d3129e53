"""What the folder of an embedded collection says about it: Edge's own configuration, and our note."""

import json
from pathlib import Path

from m3_core.errors import StoreError
from m3_core.types import Json
from m3_integrations.qdrant.layout import Layout, Note, SparseInfo, VectorInfo

CONFIG = "edge_config.json"
SIDECAR = "m3.json"
"""Our note about the collection, in its folder; Edge keeps no metadata of a collection."""
WAL = "wal"
"""What Edge makes first; where nothing else is, the making of a collection was cut short, on a full disk or by a kill."""
_DEFAULT_M = 16


def write_note(path: Path, note: Note) -> None:
    """Whole or not at all: a note cut short by a kill would lose the fingerprint."""
    new = path / f"{SIDECAR}.new"
    new.write_text(json.dumps(note.to_json()), encoding="utf-8")
    new.replace(path / SIDECAR)


def _read_json(path: Path) -> Json:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def read_layout(path: Path) -> Layout:
    """What Edge's own configuration file and our note say."""
    config = _read_json(path / CONFIG)
    common = config.get("hnsw_config") or {}
    quantized = bool(config.get("quantization_config"))
    vectors = {
        name: VectorInfo(
            size=info["size"],
            distance=info["distance"].lower(),
            multi=bool(info.get("multivector_config")),
            datatype=info.get("datatype") or "float32",
            graph=(info.get("hnsw_config") or common).get("m", _DEFAULT_M) > 0,
            quantized=quantized or bool(info.get("quantization_config")),
        )
        for name, info in (config.get("vectors") or {}).items()
    }
    sparse = {
        name: SparseInfo(bool(info.get("modifier")), info.get("datatype") or "float32")
        for name, info in (config.get("sparse_vectors") or {}).items()
    }
    return Layout(vectors, sparse, Note.from_json(_read_json(path / SIDECAR)))
