"""What is measured is the code of the checkout that is named."""

from __future__ import annotations

from pathlib import Path

from benchmarks import inprocess


def test_of_another_checkout(tmp_path: Path) -> None:
    """A benchmark of this checkout measures the other one's code, in a process of its own."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "costs.py").write_text('OF = {"plain": 1.5, "stop": 2.5}\n')
    benchmark = tmp_path / "benchmark.py"
    benchmark.write_text("def measured(kind):\n    import costs\n    return costs.OF[kind]\n")
    assert inprocess.of(other, str(benchmark), "plain") == 1.5
    assert inprocess.of(other, str(benchmark), "stop") == 2.5
