"""Several stores as one: the channels in different stores, or the documents in different stores."""

from m3_core.compose.members import MissingMemberWarning
from m3_core.compose.split import SplitStore
from m3_core.compose.union import UnionStore

__all__ = ["MissingMemberWarning", "SplitStore", "UnionStore"]
