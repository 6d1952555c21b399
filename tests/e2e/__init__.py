"""Tests against a real control plane: etcd, kube-apiserver and kube-controller-manager on loopback, without pods."""
