"""When a fault comes: which requests a rule is about, and how often it applies to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.errors import ConfigurationError, InvalidRequest
from twin.faults.fault import Asked
from twin.faults.rules import Faults, Match, read_rules, rules_of

ASKED = Asked(
    method="POST",
    path="/v1/completions",
    keys=("secret", "team-a"),
    model="m",
    prompts=("Once upon", "Hello there"),
    stream=True,
)


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"key": "team-a"}, True),
        ({"key": "secret"}, True),
        ({"key": "team-b"}, False),
        ({"path": "/v1/completions"}, True),
        ({"path": "*/completions"}, True),
        ({"path": "*"}, True),
        ({"path": "/v1"}, False),
        ({"method": "post"}, True),
        ({"method": "GET"}, False),
        ({"model": "m"}, True),
        ({"model": "n"}, False),
        ({"prompt": "Hello there"}, True),
        ({"prompt": "Hello"}, False),
        ({"prompt_prefix": "Hello"}, True),
        ({"prompt_prefix": "there"}, False),
        ({"prompt_regex": r"u\w+n$"}, True),
        ({"prompt_regex": r"^upon"}, False),
        ({"prompt_prefix": "Once", "prompt_regex": "there"}, False),
        ({"stream": True}, True),
        ({"stream": False}, False),
        ({"stream": True, "model": "n"}, False),
    ],
)
def test_match(match: dict[str, Any], fits: bool) -> None:
    """All that is given has to fit; of several prompts, one."""
    assert Match(**match).fits(ASKED) is fits


def test_match_without_a_prompt() -> None:
    """A prompt of token ids, or none, fits no rule about prompts."""
    assert not Match(path="*", prompt_prefix="").fits(Asked())


def test_match_without_a_path() -> None:
    """It is about completions, under each of their paths, and about nothing else."""
    paths = ("/v1/completions", "/v3/openai/completions", "/ready", "/v1/models")
    assert [Match().fits(Asked(path=path)) for path in paths] == [True, True, False, False]


def fired(rule: dict[str, Any], count: int = 10) -> list[int]:
    """Of that many requests, counted from 1, those that get the fault."""
    faults = Faults(rules_of({"seed": 1, "rules": [{"fault": "no_done"} | rule]}))
    return [number for number in range(1, count + 1) if faults.choose(ASKED)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"nth": 3}, [3]),
        ({"every": 4}, [4, 8]),
        ({"first": 2}, [1, 2]),
        ({"times": 3}, [1, 2, 3]),
        ({"every": 2, "times": 2}, [2, 4]),
        ({"share": 0}, []),
        ({"share": 1}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"match": {"model": "n"}}, []),
    ],
)
def test_how_often(rule: dict[str, Any], expected: list[int]) -> None:
    """The n-th request that matches, each n-th, the first n, so often at most, or a share."""
    assert fired(rule) == expected


def test_a_share_is_drawn_with_the_seed() -> None:
    """The same seed gives the same requests their faults, and about so many of them."""
    assert fired({"share": 0.3}, 1000) == fired({"share": 0.3}, 1000)
    assert 250 < len(fired({"share": 0.3}, 1000)) < 350


def test_rules_draw_apart() -> None:
    """Two shares of one half do not fall on the same requests."""
    faults = Faults(rules_of({"seed": 1, "rules": [{"fault": f"stall={n}", "share": 0.5} for n in (1, 2)]}))
    names = [str(faults.choose(ASKED)) for _ in range(400)]
    assert 50 < names.count("stall seconds=2.0 after=0") < 150
    assert 50 < names.count("None") < 150


def test_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule ends so long after it was set."""
    now = 100.0
    monkeypatch.setattr("twin.faults.rules.monotonic", lambda: now)
    faults = Faults(rules_of({"rules": [{"fault": "no_done", "for_s": 5}]}))
    now = 104.9
    assert faults.choose(ASKED)
    now = 105.0
    assert not faults.choose(ASKED)


def test_the_first_that_applies() -> None:
    """It is the one, and what comes after it does not count the request."""
    faults = Faults(rules_of({"rules": [{"fault": "no_done", "nth": 2}, {"fault": "reset"}]}))
    assert [fault.name for fault in (faults.choose(ASKED) for _ in range(3)) if fault] == [
        "reset",
        "no_done",
        "reset",
    ]
    assert [(rule["seen"], rule["fired"]) for rule in faults.shown()["rules"]] == [(3, 1), (2, 2)]


def test_what_is_shown_can_be_set() -> None:
    """A rule is shown as it was written, with its counts."""
    written = {"fault": "stall=2s", "match": {"model": "m"}, "first": 2}
    (shown,) = Faults(rules_of({"rules": [written]})).shown()["rules"]
    assert shown == written | {"seen": 0, "fired": 0}


FILE = """\
seed: 7
rules:
  - fault: status=429 retry_after=3
    match: {key: team-a, path: "*/completions", stream: true}
    share: 0.2
  - fault: stall=2s after=3
    every: 5
    for_s: 60
"""


def test_a_file(tmp_path: Path) -> None:
    """YAML of the same structure as the JSON of PUT /simulator/faults."""
    file = tmp_path / "faults.yaml"
    file.write_text(FILE)
    assert read_rules(file) == rules_of(
        {
            "seed": 7,
            "rules": [
                {
                    "fault": "status=429 retry_after=3",
                    "match": {"key": "team-a", "path": "*/completions", "stream": True},
                    "share": 0.2,
                },
                {"fault": "stall=2s after=3", "every": 5, "for_s": 60},
            ],
        }
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stall=2s", "stal=2s", 'faults.yaml, line 6: there is no fault "stal"; did you mean "stall"?'),
        ("every", "evry", 'faults.yaml, line 7: unknown key "evry" in a rule; did you mean "every"?'),
        ("path", "pth", 'faults.yaml, line 4: unknown key "pth" in match; did you mean "path"?'),
        ("0.2", "2", "faults.yaml, line 5: rules.share is 2; it should be less than or equal to 1."),
        ("every: 5", "every: 0", "faults.yaml, line 7: rules.every is 0; it should be greater than"),
        (
            "every: 5",
            "every: 5\n    nth: 1",
            (
                "faults.yaml, line 6: a rule may have only one of share, nth, every and first, and has nth"
                " and every."
            ),
        ),
        (
            "stream: true",
            'prompt_regex: "("',
            "faults.yaml, line 4: prompt_regex is not a valid regular expression:",
        ),
    ],
)
def test_a_file_with_a_mistake(tmp_path: Path, old: str, new: str, message: str) -> None:
    """The line is named, and what is near to what was meant."""
    file = tmp_path / "faults.yaml"
    file.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        read_rules(file)
    assert caught.value.message.startswith(message)


def test_an_empty_file(tmp_path: Path) -> None:
    """It is a mistake that is said, not a set of no rules."""
    file = tmp_path / "faults.yaml"
    file.write_text("# nothing yet\n")
    with pytest.raises(ConfigurationError, match=r"^faults.yaml is empty; it must have keys with values\.$"):
        read_rules(file)


@pytest.mark.parametrize(
    ("content", "message", "field"),
    [
        ({"rules": [{"fault": "stal"}]}, 'rules.0.fault: there is no fault "stal"; did you', "rules.0.fault"),
        ({"rules": [{}]}, 'rules.0.fault: the key "fault" is missing in a rule.', "rules.0.fault"),
        ({"rule": []}, 'rule: unknown key "rule" at the top level; did you mean "rules"?', "rule"),
        ([], "the body: this is []; it should be a valid dictionary", "the body"),
        ({"rules": [{"fault": 3}]}, "rules.0.fault: rules.fault is 3; it should be a", "rules.0.fault"),
    ],
)
def test_a_message_with_a_mistake(content: Any, message: str, field: str) -> None:
    """The place in the JSON is named."""
    with pytest.raises(InvalidRequest) as caught:
        rules_of(content)
    assert caught.value.message.startswith(message)
    assert caught.value.param == field
