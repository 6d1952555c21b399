from __future__ import annotations

from typing import Any

import pytest

from webhook.tools import MARKERS, TITLES, claims, instance_label_marker

Json = dict[str, Any]

FLUX = {"kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
HELM_RELEASE = {"helm.toolkit.fluxcd.io/name": "shop", "helm.toolkit.fluxcd.io/namespace": "flux-system"}
TRACKING = "argocd.argoproj.io/tracking-id"
RESOURCE_ID = "configsync.gke.io/resource-id"


def obj(labels: Any = None, annotations: Any = None, *, api_version: str = "apps/v1", **more: Any) -> Json:
    metadata: Json = {"name": "web", "namespace": "shop", "labels": labels, "annotations": annotations}
    return {"apiVersion": api_version, "kind": "Deployment", "metadata": metadata | more}


def titles(made: Json) -> list[str]:
    return [claim.managed_by.title for claim in claims(made)]


# tool -> labels, annotations, what manages the object
MARKED: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "flux": (FLUX, {}, "Flux (Kustomization flux-system/shop)"),
    "flux, HelmRelease": (HELM_RELEASE, {}, "Flux (HelmRelease flux-system/shop)"),
    "argocd": ({}, {TRACKING: "shop:apps/Deployment:shop/web"}, "Argo CD (Application shop)"),
    "helm": (
        {"app.kubernetes.io/managed-by": "Helm"},
        {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "default"},
        "Helm (release default/shop)",
    ),
    "configsync": (
        {},
        {
            "configmanagement.gke.io/managed": "enabled",
            RESOURCE_ID: "apps_deployment_shop_web",
            "configsync.gke.io/manager": ":root",
        },
        "Config Sync (sync :root)",
    ),
    "fleet": (
        {"objectset.rio.cattle.io/hash": "h"},
        {"objectset.rio.cattle.io/id": "shop"},
        "Rancher Fleet (bundle shop)",
    ),
    "sveltos": (
        {},
        {"projectsveltos.io/owner-kind": "ClusterProfile", "projectsveltos.io/owner-name": "shop"},
        "Sveltos (profile ClusterProfile/shop)",
    ),
    "kpt": ({}, {"config.k8s.io/owning-inventory": "abc"}, "kpt (inventory abc)"),
    "crossplane": ({"crossplane.io/composite": "shop"}, {}, "Crossplane (composite shop)"),
}
# What only names the application, and is no part of the marker.
EXTRA = {"configsync.gke.io/manager"}


@pytest.mark.parametrize("tool", MARKED)
def test_an_object_that_bears_the_whole_marker_is_managed(tool: str) -> None:
    labels, annotations, title = MARKED[tool]
    assert titles(obj(labels, annotations)) == [title]
    assert titles(obj({**labels, "app": "web"}, {**annotations, "note": "x"})) == [title]


@pytest.mark.parametrize("tool", MARKED)
def test_an_object_that_bears_a_part_of_the_marker_or_an_empty_one_is_not(tool: str) -> None:
    labels, annotations, _ = MARKED[tool]
    for key in (*labels, *annotations):
        if key in EXTRA:
            continue
        for kept in ({}, {key: ""}):
            without_label = (
                {**labels, **kept} if key in labels and kept else {k: v for k, v in labels.items() if k != key}
            )
            without_annotation = (
                {**annotations, **kept}
                if key in annotations and kept
                else {k: v for k, v in annotations.items() if k != key}
            )
            assert titles(obj(without_label, without_annotation)) == [], key


@pytest.mark.parametrize("tool", MARKED)
def test_a_marker_that_a_controller_copied_to_what_it_made_is_none(tool: str) -> None:
    labels, annotations, title = MARKED[tool]
    owners = [{"kind": "ReplicaSet", "name": "web-1", "uid": "u", "controller": True}]
    made = obj(labels, annotations, ownerReferences=owners)
    # An annotation that names the object is proof by itself; it was not copied from another.
    named = tool in ("argocd", "configsync")
    assert titles(made) == ([title] if named else [])


@pytest.mark.parametrize("tool", MARKED)
def test_the_marker_counts_on_a_controller_s_object_to_which_the_tool_itself_has_written(tool: str) -> None:
    labels, annotations, title = MARKED[tool]
    marker = claims(obj(labels, annotations))[0].marker
    made = obj(
        labels,
        annotations,
        ownerReferences=[{"controller": True}],
        managedFields=[{"manager": marker.managers[0].replace("*", "abc"), "fieldsV1": {}}],
    )
    assert titles(made) == [title]


def test_an_owner_that_is_no_controller_makes_no_copy() -> None:
    owner_lists: list[Any] = [[], [{"controller": False}], [{}], None, [None], {}]
    for owners in owner_lists:
        assert titles(obj(FLUX, ownerReferences=owners)) == ["Flux (Kustomization flux-system/shop)"]


@pytest.mark.parametrize(
    "tracking",
    [
        "shop:apps/Deployment:shop/web",
        "shop:extensions/Deployment:shop/web",
        "argocd_shop:apps/Deployment:shop/web",
        ":apps/Deployment:shop/web",
    ],
)
def test_a_tracking_id_that_names_the_object_is_a_marker(tracking: str) -> None:
    assert len(titles(obj({}, {TRACKING: tracking}))) == 1


@pytest.mark.parametrize(
    "tracking",
    [
        "",
        ":",
        "::",
        "shop",
        "shop:apps/Deployment",
        "shop:apps/Deployment:web",
        "shop:apps/Deployment:shop/web2",
        "shop:apps/Deployment:other/web",
        "shop:apps/StatefulSet:shop/web",
        "shop:batch/Deployment:shop/web",
        "shop:Deployment:shop/web",
        "shop:/Deployment:shop/web",
        "shop:apps/Deployment:shop/web:x",
        "shop:apps/deployment:shop/web",
        "/:/:/",
    ],
)
def test_a_tracking_id_that_names_another_object_or_none_is_not(tracking: str) -> None:
    assert titles(obj({}, {TRACKING: tracking})) == []


def test_the_tracking_id_of_a_cluster_scoped_object_may_name_any_namespace_and_a_name_may_hold_colons() -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {
            "name": "system:web",
            "annotations": {TRACKING: "shop:rbac.authorization.k8s.io/ClusterRole:argocd/system:web"},
        },
    }
    assert titles(role) == ["Argo CD (Application shop)"]


def test_the_core_group_is_empty_in_a_tracking_id() -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "annotations": {TRACKING: "shop:/Service:shop/web"}},
    }
    assert titles(service) == ["Argo CD (Application shop)"]


@pytest.mark.parametrize(
    ("resource_id", "managed"),
    [
        ("apps_deployment_shop_web", True),
        ("apps_Deployment_shop_web", True),
        ("extensions_deployment_shop_web", True),
        ("apps_deployment_shop_web2", False),
        ("apps_deployment_other_web", False),
        ("apps_deployment_web", False),
        ("_deployment_shop_web", False),
        ("deployment_shop_web", False),
    ],
)
def test_config_sync_s_resource_id_has_to_name_the_object(resource_id: str, *, managed: bool) -> None:
    annotations = {"configmanagement.gke.io/managed": "enabled", RESOURCE_ID: resource_id}
    assert bool(titles(obj({}, annotations))) is managed


def test_config_sync_s_resource_id_of_a_cluster_scoped_object_has_no_namespace() -> None:
    for resource_id in ("_namespace_shop", "_namespace__shop"):
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": "shop",
                "annotations": {"configmanagement.gke.io/managed": "enabled", RESOURCE_ID: resource_id},
            },
        }
        assert titles(namespace) == ["Config Sync"]


def test_config_sync_s_disabled_is_no_marker() -> None:
    annotations = {"configmanagement.gke.io/managed": "disabled", RESOURCE_ID: "apps_deployment_shop_web"}
    assert titles(obj({}, annotations)) == []


def test_two_tools_may_manage_one_object_and_are_told_in_a_fixed_order() -> None:
    labels = {**FLUX, "app.kubernetes.io/managed-by": "Helm"}
    annotations = {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "default"}
    both = ["Flux (Kustomization flux-system/shop)", "Helm (release default/shop)"]
    assert titles(obj(labels, annotations)) == both
    assert titles(obj(dict(reversed(labels.items())), dict(reversed(annotations.items())))) == both


def test_the_instance_label_counts_only_where_the_configuration_asks_for_it() -> None:
    labelled = obj({"app.kubernetes.io/instance": "shop"})
    assert titles(labelled) == []
    markers = (*MARKERS, instance_label_marker("app.kubernetes.io/instance"))
    assert [claim.managed_by.title for claim in claims(labelled, markers)] == ["Argo CD (Application shop)"]


@pytest.mark.parametrize("odd", [None, "x", 1, [], {}, {"labels": None}, {"labels": [], "annotations": "x"}])
def test_metadata_of_odd_shape_marks_nothing(odd: Any) -> None:
    assert claims({"apiVersion": "v1", "kind": "X", "metadata": odd}) == []
    assert claims({}) == []


def covered(tool: str, *path: str) -> bool:
    labels, annotations, _ = MARKED[tool]
    position = claims(obj(labels, annotations))[0].marker.protected.step("metadata")
    for name in path:
        position = position.step(name) if position is not None else None
    return position is not None and position.covers


@pytest.mark.parametrize("tool", MARKED)
def test_every_label_and_annotation_of_a_marker_is_protected(tool: str) -> None:
    labels, annotations, _ = MARKED[tool]
    assert all(covered(tool, "labels", key) for key in labels)
    assert all(covered(tool, "annotations", key) for key in annotations if key not in EXTRA)


@pytest.mark.parametrize(
    ("tool", "key"),
    [
        *(("flux", f"kustomize.toolkit.fluxcd.io/{key}") for key in ("reconcile", "prune", "ssa", "force")),
        ("flux, HelmRelease", "helm.toolkit.fluxcd.io/driftDetection"),
        ("flux, HelmRelease", "helm.sh/resource-policy"),
        ("argocd", "argocd.argoproj.io/compare-options"),
        ("argocd", "argocd.argoproj.io/sync-options"),
        ("argocd", "argocd.argoproj.io/hook"),
        ("argocd", "helm.sh/hook"),
        ("helm", "helm.sh/resource-policy"),
        ("configsync", "client.lifecycle.config.k8s.io/mutation"),
        ("configsync", "client.lifecycle.config.k8s.io/deletion"),
        ("kpt", "client.lifecycle.config.k8s.io/deletion"),
    ],
)
def test_what_ends_a_tool_s_care_is_protected_as_an_annotation_and_as_a_label(tool: str, key: str) -> None:
    assert covered(tool, "annotations", key)
    assert covered(tool, "labels", key)


def test_every_tool_has_a_title_and_a_way_out() -> None:
    assert {marker.tool for marker in MARKERS} == set(TITLES)
    assert all(marker.way_out.endswith(".") for marker in MARKERS)
