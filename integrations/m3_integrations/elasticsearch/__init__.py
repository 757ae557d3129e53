"""Elasticsearch as a store of dense vectors and lexical weights. Needs ``pip install 'm3-retrieval[elasticsearch]'``.

What is particular to the engine:

- Lexical weights lie in a ``rank_features`` field and are kept to 9 significant bits there, so that a sparse
  score of `Store.search` is within 0.4 % of the exact one; `Store.score` is exact, from the stored documents.
- A query has as many tokens as the cluster allows clauses; above that its lightest tokens are left out, with
  a `DroppedTokensWarning`.
- Nothing of a paid licence is used, and nothing asks for the cluster's version.
"""

from m3_core.extras import require

require("elasticsearch", extra="elasticsearch")

from m3_integrations.elasticsearch.searching import DroppedTokensWarning  # noqa: E402  # after the check
from m3_integrations.elasticsearch.store import ElasticsearchStore  # noqa: E402

__all__ = ["DroppedTokensWarning", "ElasticsearchStore"]
