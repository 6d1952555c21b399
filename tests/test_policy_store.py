from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving import POLICY
from webhook.errors import PolicyError
from webhook.policy_store import PolicyStore


def test_nothing_is_in_force_before_the_first_load(tmp_path: Path) -> None:
    assert PolicyStore(tmp_path).snapshot is None


def test_loading_puts_the_policies_in_force(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    store = PolicyStore(tmp_path)
    assert [policy.name for policy in store.load().policies] == ["replicas"]
    assert store.snapshot is not None


def test_policies_that_do_not_load_leave_the_last_good_ones_in_force(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    store = PolicyStore(tmp_path)
    good = store.load()
    (tmp_path / "policy.yaml").write_text(POLICY.replace("enforce", "enforced"))
    with pytest.raises(PolicyError):
        store.load()
    assert store.snapshot is good
