"""Between LlamaIndex's nodes and our documents. Pure.

A node's text is the document's text, and its metadata is the document's metadata, to be filtered by. Beside it
lie three fields under the names that LlamaIndex's own stores use: the node as JSON without its text and
embedding (the order of its metadata, which an engine may change, its relationships, its templates), its class,
and the id of the document it comes from. So nodes in collections of those stores are read as well.
"""

import json
from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    ImageDocument,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    TextNode,
)
from llama_index.core.schema import (
    Document as LlamaDocument,
)

from m3_core.errors import InputError, StoreError
from m3_core.types import Document, check_document

CONTENT = "_node_content"
TYPE = "_node_type"
REF_DOC_ID = "ref_doc_id"
_OURS = (CONTENT, TYPE, REF_DOC_ID)
_CLASSES: Mapping[str, type[BaseNode]] = {
    kind.class_name(): kind for kind in (Node, LlamaDocument, ImageDocument, ImageNode, IndexNode, TextNode)
}


def encoded_text(node: BaseNode) -> str:
    """What the model sees of a node: its text under its metadata, as LlamaIndex embeds it."""
    return node.get_content(metadata_mode=MetadataMode.EMBED)


def to_document(node: BaseNode) -> Document:
    """The node as a document.

    Raises:
        InputError: a node that cannot be kept; named, with the field.
    """
    if not isinstance(node, BaseNode):
        raise InputError(f"a node is a BaseNode like TextNode, not {type(node).__name__}")
    taken = [name for name in _OURS if name in node.metadata]
    if taken:
        raise InputError(
            f"metadata of node {node.node_id!r}: the field {taken[0]!r} is LlamaIndex's own; call it otherwise"
        )
    try:
        fields = node.model_dump(mode="json", exclude={"embedding"})
    except (ValueError, TypeError) as error:
        raise InputError(f"the node {node.node_id!r} cannot be kept as JSON: {error}") from error
    for name in ("text", "text_resource"):
        if isinstance(fields.get(name), dict):
            fields[name] = {key: value for key, value in fields[name].items() if key != "text"}
        else:
            fields.pop(name, None)
    metadata = dict(fields["metadata"])
    metadata[CONTENT], metadata[TYPE] = json.dumps(fields, ensure_ascii=False), node.class_name()
    if node.ref_doc_id is not None:
        metadata[REF_DOC_ID] = node.ref_doc_id
    document = Document(node.node_id, node.get_content(metadata_mode=MetadataMode.NONE), metadata)
    check_document(document)
    return document


def to_node(document: Document) -> BaseNode:
    """The node that a document was made of; of a document that was never a node, a `TextNode`.

    Raises:
        StoreError: what the document has under `CONTENT` is no node.
    """
    content = document.metadata.get(CONTENT)
    if content is None:
        return TextNode(id_=document.id, text=document.text, metadata=dict(document.metadata))
    kind = _CLASSES.get(str(document.metadata.get(TYPE)), TextNode)
    try:
        fields: dict[str, Any] = {**json.loads(content), "id_": document.id}
        if issubclass(kind, TextNode):
            fields["text"] = document.text or fields.get("text", "")
        elif document.text:
            fields["text_resource"] = {**(fields.get("text_resource") or {}), "text": document.text}
        return kind.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"the field {CONTENT!r} of document {document.id!r} holds no node: {error}"
        ) from error
