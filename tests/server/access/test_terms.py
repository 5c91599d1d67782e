"""What keys may: the words of their lines, groups, and what goes before what."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from server.access.keys import Keyring, digest
from server.access.terms import Key, Rules
from server.config.sections import KeyGroup, RateLimits
from server.errors import AccessDenied, ConfigurationError, FailedToAuth
from tests.server.access.test_keys import rewrite

LIMITS = RateLimits(requests_per_minute=60, tokens_per_minute=1000)


def rules(**groups: dict[str, Any]) -> Rules:
    return Rules(LIMITS, {name: KeyGroup(**terms) for name, terms in groups.items()})


def ring(tmp_path: Path, words: str, given: Rules) -> Keyring:
    """With alice's key, a, in a file; these words end her line."""
    file = tmp_path / "keys"
    file.write_text(f"# keys\nalice {digest('a')} {words}\n")
    return Keyring((), file, given)


def alice(tmp_path: Path, words: str = "", **groups: dict[str, Any]) -> Key:
    return ring(tmp_path, words, rules(**groups)).authenticate("Bearer a")


def test_without_a_word(tmp_path: Path) -> None:
    """A key has the limits of all, a weight of 1, and asks for no priority."""
    assert alice(tmp_path) == Key("alice", 1.0, 0, requests_per_minute=60, tokens_per_minute=1000)


def test_own_words_go_first(tmp_path: Path) -> None:
    """The line goes before its group, and that before rate_limits; 0 is no limit again."""
    group = {"requests_per_minute": 9, "tokens_per_minute": 9, "weight": 0.5, "concurrent_requests": 2}
    key = alice(tmp_path, "group=slow weight=2 tokens_per_minute=0 priority=-3", slow=group)
    assert key == Key("alice", 2.0, -3, requests_per_minute=9, tokens_per_minute=0, concurrent_requests=2)


def test_a_group_names_keys(tmp_path: Path) -> None:
    """So keys of the environment, and nobody's, are in one; a line's own group goes before it."""
    both = rules(all={"keys": ["alice", "key-1", "anonymous"], "weight": 3}, own={"weight": 4})
    assert ring(tmp_path, "", both).authenticate("Bearer a").weight == 3
    assert ring(tmp_path, "group=own", both).authenticate("Bearer a").weight == 4
    assert Keyring(("k",), None, both).authenticate("Bearer k").weight == 3
    assert Keyring((), None, both).authenticate("Bearer any").weight == 3


def test_roles(tmp_path: Path) -> None:
    """A key asks for completions, unless its line or its group says what else it is for."""
    assert alice(tmp_path).roles == ("infer",)
    assert alice(tmp_path, "roles=infer,admin").roles == ("infer", "admin")
    assert alice(tmp_path, "group=ops", ops={"roles": ["admin"]}).roles == ("admin",)


def test_a_key_without_the_role() -> None:
    """It is told what it has, and how one gets to be an admin."""
    Key("ops", roles=("admin",)).check("admin")
    with pytest.raises(AccessDenied, match=r"the role infer; ops has only admin$"):
        Key("ops", roles=("admin",)).check("infer")
    with pytest.raises(
        AccessDenied,
        match="alice has only infer; make an admin key with `verbatim keys new NAME --role admin`",
    ):
        Key("alice").check("admin")


def test_changed_line_counts(tmp_path: Path) -> None:
    """What a line says anew holds from the next request on."""
    keys = ring(tmp_path, "weight=2", rules())
    assert keys.authenticate("Bearer a").weight == 2
    rewrite(tmp_path / "keys", f"alice {digest('a')} weight=3")
    assert keys.authenticate("Bearer a").weight == 3


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("weight=0", 'weight is "0"; it should be greater than or equal to 0.01'),
        ("weight=nan", 'weight is "nan"; it should be a finite number'),
        ("weight=", 'weight is ""; it should be a valid number'),
        ("priority=-1001", 'priority is "-1001"; it should be greater than or equal to -1000'),
        ("requests_per_minute=1.5", 'requests_per_minute is "1.5"; it should be a valid integer'),
        ("priority=1 priority=2", "priority is set twice"),
        ("group=fats", 'key_groups of models.yaml has no group "fats"; did you mean "fast"?'),
        ("expires=tomorrow", '"tomorrow" is not a day'),
        ("roles=root", "roles is \"root\"; it should be 'infer' or 'admin'"),
        ("roles=", 'roles is ""; '),
        ("models=a,,b", 'models is "a,,b"; it should be 1 to 200 characters'),
        (
            "wieght=2",
            "numbers for requests_per_minute, tokens_per_minute, concurrent_requests, weight",
        ),
    ],
)
def test_bad_word_stops_the_start(tmp_path: Path, words: str, problem: str) -> None:
    """With file, line, name and value."""
    with pytest.raises(ConfigurationError) as caught:
        alice(tmp_path, words, fast={})
    assert caught.value.message.startswith("keys, line 2: ")
    assert problem in caught.value.message


def test_no_secret_is_quoted(tmp_path: Path) -> None:
    """Whoever wrote a key where a word belongs does not find it in a log."""
    with pytest.raises(ConfigurationError) as caught:
        alice(tmp_path, "vb-secret=")
    assert "secret" not in caught.value.message


def test_bad_word_later_grants_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the server runs, a line with a bad word is logged, and is none."""
    keys = ring(tmp_path, "", rules())
    with caplog.at_level(logging.ERROR):
        rewrite(tmp_path / "keys", f"alice {digest('a')} group=gone")
        with pytest.raises(FailedToAuth):
            keys.authenticate("Bearer a")
    assert 'keys, line 1: key_groups of models.yaml has no group "gone", which is not set' in caplog.text
