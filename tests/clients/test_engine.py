"""Each client against the real engine."""

from __future__ import annotations

import pytest

from tests.clients import scenarios
from tests.clients.conftest import Meet
from tests.clients.matrix import Client
from tests.clients.test_twin import each_of

pytestmark = pytest.mark.engine


@each_of("whole")
def test_whole_reply_arrives(client: Client, meet_engine: Meet, engine_text: str) -> None:
    """Its text is the engine's, of one request."""
    seen = meet_engine(client, scenarios.WHOLE)
    assert (seen.error, seen.text, seen.tries) == (None, engine_text, 1)


@each_of("streamed")
def test_stream_arrives(client: Client, meet_engine: Meet, engine_text: str) -> None:
    """Its pieces add up to that text."""
    seen = meet_engine(client, scenarios.STREAMED)
    assert (seen.error, seen.text, seen.tries) == (None, engine_text, 1)
    assert seen.pieces > 1
