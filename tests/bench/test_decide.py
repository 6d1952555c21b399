"""What a decision takes inside the process, without HTTP: bytes in, bytes out, and nothing else runs meanwhile.

No test: ``make bench`` runs it, and ``pytest tests/bench`` by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .cases import BIG, CASES, DENIED, FEW_CONTAINERS, answering, case_named, write_policies

Benchmark = Callable[[Callable[[], Any]], Any]


@pytest.mark.parametrize("name", [case.name for case in (*CASES, FEW_CONTAINERS)])
def test_answer(benchmark: Benchmark, name: str) -> None:
    benchmark(answering(case_named(name)))


@pytest.mark.parametrize("count", [1, 3, 100, 1000])
def test_policies(benchmark: Benchmark, tmp_path: Path, count: int) -> None:
    benchmark(answering(DENIED, write_policies(tmp_path / "policies", count)))


def test_json_loads(benchmark: Benchmark) -> None:
    benchmark(lambda: json.loads(BIG.body))
