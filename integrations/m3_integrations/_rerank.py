"""Reranking by the M3 score, whatever framework the texts come from."""

from collections.abc import Sequence

from m3_core.encoder import M3Encoder
from m3_core.fusion import WeightedSum
from m3_core.scoring import channel_scores, m3_score
from m3_core.types import Representation


def rerank(
    encoder: M3Encoder, fusion: WeightedSum, query: str, texts: Sequence[str], top_n: int | None
) -> list[tuple[int, float, dict[Representation, float]]]:
    """Row, score and scores by channel of the best ``top_n`` texts (None for all), best first.

    All are encoded, in one call. Equal scores keep the order of the texts.
    """
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
