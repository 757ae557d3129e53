"""What of a store can be copied into another, and what a new one must be made for; nothing is written here."""

from collections.abc import Collection
from dataclasses import replace

from m3_core.checks import check_fingerprint
from m3_core.errors import FingerprintMismatch, InputError, SchemaMismatch, Unsupported
from m3_core.store import Checking, Schema, Store
from m3_core.types import M3Vectors, Representation

UNKNOWN_VOCABULARY = 2**31 - 1
"""From this width on, lexical weights are over all ids that an engine can hold, because it knows of no vocabulary."""
_AT_ONCE = 16
"""Documents looked at together; their vectors may be large."""


def check_copy(
    source: Store, target: Store, drop: Collection[Representation] = (), model: Schema | None = None
) -> Schema:
    """What of the source will be copied into this target; raises as `copy_store` does. Nothing is written."""
    if source.identity == target.identity:
        raise InputError(f"{source.identity} is both the source and the target")
    held = target.capabilities.representations
    kinds = kept_channels(source, held, target.identity, drop)
    if lacking := held - kinds:
        raise SchemaMismatch(
            f"{target.identity} holds {names(lacking)} vectors, and {source.identity} has none; copy into a new store, "
            "and let m3 backfill add the others there"
        )
    stated = None if model is None else model.fingerprint
    check_fingerprint(source.fingerprint, stated, source.identity)
    made_by = source.fingerprint or stated
    check_fingerprint(target.fingerprint, made_by, target.identity)
    if target.fingerprint is not None and made_by is None:
        raise FingerprintMismatch(
            f"{target.identity} holds vectors of the model {target.fingerprint}, and {source.identity} does not say "
            "whose it holds; if they are of the same model, name it (--model, or model=encoder.schema())"
        )
    sizes = _sizes(source, kinds) if model is None else model.only(kinds)
    known = sizes.sparse is None or sizes.sparse < UNKNOWN_VOCABULARY
    if known and isinstance(target, Checking) and (problems := target.check(sizes)):
        found = "; ".join(f"{problem.what}: {problem.remedy}" for problem in problems)
        raise SchemaMismatch(f"{target.identity} does not fit: {found}")
    return sizes


def kept_channels(
    source: Store, held: Collection[Representation], target: str, drop: Collection[Representation]
) -> frozenset[Representation]:
    """The channels of the source that a target which holds (or can hold) these will have.

    Raises:
        Unsupported: one is lost, and it is not among ``drop``; or none is left.
    """
    has = source.capabilities.representations
    lost = has - set(held)
    if lost - set(drop):
        options = " ".join(f"--drop {kind.value}" for kind in Representation if kind in lost)
        raise Unsupported(
            f"{source.identity} holds {names(has)}, but {target} does not hold {names(lost)}; "
            f"to copy without, add {options}"
        )
    kept = has - lost
    if not kept:
        raise Unsupported(f"{target} holds no channel of {source.identity}")
    return kept


def schema_of(
    store: Store, kinds: Collection[Representation] | None = None, model: Schema | None = None
) -> Schema:
    """What a new store must be made for to hold what this one holds, read off its first documents.

    kinds: the channels that are wanted, by default all. model: the schema of the model that made the vectors, where
    the store does not say.

    Raises:
        InputError: no document has a vector of a channel, or the size of the vocabulary is not known.
        FingerprintMismatch: the store says that another model made its vectors.
    """
    wanted = store.capabilities.representations if kinds is None else frozenset(kinds)
    if model is not None:
        check_fingerprint(store.fingerprint, model.fingerprint, store.identity)
        return model.only(wanted)
    schema = _sizes(store, wanted)
    if schema.sparse is not None and schema.sparse >= UNKNOWN_VOCABULARY:
        raise InputError(
            f"{store.identity} does not say over how many tokens its lexical weights are, which a new store has to "
            "know; name the model that made them (--model, or model=encoder.schema())"
        )
    return schema


def _sizes(store: Store, wanted: frozenset[Representation]) -> Schema:
    schema = Schema(fingerprint=store.fingerprint)
    cursor = None
    while missing := wanted - schema.representations:
        page = store.scan(vectors=missing, cursor=cursor, size=_AT_ONCE)
        for record in page.records:
            schema = _widen(schema, record.vectors or M3Vectors())
        cursor = page.cursor
        if cursor is None:
            break
    if missing := wanted - schema.representations:
        raise InputError(f"no document in {store.identity} has {names(missing)} vectors to copy")
    return schema


def _widen(schema: Schema, vectors: M3Vectors) -> Schema:
    return replace(
        schema,
        dense=schema.dense if vectors.dense is None else vectors.dense.shape[1],
        sparse=schema.sparse if vectors.sparse is None else vectors.sparse.shape[1],
        multi=schema.multi if vectors.multi is None else vectors.multi.values.shape[1],
    )


def names(kinds: Collection[Representation]) -> str:
    """The channels as people read them."""
    return ", ".join(kind.value for kind in Representation if kind in kinds)
