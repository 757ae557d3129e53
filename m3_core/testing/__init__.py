"""Tests for other people's stores; importing this needs pytest. Start at `m3_core.testing.store_contract`."""

import pytest

# pytest explains a failed assert only in modules that it rewrites, and rewrites only test files by itself.
pytest.register_assert_rewrite(
    *(
        f"m3_core.testing.{name}"
        for name in ("base", "failing", "filtering", "injecting", "reading", "searching", "writing")
    )
)
