"""Reranking by the M3 score, whatever framework the texts come from."""

from collections.abc import Sequence

from m3_core.checks import check_encoder
from m3_core.encoder import M3Encoder
from m3_core.errors import InputError
from m3_core.fusion import WeightedSum
from m3_core.scoring import channel_scores, m3_score
from m3_core.types import Representation


def check_reranking(encoder: M3Encoder, fusion: WeightedSum) -> None:
    """Whether texts can be ranked by this.

    Raises:
        InputError: no encoder, or another fusion than a weighted sum.
        RepresentationMissing: the fusion weighs a channel the model does not have.
    """
    check_encoder(encoder)
    if not isinstance(fusion, WeightedSum):
        raise InputError(f"reranking is by a WeightedSum of the channels' scores, not {fusion!r}")
    encoder.model.check(fusion.representations)


def rerank(
    encoder: M3Encoder, fusion: WeightedSum, query: str, texts: Sequence[str], top_n: int | None
) -> list[tuple[int, float, dict[Representation, float]]]:
    """Row, score and scores by channel of the best ``top_n`` texts (None for all), best first.

    All are encoded, in one call. Equal scores keep the order of the texts.

    Raises:
        InputError: the query, or a text, is not a string.
    """
    if not isinstance(query, str):
        raise InputError(f"a query is a string, not {type(query).__name__}: {query!r:.60}")
    kinds = [kind for kind in Representation if kind in fusion.representations]
    vectors = encoder.encode_documents([query, *texts], representations=kinds)
    passages = vectors.take(range(1, len(vectors)))
    channels = {kind: channel_scores(vectors, 0, passages, kind).tolist() for kind in kinds}
    scored = []
    for row in range(len(texts)):
        scores = {kind: channels[kind][row] for kind in kinds}
        scored.append((row, m3_score(scores, fusion.weights), scores))
    scored.sort(key=lambda entry: -entry[1])
    return scored[:top_n]
