from __future__ import annotations

from tests.bundle.conftest import in_parts, made, made_in_parts, whole  # noqa: F401  # the same tiny bundles
