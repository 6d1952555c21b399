"""Writes what in deploy/ follows from other files: ``python -m deploy.generate``, or ``make deploy``.

The policies of policies/ in the mode of each overlay, and the webhook configurations that these need, exactly as
``driftwall webhook-config`` prints them. Nothing of that is written a second time by hand.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from webhook.documents import dump, load_documents
from webhook.policy_compiler import load
from webhook.webhook_config import Target, render

ROOT: Final = Path(__file__).parent
SERVICE: Final = Target(namespace="driftwall-system", service="driftwall")
LABELS: Final = {"app.kubernetes.io/name": "driftwall"}
#: Those who may take the webhook away may as well break the glass: that is logged, and ends by itself. They are the
#: administrators of every cluster, and of one that kubeadm made.
ADMINISTRATORS: Final = ["system:masters", "kubeadm:cluster-admins"]
_HEADER: Final = "# Made by `make deploy` from policies/; not to be edited by hand.\n"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What the webhook configurations depend on."""

    mode: str
    break_glass: bool = False
    guard: bool = False
    custom_resources: bool = False

    @property
    def name(self) -> str:
        """Its file in the chart. ``dryRun`` and ``warn`` want the same of the API server."""
        parts = ["observe" if self.mode in ("dryRun", "warn") else self.mode]
        parts += [name for name, on in (("break-glass", self.break_glass), ("guard", self.guard)) if on]
        return "-".join([*parts, *(["custom-resources"] if self.custom_resources else [])])


DRY_RUN: Final = Variant(mode="dryRun")
ENFORCE: Final = Variant(mode="enforce", break_glass=True, guard=True)
# A glass is broken, and a token refused, only where something is enforced.
VARIANTS: Final = tuple(
    Variant(mode=mode, break_glass=glass, guard=guard, custom_resources=custom)
    for mode, glass, guard, custom in product(("dryRun", "tag", "enforce"), *((False, True),) * 3)
    if mode == "enforce" or not (glass or guard)
)


def policies(mode: str) -> list[Document]:
    """The policies of policies/, in ``mode``, in the order of their names."""
    found = []
    for file in sorted((ROOT.parent / "policies").glob("*/policy.yaml")):
        for document in load_documents(file.read_bytes(), str(file))[0]:
            value = document.value
            found.append({**value, "spec": {**value["spec"], "mode": mode}})
    return found


def configuration(variant: Variant) -> Document:
    """The DriftwallConfig; what it leaves out is as driftwall has it."""
    spec: Document = {"guardIdentities": variant.guard}
    if variant.break_glass:
        spec["breakGlass"] = {"groups": ADMINISTRATORS}
    return {
        "apiVersion": "driftwall.io/v1alpha1",
        "kind": "DriftwallConfig",
        "metadata": {"name": "default"},
        "spec": spec,
    }


def documents(variant: Variant) -> list[Document]:
    """The configuration and the policies."""
    return [configuration(variant), *policies(variant.mode)]


def webhooks(variant: Variant) -> list[Document]:
    """The webhook configurations, with the label by which everything of driftwall's is found."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "policies.yaml").write_text(_yaml(documents(variant)))
        snapshot = load(Path(folder))
    rendered = render(snapshot, SERVICE, custom_resources=variant.custom_resources)
    return [{**each, "metadata": {**each["metadata"], "labels": LABELS}} for each in rendered]


def files() -> dict[str, str]:
    """Every file that is made, by its path below deploy/."""
    made = {}
    for overlay, variant in (("dry-run", DRY_RUN), ("enforce", ENFORCE)):
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "driftwall-policies", "namespace": SERVICE.namespace, "labels": LABELS},
            "data": {"policies.yaml": _yaml(documents(variant))},
        }
        made[f"kustomize/overlays/{overlay}/policies.yaml"] = _HEADER + dump(config_map)
        made[f"kustomize/overlays/{overlay}/webhooks.yaml"] = _HEADER + _yaml(webhooks(variant))
    own = Variant(mode="dryRun", custom_resources=True)
    made["kustomize/overlays/custom-resources/policies.yaml"] = _HEADER + _yaml(documents(own))
    made["kustomize/overlays/custom-resources/webhooks.yaml"] = _HEADER + _yaml(webhooks(own))
    for policy in policies("dryRun"):
        made[f"chart/files/policies/{policy['metadata']['name']}.yaml"] = _HEADER + dump(policy)
    for variant in VARIANTS:
        made[f"chart/files/webhooks/{variant.name}.yaml"] = _HEADER + _yaml(webhooks(variant))
    made |= monitoring()
    return made


def monitoring() -> dict[str, str]:
    """The alerts and the dashboard as objects of a cluster, and as files of the chart."""
    alerts, dashboard = ((ROOT / "monitoring" / name).read_text() for name in ("alerts.yaml", "dashboard.json"))
    metadata = {"name": "driftwall", "namespace": SERVICE.namespace, "labels": LABELS}
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata,
        "spec": load_documents(alerts.encode(), "alerts.yaml")[0][0].value,
    }
    # The label that the sidecar of Grafana's chart looks for.
    labels = {**LABELS, "grafana_dashboard": "1"}
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "name": "driftwall-dashboard", "labels": labels},
        "data": {"driftwall.json": dashboard},
    }
    header = "# Made by `make deploy` from {}; not to be edited by hand.\n"
    return {
        "monitoring/prometheusrule.yaml": header.format("alerts.yaml") + dump(rule),
        "monitoring/dashboard.yaml": header.format("dashboard.json") + dump(config_map),
        "chart/files/monitoring/alerts.yaml": alerts,
        "chart/files/monitoring/dashboard.json": dashboard,
    }


def _yaml(values: Iterable[Document]) -> str:
    return "---\n".join(dump(value) for value in values)


def main() -> int:
    """Write the files, and remove those of before that are not made any more."""
    for folder in ("policies", "webhooks", "monitoring"):
        shutil.rmtree(ROOT / "chart/files" / folder, ignore_errors=True)
    for name, text in files().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
