"""The public names are a list that changes on purpose, and importing them is light."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import m3_core
from m3_core import errors

PUBLIC = [
    *(
        "AsyncRetriever",
        "AsyncStore",
        "BackfillPlan",
        "Capabilities",
        "DimensionMismatch",
        "Document",
        "Explanation",
        "Extensible",
        "Fields",
    ),
    *(
        "Filter",
        "FilterError",
        "FingerprintMismatch",
        "Fusion",
        "Hit",
        "Hits",
        "IngestError",
        "IngestInterrupted",
        "IngestStopped",
        "IngestSummary",
        "InputError",
        "JournalError",
    ),
    *("M3Encoder", "M3Error", "M3Vectors", "MemoryStore", "MissingExtra", "ModelError", "Page", "Ragged"),
    *(
        "ReciprocalRank",
        "Record",
        "Rejected",
        "Representation",
        "RepresentationMissing",
        "Retriever",
        "Schema",
    ),
    *("SchemaMismatch", "SplitStore", "Store", "StoreError", "StoreLocked", "StoreNotFound"),
    *(
        "StoreUnavailable",
        "ThreadedStore",
        "UnionStore",
        "Unsupported",
        "WeightedSum",
        "backfill",
        "copy_store",
        "ingest",
        "open_partial",
        "open_store",
        "plan_backfill",
        "read_source",
    ),
]


def test_public_names_of_the_core() -> None:
    assert sorted(m3_core.__all__) == sorted(PUBLIC)
    assert dir(m3_core) == m3_core.__all__
    assert set(m3_core._HOME_OF) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_the_one_of_its_module(name: str) -> None:
    home = importlib.import_module(f"m3_core.{m3_core._HOME_OF[name]}")
    assert getattr(m3_core, name) is getattr(home, name)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'m3_core' has no attribute 'Nothing'"):
        _ = m3_core.Nothing


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("m3_core.compose", ["MissingMemberWarning", "SplitStore", "UnionStore"]),
        (
            "m3_integrations.llama_index",
            ["M3Embedding", "M3NodeWithScore", "M3Rerank", "M3Retriever", "M3VectorStore"],
        ),
        ("m3_integrations.elasticsearch", ["DroppedTokensWarning", "ElasticsearchStore"]),
        ("m3_integrations.milvus", ["MilvusStore"]),
        ("m3_integrations.qdrant", ["QdrantEdgeStore", "QdrantStore"]),
    ],
)
def test_public_names_of_other_packages(package: str, names: list[str]) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == names
    for name in names:
        assert getattr(module, name).__name__ == name


def test_every_error_is_public_and_in_the_drawn_tree() -> None:
    raised = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert raised.keys() <= set(PUBLIC)
    assert "IngestInterrupted" in PUBLIC  # a KeyboardInterrupt, drawn apart
    drawn = (errors.__doc__ or "").partition("KeyboardInterrupt")[0]
    lines = [line for line in drawn.splitlines() if any(char in line for char in "├└") or "M3Error" in line]
    assert [line.strip("│├└─ ").split()[0] for line in lines] == list(raised)
    for line in lines[1:]:
        name = line.strip("│├└─ ").split()[0]
        level = line.index(name) // 4
        parent = next(
            other.strip("│├└─ ").split()[0]
            for other in reversed(lines[: lines.index(line)])
            if other.index(other.strip("│├└─ ").split()[0]) // 4 == level - 1
        )
        assert raised[parent] in raised[name].__bases__, name


HEAVY = (
    "torch",
    "transformers",
    "scipy",
    "tokenizers",
    "pyarrow",
    "typer",
    "rich",
    "qdrant_client",
    "pymilvus",
)


@pytest.mark.parametrize(
    "statement",
    [
        "import m3_core; dir(m3_core)",
        "from m3_core import Document, Filter, MemoryStore, ReciprocalRank, SplitStore, Store, WeightedSum, open_store",
    ],
)
def test_import_is_light(statement: str) -> None:
    code = f"import sys; {statement}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_core_imports_neither_integrations_nor_training() -> None:
    for path in Path(m3_core.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith(("m3_integrations", "m3_training")), f"{path} imports {name}"
