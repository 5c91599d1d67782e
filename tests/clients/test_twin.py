"""Each client against the twin, in each scenario."""

from __future__ import annotations

import pytest

from tests.clients import scenarios
from tests.clients.conftest import Meet
from tests.clients.matrix import CLIENTS, Client

FAILING = {scenario.name: scenario for scenario in scenarios.FAILING}


def each_of(*names: str) -> pytest.MarkDecorator:
    """Every client that can be in these scenarios."""
    clients = [client for client in CLIENTS if not set(names) & set(client.lacks)]
    return pytest.mark.parametrize("client", clients, ids=lambda client: client.name)


@each_of("whole")
def test_whole_reply_arrives(client: Client, meet_twin: Meet, twin_text: str) -> None:
    """Its text is the server's, of one request."""
    seen = meet_twin(client, scenarios.WHOLE)
    assert (seen.error, seen.text, seen.tries) == (None, twin_text, 1)


@each_of("streamed")
def test_stream_arrives_as_it_is_sent(client: Client, meet_twin: Meet, twin_text: str) -> None:
    """The first piece comes before the server rests, the last after it, and all add up to the text."""
    seen = meet_twin(client, scenarios.STREAMED)
    assert (seen.error, seen.text, seen.tries) == (None, twin_text, 1)
    assert seen.first_s is not None
    assert seen.seconds - seen.first_s > scenarios.PAUSE_S / 2


@pytest.mark.parametrize("name", ["429", "dropped"])
@each_of("429", "dropped")
def test_passing_failure_is_told_or_got_over(
    client: Client, meet_twin: Meet, twin_text: str, name: str
) -> None:
    """A client that asks again has the text, one that does not says so."""
    seen = meet_twin(client, FAILING[name])
    if seen.error is None:
        assert (seen.text, seen.tries) == (twin_text, 2)
    else:
        assert seen.tries == 1


@pytest.mark.parametrize("name", ["503", "503-bare", "401", "400"])
@each_of("503")
def test_lasting_failure_is_told(client: Client, meet_twin: Meet, name: str) -> None:
    """However often it has asked, the caller gets an error."""
    seen = meet_twin(client, FAILING[name])
    assert seen.error is not None
    assert seen.text == ""


@each_of("cut")
def test_stream_that_is_cut_adds_no_text(client: Client, meet_twin: Meet, twin_text: str) -> None:
    """What the caller has is the beginning of the text, whether it is told of the end or not."""
    seen = meet_twin(client, FAILING["cut"])
    assert twin_text.startswith(seen.text)
    assert seen.text not in ("", twin_text)


@each_of("stall")
def test_timeout_ends_a_stall(client: Client, meet_twin: Meet) -> None:
    """No try waits for the server to go on, and the caller gets an error."""
    seen = meet_twin(client, FAILING["stall"])
    assert seen.error is not None
    assert seen.left_s is not None
    assert seen.left_s < scenarios.STALL_S


@each_of("stall-stream")
def test_stall_in_a_stream_is_told_or_waited_for(client: Client, meet_twin: Meet, twin_text: str) -> None:
    """A client without an error, whose timeout is not about streams, has the whole text in the end."""
    seen = meet_twin(client, FAILING["stall-stream"])
    assert seen.error is not None or seen.text == twin_text


@each_of("cancelled")
def test_cancelled_stream_has_its_beginning(client: Client, meet_twin: Meet, twin_text: str) -> None:
    """The caller goes on at once; the page says whether the connection was closed, which frees the server."""
    seen = meet_twin(client, scenarios.CANCELLED)
    assert (seen.error, seen.pieces) == (None, 3)
    assert twin_text.startswith(seen.text)
