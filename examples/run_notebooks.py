"""Run the notebooks of this folder anew and store their outputs: ``make notebooks``.

With names, like ``python examples/run_notebooks.py 2_qdrant.ipynb``, only these. The notebook about Elasticsearch
uses the node at ELASTICSEARCH_URL; where that is not set, one is started as the tests do.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

HERE = Path(__file__).parent
NODE = "ELASTICSEARCH_URL"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(notebook: NotebookNode, folder: Path, **environment: str) -> NotebookNode:
    """Run all cells in a new kernel with this working directory; what they show replaces the stored outputs.

    environment: variables of the kernel beside those of this process.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised; the message is its traceback.
    """
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        record_timing=False,
        coalesce_streams=True,
    )
    # Waiting threads that sleep: spinning ones cost minutes where anything else runs on the machine.
    client.execute(env={"OMP_WAIT_POLICY": "passive", **os.environ, **environment})
    # Nothing of this machine and this moment is stored: neither versions nor what the editor remembers.
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


def node_url() -> str:
    """The address of an Elasticsearch node, started if none is given."""
    if NODE not in os.environ:
        sys.path.insert(0, str(HERE.parent / "tests"))
        from servers.elasticsearch import url_of

        os.environ[NODE] = url_of("lexical")
    return os.environ[NODE]


def main() -> None:
    names = sys.argv[1:] or sorted(path.name for path in HERE.glob("*.ipynb"))
    for name in names:
        path = HERE / Path(name).name
        environment = {NODE: node_url()} if "elasticsearch" in name else {}
        print(path.name, flush=True)
        notebook = execute(nbformat.read(path, as_version=4), HERE, **environment)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
