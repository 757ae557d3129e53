"""Nodes to documents and back."""

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.vector_stores.utils import node_to_metadata_dict

from m3_core.errors import InputError, StoreError
from m3_core.types import Document
from m3_integrations.llama_index.convert import CONTENT, REF_DOC_ID, TYPE, encoded_text, to_document, to_node

SOURCE = RelatedNodeInfo(node_id="doc", node_type=ObjectType.DOCUMENT, metadata={"b": 1}, hash="h")
NEXT = RelatedNodeInfo(node_id="n2", node_type=ObjectType.TEXT)
RELATIONS: dict[Any, Any] = {
    NodeRelationship.SOURCE: SOURCE,
    NodeRelationship.NEXT: NEXT,
    NodeRelationship.CHILD: [NEXT, SOURCE],
}
METADATA = {"title": "Ä", "year": 2020, "b": {"c": [1, 2.5, None, True]}, "a": None}
NODES: list[BaseNode] = [
    TextNode(
        id_="n1",
        text="Merge cells",
        metadata=METADATA,
        relationships=RELATIONS,
        excluded_embed_metadata_keys=["year"],
        excluded_llm_metadata_keys=["title"],
        start_char_idx=3,
        end_char_idx=14,
        text_template="{content} / {metadata_str}",
    ),
    TextNode(id_="empty", text=""),
    Node(
        id_="n3",
        text_resource=MediaResource(text="words", mimetype="text/markdown"),
        extra_info={"z": 1, "a": 2},
    ),
    Node(id_="n4", image_resource=MediaResource(url="https://example.org/x.png", mimetype="image/png")),  # type: ignore[arg-type]
    LlamaDocument(id_="n5", text="a whole document", metadata={"k": "v"}),
    ImageNode(id_="n6", text="a picture", image_url="https://example.org/x.png", image_mimetype="image/png"),
    IndexNode(id_="n7", text="see there", index_id="other", obj=None),
]


@pytest.mark.parametrize("node", NODES, ids=lambda node: f"{type(node).__name__}-{node.id_}")
def test_a_node_comes_back_as_it_was(node: BaseNode) -> None:
    document = to_document(node)
    assert document.id == node.node_id
    assert document.text == node.get_content()
    back = to_node(document)
    assert type(back) is type(node)
    assert back == node
    assert back.hash == node.hash
    assert encoded_text(back) == encoded_text(node)


def test_the_fields_of_the_metadata_can_be_filtered_by() -> None:
    document = to_document(NODES[0])
    assert {key: document.metadata[key] for key in METADATA} == METADATA
    assert document.metadata[REF_DOC_ID] == "doc"
    assert document.metadata[TYPE] == "TextNode"
    assert "Merge" not in document.metadata[CONTENT]
    assert REF_DOC_ID not in to_document(NODES[1]).metadata


def test_the_order_of_metadata_survives_an_engine_that_sorts() -> None:
    node = TextNode(text="t", metadata={"z": 1, "a": 2})
    document = to_document(node)
    sorted_ = Document(document.id, document.text, dict(sorted(document.metadata.items())))
    assert list(to_node(sorted_).metadata) == ["z", "a"]


def test_embeddings_are_left_out() -> None:
    document = to_document(TextNode(text="t", embedding=[0.5, 0.25]))
    assert "0.25" not in document.metadata[CONTENT]
    assert to_node(document).embedding is None


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(
        st.text("abcdefgh_", min_size=1),
        st.one_of(st.none(), st.booleans(), st.text("ab\"'{}$\n"), st.integers(-5, 5), st.floats(-1, 1)),
    ),
)
def test_any_text_and_metadata(text: str, metadata: dict[str, Any]) -> None:
    node = TextNode(text=text, metadata=metadata)
    assert to_node(to_document(node)) == node


def test_what_json_has_no_word_for_becomes_text() -> None:
    back = to_node(to_document(TextNode(text="t", metadata={"day": date(2026, 11, 22)})))
    assert back.metadata == {"day": "2026-11-22"}


def test_documents_that_were_never_nodes() -> None:
    node = to_node(Document("7", "words", {"lang": "ja", REF_DOC_ID: "d"}))
    assert isinstance(node, TextNode)
    assert (node.node_id, node.text, node.metadata) == ("7", "words", {"lang": "ja", REF_DOC_ID: "d"})


@pytest.mark.parametrize("node", NODES, ids=lambda node: f"{type(node).__name__}-{node.id_}")
@pytest.mark.parametrize("remove_text", [True, False])
def test_nodes_as_llama_index_s_own_stores_keep_them(node: BaseNode, remove_text: bool) -> None:
    payload = node_to_metadata_dict(node, remove_text=remove_text)
    back = to_node(Document(node.node_id, node.get_content() if remove_text else "", payload))
    assert type(back) is type(node)
    assert back.metadata == node.metadata
    assert back.relationships == node.relationships
    assert back.get_content() == node.get_content()


@pytest.mark.parametrize("name", [CONTENT, TYPE, REF_DOC_ID])
def test_names_that_are_taken(name: str) -> None:
    with pytest.raises(InputError, match=f"node 'n'.*'{name}'"):
        to_document(TextNode(id_="n", text="t", metadata={name: "mine"}))


@pytest.mark.parametrize(
    "node",
    [
        TextNode(id_="n", text="t", metadata={"x": object()}),
        TextNode(id_="n", text="t", metadata={"a.b": 1}),
        TextNode(id_="n", text="\ud800"),
        TextNode(id_="n" * 513, text="t"),
        IndexNode(id_="n", text="t", index_id="i", obj=object()),
    ],
    ids=["object", "dot", "surrogate", "id", "obj"],
)
def test_nodes_that_cannot_be_kept_are_named(node: BaseNode) -> None:
    with pytest.raises(InputError, match="n"):
        to_document(node)


def test_something_else_than_a_node() -> None:
    with pytest.raises(InputError, match="not str"):
        to_document("text")  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"relationships": 3}), 3])
def test_content_that_is_no_node(content: Any) -> None:
    with pytest.raises(StoreError, match="document 'd' holds no node"):
        to_node(Document("d", "t", {CONTENT: content, TYPE: "TextNode"}))
