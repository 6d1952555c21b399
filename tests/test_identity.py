from __future__ import annotations

import pytest

from webhook.admission import UserInfo
from webhook.identity import SYSTEM, SYSTEM_CONTROLLERS, Writer, Writers, bears, is_node, service_account

FLUX = "system:serviceaccount:flux-system:kustomize-controller"
FLUX_GROUPS = ("system:serviceaccounts", "system:serviceaccounts:flux-system", "system:authenticated")
POD = {
    "authentication.kubernetes.io/pod-name": ("kustomize-controller-0",),
    "authentication.kubernetes.io/pod-uid": ("u",),
}


def found(writers: Writers, user: UserInfo) -> str | None:
    writer = writers.find(user)
    return None if writer is None else writer.name


def account(username: str = FLUX, uid: str = "uid") -> UserInfo:
    return UserInfo(username=username, uid=uid, groups=FLUX_GROUPS)


TRUSTED = Writers([Writer(name="flux", service_accounts=("flux-system/kustomize-controller",))])


@pytest.mark.parametrize(
    ("username", "expected"),
    [
        (FLUX, ("flux-system", "kustomize-controller")),
        ("system:serviceaccount:a:b", ("a", "b")),
        ("system:serviceaccount:a:b:", None),
        ("system:serviceaccount:a:b:c", None),
        ("system:serviceaccount::b", None),
        ("system:serviceaccount:a:", None),
        ("system:serviceaccount:a", None),
        ("system:serviceaccount:", None),
        ("System:serviceaccount:a:b", None),
        (" system:serviceaccount:a:b", None),
        ("a:b", None),
        ("", None),
    ],
)
def test_a_service_account_is_told_by_its_user_name(username: str, expected: tuple[str, str] | None) -> None:
    assert service_account(username) == expected


def test_a_service_account_with_a_token_of_its_own_is_trusted() -> None:
    assert found(TRUSTED, account()) == "flux"


def test_a_service_account_without_a_uid_is_impersonated_and_is_not() -> None:
    assert found(TRUSTED, account(uid="")) is None


@pytest.mark.parametrize(
    "username",
    [
        "system:serviceaccount:flux-system-x:kustomize-controller",
        "system:serviceaccount:flux-system:kustomize-controller-x",
        "system:serviceaccount:flux-system:kustomize-controller:",
        "system:serviceaccount:flux-system:kustomize-controller ",
        "system:serviceaccount:flux-system:Kustomize-controller",
        "System:Serviceaccount:flux-system:kustomize-controller",
        "system:serviceaccount:flux-system/kustomize-controller",
        "system:serviceaccount:flux-system:",
        "system:serviceaccounts:flux-system:kustomize-controller",
        "flux-system/kustomize-controller",
        "flux-system:kustomize-controller",
        "kustomize-controller",
        "system:serviceaccount:flux-system:kustomize-controller\n",
        "system:serviceaccount:flux-system:kustomize\u2010controller",
    ],
)
def test_a_name_that_looks_like_a_trusted_one_is_not_it(username: str) -> None:
    assert found(TRUSTED, account(username)) is None


@pytest.mark.parametrize(
    "username",
    [
        "system:serviceaccount:kube-system:evil",
        "system:serviceaccount:kube-system:deployment-controller-x",
        "system:serviceaccount:kube-system-x:deployment-controller",
        "system:serviceaccount:default:deployment-controller",
        "system:serviceaccount:kube-system:argocd-manager",
        "system:serviceaccount:kube-system:horizontal-pod-autoscaler",
        "system:kube-controller-manager:",
        "System:kube-controller-manager",
        "system:kube-controller-managers",
        "system:apiserver ",
        "kube-controller-manager",
        "system:masters",
        "system:anonymous",
        "",
    ],
)
def test_a_name_that_looks_like_the_control_plane_s_is_no_system_writer(username: str) -> None:
    user = UserInfo(username=username, uid="u", groups=("system:masters", "system:serviceaccounts:kube-system"))
    assert found(Writers([SYSTEM]), user) is None


@pytest.mark.parametrize("name", SYSTEM_CONTROLLERS)
def test_the_controllers_of_the_control_plane_are_system_writers_with_a_token_and_not_without(name: str) -> None:
    username = f"system:serviceaccount:kube-system:{name}"
    assert found(Writers([SYSTEM]), UserInfo(username=username, uid="u")) == "system"
    assert found(Writers([SYSTEM]), UserInfo(username=username)) is None


@pytest.mark.parametrize("name", ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"])
def test_the_control_plane_s_own_users_are_system_writers(name: str) -> None:
    assert found(Writers([SYSTEM]), UserInfo(username=name)) == "system"


def test_a_kubelet_is_told_by_its_name_and_its_group_together() -> None:
    assert is_node(UserInfo(username="system:node:a", groups=("system:nodes", "system:authenticated")))
    assert not is_node(UserInfo(username="system:node:a", groups=("system:authenticated",)))
    assert not is_node(UserInfo(username="system:node:a", groups=None))
    assert not is_node(UserInfo(username="alice", groups=("system:nodes",)))
    assert not is_node(UserInfo(username="system:nodes", groups=("system:nodes",)))


def test_verify_uid_asks_for_a_uid_and_verify_none_for_nothing() -> None:
    assert bears(UserInfo(username=FLUX, uid="u"), "uid")
    assert not bears(UserInfo(username=FLUX), "uid")
    assert bears(UserInfo(username=FLUX), "none")


def test_verify_pod_asks_for_a_uid_and_for_name_and_uid_of_a_pod() -> None:
    assert bears(UserInfo(username=FLUX, uid="u", extra={**POD}), "pod")
    assert not bears(UserInfo(username=FLUX, extra={**POD}), "pod")
    assert not bears(UserInfo(username=FLUX, uid="u"), "pod")
    for key in POD:
        for value in ((), ("",), None):
            assert not bears(UserInfo(username=FLUX, uid="u", extra={**POD, key: value}), "pod")
        assert not bears(UserInfo(username=FLUX, uid="u", extra={k: v for k, v in POD.items() if k != key}), "pod")


def test_a_token_that_was_minted_is_refused_under_verify_pod_and_taken_under_verify_uid() -> None:
    minted = UserInfo(username=FLUX, uid="u", extra={"authentication.kubernetes.io/credential-id": ("JTI=x",)})
    accounts = ("flux-system/kustomize-controller",)
    assert found(Writers([Writer(name="flux", service_accounts=accounts, verify="pod")]), minted) is None
    assert found(Writers([Writer(name="flux", service_accounts=accounts, verify="uid")]), minted) == "flux"


def test_an_impersonated_service_account_is_trusted_where_verify_is_none() -> None:
    writers = Writers([Writer(name="tenant", service_accounts=("shop/deployer",), verify="none")])
    assert found(writers, UserInfo(username="system:serviceaccount:shop:deployer")) == "tenant"
    assert writers.names_account("shop", "deployer")


def test_a_service_account_that_is_listed_twice_is_the_first_writer_whose_proof_it_brings() -> None:
    accounts = ("flux-system/kustomize-controller",)
    strict = Writer(name="strict", service_accounts=accounts, verify="pod")
    lax = Writer(name="lax", service_accounts=accounts, verify="uid")
    assert found(Writers([strict, lax]), account()) == "lax"
    assert found(Writers([strict, lax]), UserInfo(username=FLUX, uid="u", extra={**POD})) == "strict"


def test_a_service_account_listed_as_a_user_or_by_a_group_has_to_prove_itself_all_the_same() -> None:
    by_name = Writers([Writer(name="name", users=(FLUX,))])
    by_group = Writers([Writer(name="group", groups=("system:serviceaccounts:flux-system",))])
    assert found(by_name, account()) == "name"
    assert found(by_group, account()) == "group"
    assert found(by_name, account(uid="")) is None
    assert found(by_group, account(uid="")) is None
    assert by_name.names_account("flux-system", "kustomize-controller")


@pytest.mark.parametrize("username", ["mallory", "system:serviceaccount:flux-system:kustomize-controller:"])
def test_a_group_of_service_accounts_makes_nobody_else_one(username: str) -> None:
    for group in ("system:serviceaccounts", "system:serviceaccounts:flux-system"):
        writers = Writers([Writer(name="flux", groups=(group,))])
        assert found(writers, UserInfo(username=username, uid="u", groups=FLUX_GROUPS)) is None


def test_users_and_groups_are_compared_in_full() -> None:
    writers = Writers([Writer(name="user", users=("ci",)), Writer(name="group", groups=("deployers",))])
    assert found(writers, UserInfo(username="ci")) == "user"
    assert found(writers, UserInfo(username="bob", groups=("x", "deployers"))) == "group"
    assert found(writers, UserInfo(username="CI")) is None
    assert found(writers, UserInfo(username="ci-x")) is None
    assert found(writers, UserInfo(username="bob", groups=("deployers-x",))) is None
    assert found(writers, UserInfo(username="bob", groups=None)) is None
    assert found(writers, UserInfo(username="deployers")) is None


def test_a_glob_matches_in_its_own_part_alone() -> None:
    writers = Writers([Writer(name="config-sync", service_accounts=("config-*/root-reconciler*",))])
    assert found(writers, account("system:serviceaccount:config-management-system:root-reconciler-a")) == "config-sync"
    assert found(writers, account("system:serviceaccount:config-:root-reconciler")) == "config-sync"
    assert found(writers, account("system:serviceaccount:xconfig-a:root-reconciler")) is None
    assert found(writers, account("system:serviceaccount:config-a:ns-root-reconciler")) is None
    assert found(writers, account("system:serviceaccount:config-a:b:root-reconciler")) is None
    assert found(writers, account("system:serviceaccount:config-a:root-reconciler", uid="")) is None


def test_an_exact_name_wins_over_a_glob() -> None:
    writers = Writers(
        [
            Writer(name="any", service_accounts=("flux-system/*",)),
            Writer(name="one", service_accounts=("flux-system/kustomize-controller",)),
        ]
    )
    assert found(writers, account()) == "one"
    assert found(writers, account("system:serviceaccount:flux-system:other")) == "any"


def test_nobody_is_among_no_writers() -> None:
    assert found(Writers(), account()) is None
    assert not Writers().names_account("flux-system", "kustomize-controller")
