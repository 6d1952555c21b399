"""``driftwall scan``: drift that is there now."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from webhook import bundled, drift_exchange, drift_patch, drift_report, policy_report, settings, terminal
from webhook.breakglass import read_time
from webhook.commands import from_environment
from webhook.drift_model import EXTRA, DriftedObject
from webhook.durations import parse_duration
from webhook.errors import ClusterError, PushFailed, SettingsError
from webhook.globs import Globs
from webhook.manifests import Manifest, read
from webhook.options import Option, Values
from webhook.policy import Snapshot
from webhook.policy_compiler import load
from webhook.text import escaped

if TYPE_CHECKING:
    from webhook.commands import Subparsers
    from webhook.scanning import Options, Scan

_DESCRIPTION = """\
Finds the fields of managed objects that somebody else than their GitOps tool has written, by managedFields and by
driftwall's own marks; with --manifests what differs from rendered manifests, by a dry run of the apply, what is missing
and what is extra. It changes nothing in the cluster, unless --remediate or --policy-reports is given. No value of a
Secret is shown."""
_EXAMPLES = """\
examples:
  driftwall scan
  driftwall scan --namespace shop --since 2h
  kustomize build clusters/prod | driftwall scan --manifests -
  helm template shop charts/shop | driftwall scan --manifests - --namespace shop -o markdown
  driftwall scan --manifests rendered --remediate

exit codes: 0 no drift, 2 drift, 64 and above usage or environment, or something could not be scanned or pushed"""

#: INTERFACE: the exit code for drift, as of `terraform plan -detailed-exitcode`.
EX_DRIFT: Final = 2
_EX_UNAVAILABLE: Final = 69  # sysexits.h: something could not be scanned, so "no drift" cannot be said; or pushed
_TOLD: Final = 10  # lines of one kind of problem
_OUTPUTS: Final = ("text", "json", "sarif", "junit", "markdown", "patch")
_ON: Final = ("1", "true", "yes", "on")
_PUSHGATEWAY: Final = Option(
    flag="--pushgateway",
    metavar="URL",
    help="leave metrics of the scan at this Prometheus Pushgateway, in the place of those of the scan before",
)


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "scan",
        help="drift that is there now",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def option(flag: str, *names: str, **kwargs: Any) -> None:
        parser.add_argument(flag, *names, default=from_environment(flag), **kwargs)

    def switch(flag: str, text: str) -> None:
        default = (from_environment(flag) or "").lower() in _ON
        parser.add_argument(flag, action="store_true", default=default, help=text)

    option(
        "--policies",
        metavar="PATH|cluster",
        help="the policies: a file, a folder, or 'cluster' for the custom resources (default: those of driftwall)",
    )
    option(
        "--kubeconfig", type=Path, metavar="FILE", help="how to reach the API server (default: in-cluster, then yours)"
    )
    option("--namespace", "-n", metavar="NAME", help="this namespace alone; and that of manifests which name none")
    option("--manifests", metavar="DIR|FILE|-", help="rendered manifests to compare with")
    option("--since", metavar="TIME|DURATION", help="what was written since then: 2026-01-31T08:00:00Z, or 2h")
    option("--resources", metavar="NAME[,NAME…]", help="these alone, such as deployments.apps; * is a wildcard")
    option("--exclude-resources", metavar="NAME[,NAME…]", help="all but these, such as secrets")
    switch("--all-managers", "take every field manager for a person's: also those that leave labels and finalizers")
    switch("--partial", "the manifests are not all of their application: look for no extra objects")
    switch("--remediate", "apply the declared state again, after showing the drift and asking")
    switch("--prune", "with --remediate: delete the extra objects")
    switch("--yes", "do not ask")
    switch("--policy-reports", "write the results as PolicyReports, one for each namespace")
    parser.add_argument(_PUSHGATEWAY.flag, metavar=_PUSHGATEWAY.metavar, help=_PUSHGATEWAY.help)
    switch("--exit-zero", "exit with 0 for drift, too: for a job whose reports tell")
    parser.add_argument(
        "-o",
        "--output",
        choices=_OUTPUTS,
        default=from_environment("--output") or "text",
        help="default: text, a table",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Scan, print, and remediate if that is asked for; the exit code."""
    from webhook.cluster.connection import connect
    from webhook.scan_job import policies_in
    from webhook.scanning import Scan

    now, began = datetime.now(UTC), time.monotonic()
    options, gateway = _options(args, now), _pushgateway(args)
    cluster = connect(args.kubeconfig)
    with terminal.Counter("objects looked at") as progress:
        snapshot = _policies(args.policies) or policies_in(cluster)
        scan = Scan(cluster, snapshot, options, now, on_progress=progress.at)
        results = scan.manifests(_manifests(args.manifests)) if args.manifests else scan.cluster()
        found = sorted(results, key=lambda each: (each.target.ref.namespace, each.target.ref))
    seconds = time.monotonic() - began
    _print(args.output, found, scan, now)
    complete = _complain(scan)
    if args.policy_reports:
        _write_reports(cluster, found, scan, now)
    pushed = gateway is None or _push(gateway, found, scan, seconds=seconds, complete=complete)
    if args.remediate and found:
        return _remediate(scan, found, args)
    if not complete:
        return _EX_UNAVAILABLE
    if found and not args.exit_zero:
        return EX_DRIFT
    # A job that is to tell by its metrics alone must not look well while nobody gets them.
    return 0 if pushed else _EX_UNAVAILABLE


def _options(args: argparse.Namespace, now: datetime) -> Options:
    from webhook.scanning import Options

    if args.prune and not (args.remediate and args.manifests):
        raise SettingsError(
            "--prune goes with --remediate and --manifests: without manifests nothing is known as extra"
        )
    if args.yes and not args.remediate:
        raise SettingsError("--yes goes with --remediate: nothing else asks")
    if args.partial and not args.manifests:
        raise SettingsError("--partial goes with --manifests")
    if args.remediate and not args.yes and not (sys.stdin.isatty() and args.manifests != "-"):
        raise SettingsError("--remediate asks before it writes, and there is no terminal to ask on: give --yes as well")
    if args.policy_reports and (args.manifests or args.namespace or args.since):
        raise SettingsError("--policy-reports tell of all namespaces: not with --manifests, --namespace or --since")
    try:
        return Options(
            namespace=args.namespace or "",
            resources=Globs(_names(args.resources)),
            exclude=Globs(_names(args.exclude_resources)),
            partial=args.partial,
            since=_since(args.since, now) if args.since else None,
            all_managers=args.all_managers,
        )
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _pushgateway(args: argparse.Namespace) -> str | None:
    """Where metrics go, if anywhere."""
    values = Values({_PUSHGATEWAY.name: args.pushgateway}, os.environ)
    url = values.url(_PUSHGATEWAY)
    if values.problems:
        raise SettingsError("\n".join(values.problems))
    if url and "@" in urlsplit(url).netloc:
        raise SettingsError("--pushgateway: a user or a password in the URL is never sent: leave them out")
    if url and (args.manifests or args.namespace or args.since):
        raise SettingsError("--pushgateway tells of all namespaces: not with --manifests, --namespace or --since")
    return url


def _names(text: str | None) -> list[str]:
    return [name for part in (text or "").split(",") if (name := part.strip())]


def _since(text: str, now: datetime) -> datetime:
    time = read_time(text)
    if time is not None:
        return time
    try:
        return now - parse_duration(text)
    except (ValueError, OverflowError):
        raise SettingsError(
            f"--since: {escaped(text)!r} is neither a time such as 2026-01-31T08:00:00Z nor a duration such as 2h"
        ) from None


def _policies(named: str | None) -> Snapshot | None:
    """The policies in files; None for those in the cluster."""
    if named == settings.CLUSTER:
        return None
    return load(Path(named) if named else bundled.policies())


def _manifests(name: str) -> Iterator[Manifest]:
    return read(name)


def _print(output: str, found: list[DriftedObject], scan: Scan, now: datetime) -> None:
    totals = scan.totals
    managed = sum(totals.managed.values())
    match output:
        case "json":
            incomplete = [*totals.incomplete, *totals.denied]
            counts = {"managed": managed, "scanned": totals.scanned}
            undecided = scan.inspector.undecided
            print(drift_report.as_json(found, now=now, **counts, incomplete=incomplete, undecided=undecided))
        case "sarif":
            print(drift_exchange.sarif(found))
        case "junit":
            print(drift_exchange.junit(found, totals.managed))
        case "markdown":
            print("\n".join(drift_report.markdown(found, now, managed=managed, scanned=totals.scanned)))
        case "patch":
            print(drift_patch.patches(found), end="")
        case _:
            print(
                "\n".join([*drift_report.table(found, now, width=terminal.width(), paint=terminal.coloured), ""]),
                end="",
            )
            print(drift_report.summary(found, managed, totals.scanned))


def _complain(scan: Scan) -> bool:
    """Say on stderr what was not scanned, and why; whether all was."""
    totals, undecided = scan.totals, scan.inspector.undecided
    for line in totals.incomplete[:_TOLD]:
        _say(f"not scanned: {line}")
    if len(totals.incomplete) > _TOLD:
        _say(f"not scanned: … and {len(totals.incomplete) - _TOLD} more")
    if totals.denied:
        _say(
            f"not compared: driftwall itself denied {len(totals.denied)} of the dry runs, which it judges like any "
            f"write; the first: {totals.denied[0]}\nScan as a GitOps identity, or name the one that you scan as under "
            "trustedWriters."
        )
    if undecided:
        names = ", ".join(f"{escaped(name)} ({count})" for name, count in sorted(undecided.items()))
        _say(f"left alone, since controllers write there: what these field managers own: {names}; see --all-managers")
    return not (totals.incomplete or totals.denied)


def _write_reports(cluster: Any, found: list[DriftedObject], scan: Scan, now: datetime) -> None:
    from webhook.scan_job import write_reports

    missed = [*scan.totals.incomplete, *scan.totals.denied]
    write_reports(cluster, policy_report.reports(found, scan.totals.managed, now, missed), whole=not missed)


def _push(gateway: str, found: list[DriftedObject], scan: Scan, *, seconds: float, complete: bool) -> bool:
    """Leave the metrics at the Pushgateway; whether it has them."""
    from webhook import scan_metrics

    ended = datetime.now(UTC) if complete else None
    metrics = scan_metrics.collect(found, scan.totals, seconds=seconds, succeeded=ended)
    cluster = scan.inspector.snapshot.config.cluster_id
    try:
        scan_metrics.push(gateway, metrics, cluster=cluster, whole=complete)
    except PushFailed as error:
        _say(str(error))
        return False
    return True


def _remediate(scan: Scan, found: list[DriftedObject], args: argparse.Namespace) -> int:
    """Bring back what can be; the exit code."""
    wanted = [each for each in found if args.prune or each.state != EXTRA]
    unknown = [each for each in wanted if each.target.ref not in scan.remedies]
    wanted = [each for each in wanted if each.target.ref in scan.remedies]
    for each in unknown:
        _say(
            f"{drift_report.place(each)} stays as it is: what Git declares of it is not in the cluster; "
            "give the rendered --manifests"
        )
    failed, left = len(unknown), len(found) - len(wanted) - len(unknown)
    if wanted and not (args.yes or _agreed(wanted)):
        _say("nothing was changed")
        return EX_DRIFT
    for each in wanted:
        try:
            kept = scan.remediate(each)
        except ClusterError as error:
            failed += 1
            _say(f"{drift_report.place(each)} is still as it was: {error}")
        else:
            place = drift_report.place(each)
            _say(f"{place} {'deleted' if each.state == EXTRA else 'applied as declared'}")
            left += len(kept)
            for path in kept:
                _say(f"{place} keeps {escaped(path)}, which Git does not declare: take it away by hand")
    if failed:
        return _EX_UNAVAILABLE
    if extra := len(found) - len(wanted) - len(unknown):
        _say(f"{extra} extra object{'' if extra == 1 else 's'} left alone; --prune deletes what is extra")
    return EX_DRIFT if left and not args.exit_zero else 0


def _agreed(wanted: list[DriftedObject]) -> bool:
    deleted = sum(each.state == EXTRA for each in wanted)
    also = f", and delete {deleted}" if deleted else ""
    print(f"\nApply the declared state of {len(wanted) - deleted} objects again{also}? Only 'yes' is taken: ", end="")
    sys.stdout.flush()
    return sys.stdin.readline().strip() == "yes"


def _say(text: str) -> None:
    for line in text.splitlines():
        print(f"driftwall: {line}", file=sys.stderr)
