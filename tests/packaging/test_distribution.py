"""What the installed distribution promises: entry points, extras, the pip line for a missing one."""

import subprocess
import sys
from importlib.metadata import entry_points, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = {
    *("qdrant", "milvus", "elasticsearch", "langchain", "llama-index"),
    *("train", "notebooks", "all", "dev"),
}


def test_extras_are_those_of_the_readme() -> None:
    assert set(metadata("m3-retrieval").get_all("Provides-Extra") or []) == EXTRAS


@pytest.mark.parametrize("point", entry_points(group="m3.stores"), ids=lambda point: point.name)
def test_every_store_of_an_entry_point_opens_by_url(point: object) -> None:
    factory = point.load()  # type: ignore[attr-defined]
    assert callable(factory.from_url)


@pytest.mark.parametrize(
    ("package", "missing", "extra"),
    [
        ("m3_integrations.qdrant", "qdrant_client", "qdrant"),
        ("m3_integrations.qdrant", "qdrant_edge", "qdrant"),
        ("m3_integrations.milvus", "pymilvus", "milvus"),
        ("m3_integrations.elasticsearch", "elasticsearch", "elasticsearch"),
    ],
)
def test_importing_without_the_extra_says_the_pip_line(package: str, missing: str, extra: str) -> None:
    # None in sys.modules makes the import fail exactly as for a package that is not installed.
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from m3_core import MissingExtra\n"
        f"try:\n    import {package}\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install 'm3-retrieval[{extra}]'" in result.stdout


def test_no_init_files_that_would_make_second_module_names() -> None:
    assert not (ROOT / "integrations" / "__init__.py").exists()
    assert not (ROOT / "training" / "__init__.py").exists()


@pytest.mark.parametrize("package", ["m3_core", "integrations/m3_integrations", "training/m3_training"])
def test_packages_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
