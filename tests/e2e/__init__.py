"""Tests against a real control plane: etcd, kube-apiserver and kube-controller-manager on loopback, without pods."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.whole_run")
