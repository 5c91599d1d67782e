"""The twin's language: counts, probabilities, and a text over other tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import byte_level
from twin.language import store
from twin.language.model import DISCOUNT, Language
from twin.language.ngrams import count, load, save

TEXT = np.array([1, 2, 3, 1, 2, 4, 1, 2, 3])


def test_counts_are_those_of_the_text() -> None:
    """Of single tokens, of what follows one, and of what follows two."""
    ngrams = count(TEXT, 6)
    assert ngrams.singles.tolist() == [0, 3, 3, 2, 1, 0]
    assert [a.tolist() for a in ngrams.pairs.after(2)] == [[3, 4], [2, 1]]
    assert [a.tolist() for a in ngrams.triples.after(ngrams.key(1, 2))] == [[3, 4], [2, 1]]
    assert [a.tolist() for a in ngrams.triples.after(ngrams.key(4, 2))] == [[], []]


def test_counts_are_kept_in_a_file(tmp_path: Path) -> None:
    """What is loaded says the same."""
    save(count(TEXT, 6), tmp_path / "n.npz")
    loaded = load(tmp_path / "n.npz")
    assert (
        Language(loaded).probabilities([1, 2]).tolist()
        == Language(count(TEXT, 6)).probabilities([1, 2]).tolist()
    )


def test_what_followed_is_likelier_and_nothing_is_impossible() -> None:
    """A share of each count goes to what the shorter context says."""
    found = Language(count(TEXT, 6)).probabilities([1, 2])
    assert found.sum() == pytest.approx(1)
    assert (found > 0).all()
    assert found.argmax() == 3
    assert found[[3, 4]].sum() > 1 - 2 * DISCOUNT / 3


@pytest.mark.parametrize("before", [[], [5], [7, 9], [0, 4095], [4095] * 3], ids=str)
def test_every_context_has_a_distribution(language: Language, before: list[int]) -> None:
    """Also one that never was."""
    found = language.probabilities(before)
    assert found.shape == (4096,)
    assert found.sum() == pytest.approx(1)
    assert (found > 0).all()


def test_two_tokens_before_count() -> None:
    """What came earlier changes nothing."""
    made = Language(count(TEXT, 6))
    assert (made.probabilities([4, 1, 2]) == made.probabilities([3, 1, 2])).all()
    assert (made.probabilities([1, 2]) != made.probabilities([3, 2])).any()


def test_language_over_other_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text, counted once and kept."""
    monkeypatch.setenv("VERBATIM_CACHE", str(tmp_path))
    monkeypatch.setattr(store, "paragraphs", lambda text: text.split(store.BETWEEN)[:50])
    encoder = byte_level()
    first = store.language_of(encoder, 300, 1)
    (file,) = tmp_path.rglob("*.npz")
    written = file.stat().st_mtime_ns
    second = store.language_of(encoder, 300, 1)
    assert file.stat().st_mtime_ns == written
    assert (first.probabilities([20, 30]) == second.probabilities([20, 30])).all()
