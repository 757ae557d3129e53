"""Checks that every store makes, so that the same mistake has the same message everywhere."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from m3_core.errors import DimensionMismatch, FingerprintMismatch, InputError, Unsupported
from m3_core.store import Capabilities, Schema
from m3_core.text import without_secrets
from m3_core.types import Document, FloatArray, M3Vectors, Representation, check_document


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents and vectors that passed `check_upsert`: ids are unique, vectors are those the store holds."""

    documents: Sequence[Document]
    vectors: M3Vectors
    dropped: int = field(default=0)


def check_upsert(documents: Sequence[Document], vectors: M3Vectors, schema: Schema) -> Batch:
    """What an upsert may write, with the last of equal ids kept.

    Raises:
        InputError: documents and vectors differ in number, a channel is missing, a document cannot be kept.
        DimensionMismatch: vectors of another dimension than the schema.
    """
    for document in documents:
        check_document(document)
    if len(documents) != len(vectors):
        raise InputError(f"{len(documents)} documents came with vectors for {len(vectors)} texts")
    missing = schema.representations - vectors.representations
    if missing and documents:
        raise InputError(
            f"the collection holds {_names(schema.representations)}, but the vectors lack {_names(missing)}; "
            "encode with all of them"
        )
    vectors = vectors.only(schema.representations)
    check_dimensions(vectors, schema)
    last = {document.id: row for row, document in enumerate(documents)}
    if len(last) == len(documents):
        return Batch(documents, vectors)
    rows = sorted(last.values())
    return Batch([documents[row] for row in rows], vectors.take(rows), len(documents) - len(rows))


def check_dimensions(vectors: M3Vectors, schema: Schema) -> None:
    """Raise DimensionMismatch if the vectors are of another size than the collection's, InputError if not finite."""
    found: dict[str, tuple[int | None, int | None]] = {}
    if vectors.dense is not None:
        found["dense"] = (vectors.dense.shape[1], schema.dense)
        _check_finite(vectors.dense, "dense")
    if vectors.multi is not None:
        found["multi"] = (vectors.multi.values.shape[1], schema.multi)
        _check_finite(vectors.multi.values, "multi")
    if vectors.sparse is not None:
        _check_finite(vectors.sparse.data, "sparse")
        if len(vectors.sparse.data) and vectors.sparse.data.min() < 0:
            raise InputError("lexical weights must be at least 0")
    for name, (given, wanted) in found.items():
        if wanted is not None and given != wanted:
            raise DimensionMismatch(
                f"the {name} vectors have {given} dimensions, the collection holds {wanted}; "
                "use the model the collection was made with, or another collection"
            )


def _check_finite(values: FloatArray, name: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        raise InputError(
            f"the {name} vectors hold NaN or infinity (first at row {int(np.argwhere(~finite)[0][0])})"
        )


def check_update(ids: Sequence[str], vectors: M3Vectors, schema: Schema) -> None:
    """What `Store.update_vectors` checks before it looks for the ids.

    Raises:
        InputError: ids and vectors differ in number, or an id is given twice.
        Unsupported: vectors of a channel that the collection does not hold.
        DimensionMismatch: vectors of another dimension than the schema.
    """
    check_ids(ids)
    if len(ids) != len(vectors):
        raise InputError(f"{len(ids)} ids came with vectors for {len(vectors)} texts")
    if len(set(ids)) != len(ids):
        twice = next(name for row, name in enumerate(ids) if name in ids[:row])
        raise InputError(f"the id {twice!r} is given twice; an update takes each document once")
    check_held(vectors.representations, schema.representations)
    check_dimensions(vectors, schema)


def check_ids(ids: Sequence[str]) -> None:
    """Raise InputError if these are not a sequence of strings; one string alone would be taken letter by letter."""
    if isinstance(ids, str | bytes):
        raise InputError(f"ids are a list of strings; for one document write [{ids!r}]")
    for name in ids:
        if not isinstance(name, str):
            raise InputError(f"a document id must be a string, not {type(name).__name__}: {name!r}")


def check_size(size: int, what: str) -> None:
    """Raise InputError unless the number (of hits, of records in a page) is an integer of at least 1."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"{what} must be an integer of at least 1, not {size!r}")


def check_encoder(encoder: object) -> None:
    """Raise InputError for what stands where an encoder belongs: the name of a model, a store."""
    if not hasattr(encoder, "encode_queries"):
        raise InputError(f"the encoder is an M3Encoder, as M3Encoder.load(...) returns it, not {encoder!r}")


def check_store(store: object) -> None:
    """Raise InputError for what stands where a store belongs: a URL, an encoder, a client."""
    if not hasattr(store, "capabilities"):
        raise InputError(
            f"the store is one of this library's, as open_store(...) returns it, not {_shown(store)}"
        )


def check_held(wanted: Collection[Representation], held: Collection[Representation]) -> None:
    """Raise Unsupported for a channel that the store does not hold."""
    unheld = set(wanted) - set(held)
    if unheld:
        raise Unsupported(f"the store holds {_names(held)}, not {_names(unheld)}")


def check_search(queries: M3Vectors, k: Mapping[Representation, int], schema: Schema) -> None:
    """What `Store.search` checks first.

    Raises:
        Unsupported: a channel that the collection does not hold.
        InputError: a ``k`` below 1, a channel that the queries lack.
        DimensionMismatch: queries of another dimension than the schema.
    """
    check_held(k.keys(), schema.representations)
    for kind, size in k.items():
        check_size(size, f"k for {kind.value}")
    missing = set(k) - queries.representations
    if missing:
        raise InputError(
            f"the queries have no {_names(missing)} vectors; encode them with these representations"
        )
    check_dimensions(queries.only(k.keys()), schema)


def check_score(queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]], schema: Schema) -> None:
    """What `Store.score` checks first; raises as `check_search` and `check_ids` do."""
    if len(queries) != len(ids):
        raise InputError(f"{len(queries)} queries came with {len(ids)} lists of ids")
    for some in ids:
        check_ids(some)
    check_search(queries, {by: 1}, schema)


def check_channels(
    wanted: Collection[Representation], queries: M3Vectors, capabilities: Capabilities
) -> None:
    """Raise Unsupported for a channel the store does not hold, InputError for one the queries lack."""
    check_held(wanted, capabilities.representations)
    missing = set(wanted) - queries.representations
    if missing:
        raise InputError(
            f"the queries have no {_names(missing)} vectors; encode them with these representations"
        )


def check_fingerprint(held: str | None, wanted: str | None, collection: str) -> None:
    """Raise FingerprintMismatch if both are known and differ."""
    if held is not None and wanted is not None and held != wanted:
        raise FingerprintMismatch(
            f"{collection} holds vectors of the model {held}, but this model is {wanted}; "
            "open it with the model it was made with, or write into another collection"
        )


def _shown(value: object) -> str:
    """The value as an error names it; a URL without its secrets."""
    return repr(without_secrets(value)) if isinstance(value, str) else repr(value)


def _names(representations: Collection[Representation]) -> str:
    return ", ".join(kind.value for kind in Representation if kind in representations) or "nothing"
