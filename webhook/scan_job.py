"""What a scan takes from the cluster beside what it scans, and leaves there: policies, and PolicyReports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webhook import own_objects, policy_report
from webhook.cluster.connection import JSON
from webhook.cluster.listing import Listing
from webhook.cluster.resources import Resources
from webhook.errors import ClusterError, PolicyError
from webhook.policy import OWN_GROUP, Snapshot
from webhook.policy_compiler import compile_documents
from webhook.scanning import Cluster

Object = dict[str, Any]


def policies_in(cluster: Cluster) -> Snapshot:
    """The policies in force by the custom resources in the cluster: what is not valid is left out, as by ``serve``.

    Raises:
        ClusterError: they cannot be listed.
        PolicyError: none is there.
    """
    listing = Listing(cluster)
    documents = []
    for name, kind in own_objects.KINDS.items():
        resource = listing.find(OWN_GROUP, kind)
        if resource is None:
            raise ClusterError(f"--policies cluster: the API server does not serve {name}.{OWN_GROUP}")
        found = (own_objects.document_of(name, obj) for obj in listing.objects(resource, accept=JSON))
        documents += [document for document in found if not own_objects.check(document)]
    snapshot, problems = compile_documents(documents)
    if problems or not snapshot.policies:
        raise PolicyError([str(problem) for problem in problems] or ["no DriftPolicy is in the cluster"])
    return snapshot


def write_reports(cluster: Cluster, reports: Mapping[str, Object], *, whole: bool) -> None:
    """Write the reports, and empty those of namespaces that have nothing managed any more, if the scan was ``whole``.

    Raises:
        ClusterError: one could not be written.
    """
    listing, resources = Listing(cluster), Resources(cluster)
    known = {False: listing.find(policy_report.GROUP, "PolicyReport")}
    known[True] = listing.find(policy_report.GROUP, "ClusterPolicyReport")
    stale = {}
    for resource in known.values():
        if resource is None or resource.version != policy_report.VERSION:
            raise ClusterError(
                f"--policy-reports: the API server does not serve {policy_report.GROUP}/{policy_report.VERSION}; "
                "install its CustomResourceDefinitions, which come with Kyverno and with the Policy Reporter"
            )
        for obj in listing.objects(resource):
            ref = resource.ref(obj)
            if whole and ref.name == policy_report.NAME and ref.namespace not in reports:
                stale[ref.namespace] = policy_report.empty(ref.namespace)
    for namespace, report in {**reports, **stale}.items():
        resources.ensure(policy_report.path(namespace), report)
