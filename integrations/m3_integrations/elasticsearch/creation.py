"""The mappings of a new index, and what of an index that is there does not fit a model. Pure functions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from m3_core.errors import InputError, Unsupported
from m3_core.store import Fields, Problem, Schema
from m3_core.types import Representation
from m3_integrations.elasticsearch.layout import ANY_VOCABULARY, META, TERMS, Layout, Note
from m3_integrations.elasticsearch.mapped import KEYWORD_LIMIT

Metadata = Literal["any", "mapped"]
"""How a new index keeps metadata: any JSON, with a field of filter terms; or field by field, one type each."""


def problems(layout: Layout, wanted: Schema, fingerprint: str | None) -> list[Problem]:
    """What of an index does not fit a model. Multi-vectors are not asked for: `rank_vectors` needs a licence."""
    found = list(layout.problems.values())
    if fingerprint is not None and wanted.fingerprint is not None and fingerprint != wanted.fingerprint:
        found.append(
            Problem(
                f"{layout.name} holds vectors of the model {fingerprint}, but this model is {wanted.fingerprint}",
                "open it with the model it was made with, or write into another index",
            )
        )
    specs = {
        Representation.DENSE: dense_spec(wanted.dense or 0, "hnsw"),
        Representation.SPARSE: {"type": "rank_features"},
    }
    for kind, spec in specs.items():
        if kind in wanted.representations and layout.fields.name_of(kind) is None:
            name = str(Fields().name_of(kind))
            found.append(
                Problem(
                    f"{layout.name} has no {kind.value} field",
                    f"name it with fields=Fields({kind.value}=...), leave it out with {kind.value}=none, keep it in a second "
                    f"index (SplitStore), or add it: {layout.adding(name, spec)}",
                )
            )
    held = layout.schema
    if None not in (held.dense, wanted.dense) and held.dense != wanted.dense:
        found.append(
            Problem(
                f"{layout.name} holds dense vectors of {held.dense} dimensions, this model makes {wanted.dense}",
                "use the model the index was made with, or another index",
            )
        )
    if None not in (held.sparse, wanted.sparse) and held.sparse not in (wanted.sparse, ANY_VOCABULARY):
        found.append(
            Problem(
                f"{layout.name} holds lexical weights over {held.sparse} tokens, this model has {wanted.sparse}",
                "use the model the index was made with, or another index",
            )
        )
    return found


def dense_spec(dimension: int, index: str | Mapping[str, Any]) -> dict[str, Any]:
    """The mapping of a dense field. index: the type of its index, or ``index_options`` as they are."""
    options = {"type": index} if isinstance(index, str) else dict(index)
    return {
        "type": "dense_vector",
        "dims": dimension,
        "index": True,
        "similarity": "dot_product",
        "index_options": options,
    }


def new_mappings(
    schema: Schema, fields: Fields, *, index: str | Mapping[str, Any], metadata: Metadata
) -> dict[str, Any]:
    """The mappings of a new index.

    Raises:
        Unsupported: the schema has neither dense vectors nor lexical weights.
        InputError: a name is missing, there twice, or has a dot; ``metadata`` is none of the two ways.
    """
    held = replace(
        fields,
        dense=fields.dense if schema.dense is not None else None,
        sparse=fields.sparse if schema.sparse is not None else None,
        multi=None,
    )
    if not held.representations:
        raise Unsupported(
            "Elasticsearch holds dense vectors and lexical weights, and this schema with these fields has neither"
        )
    if metadata not in ("any", "mapped"):
        raise InputError(f"metadata is kept 'any' or 'mapped', not {metadata!r}")
    names = [
        name
        for name in (held.id, held.text, held.metadata, held.dense, held.sparse, TERMS)
        if name is not None
    ]
    if len(set(names)) < len(names) or not all(name and "." not in name for name in names):
        raise InputError(f"a new index needs a name for each field, without dots and each once: {names}")
    properties: dict[str, Any] = {held.text: {"type": "text"}}
    if held.id is not None:
        properties[held.id] = {"type": "keyword"}
    if held.dense is not None and schema.dense is not None:
        properties[held.dense] = dense_spec(schema.dense, index)
    if held.sparse is not None:
        properties[held.sparse] = {"type": "rank_features"}
    mappings: dict[str, Any] = {"dynamic": False, "properties": properties}
    if metadata == "any":
        properties[held.metadata] = {"type": "object", "enabled": False}
        properties[TERMS] = {"type": "keyword", "doc_values": False}
    else:
        properties[held.metadata] = {"type": "object", "dynamic": True}
        mappings |= {
            "date_detection": False,
            "numeric_detection": False,
            "dynamic_templates": _templates(held.metadata),
        }
    note = Note(schema.fingerprint, schema.sparse, held, TERMS if metadata == "any" else None)
    return {**mappings, "_meta": {META: note.to_json()}}


def _templates(metadata: str) -> list[dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = {
        "string": {"type": "keyword", "ignore_above": KEYWORD_LIMIT},
        "long": {"type": "double", "coerce": False},
        "double": {"type": "double", "coerce": False},
        "boolean": {"type": "boolean"},
    }
    return [
        {f"m3_{kind}": {"path_match": f"{metadata}.*", "match_mapping_type": kind, "mapping": mapping}}
        for kind, mapping in kinds.items()
    ]
