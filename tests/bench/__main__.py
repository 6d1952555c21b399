"""``make bench``: what driftwall's reviews cost, beside an application that does nothing. See CONTRIBUTING.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.serving import certificates

from . import instructions, load, report, servers
from .cases import BIG, CASES, DENIED, FEW_CONTAINERS, MANY_CONTAINERS, MUTATED, POLICIES, ROOT, Case, write_policies
from .load import Measured
from .report import Goal, Row
from .servers import Target

VALIDATE, MUTATE = "/validate", "/mutate"
OWN = "driftwall"
MANY, FEW = "1000 policies", "3 policies"
#: Of policies, beside those of policies/; three are about the denied UPDATE, or all if there are fewer.
COUNTS = (1, 3, 100, 1000)
#: What INTERFACE and the issue ask for, in bytes and in milliseconds of Python's own parser.
MAX_RESIDENT, MAX_GROWTH, MAX_PARSES, MAX_P50 = 90e6, 10e6, 10, 1.7
#: Of one measurement: long enough for hundreds of answers, short enough for the no-op and it to see the same machine.
SECONDS = 0.3
#: Each measures everything ROUNDS times with servers of its own: one process may be a tenth faster than the next for
#: where its memory happens to lie.
STARTS = 3
ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is measured in each round, with the no-op before it. ``pairs`` are filled by the rounds."""

    server: str
    path: str
    case: Case
    connections: int
    pairs: list[tuple[Measured, Measured]] = field(default_factory=list)

    def row(self) -> Row:
        """What came out of it."""
        return report.row(
            self.pairs,
            server=self.server,
            path=self.path,
            case=self.case.name,
            size=len(self.case.body),
            connections=self.connections,
        )


@contextlib.contextmanager
def _servers(policies: Mapping[str, Path]) -> Iterator[dict[str, Target]]:
    """The no-op, and a driftwall for each of ``policies``, by name."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        made = certificates(folder)
        kubeconfig = stack.enter_context(servers.api_server(folder))
        started = [servers.noop(made)]
        started += [servers.driftwall(name, made, path, kubeconfig) for name, path in policies.items()]
        yield {target.name: target for target in map(stack.enter_context, started)}


def _named(count: int) -> str:
    return f"{count} polic{'y' if count == 1 else 'ies'}"


def _steps(compare: Sequence[str], *, quick: bool) -> list[Step]:
    at = (1, 16) if quick else (1, 16, 64)
    steps = [Step(server=OWN, path=VALIDATE, case=case, connections=c) for c in at for case in CASES]
    steps += [Step(server=OWN, path=MUTATE, case=case, connections=16) for case in MUTATED]
    steps += [Step(server=_named(count), path=VALIDATE, case=DENIED, connections=16) for count in COUNTS]
    # Their URL has their path.
    steps += [Step(server=url, path="", case=case, connections=c) for url in compare for c in at for case in CASES]
    return steps


def _goals(rows: Sequence[Row], resident: float, decide: dict[str, float]) -> list[Goal]:
    own = {(row.case, row.connections): row for row in rows if (row.server, row.path) == (OWN, VALIDATE)}
    goals = [
        Goal(
            what=f"{case.name}, share of the no-op at 16 connections",
            found=own[case.name, 16].of_noop,
            bound=case.floor,
        )
        for case in CASES
        if case.floor is not None
    ]
    goals += [
        Goal(
            what=f"{case.name}, p50 at 1 connection, times the no-op's",
            found=own[case.name, 1].p50_of_noop,
            bound=MAX_P50,
            at_most=True,
        )
        for case in CASES[:2]
    ]
    speed = {row.server: row.of_noop for row in rows}
    goals.append(Goal(what=f"{MANY}, share of the speed with {FEW}", found=speed[MANY] / speed[FEW], bound=0.85))
    few, many = decide[FEW_CONTAINERS.name], decide[MANY_CONTAINERS.name]
    longer = len(MANY_CONTAINERS.body) / len(FEW_CONTAINERS.body)
    goals.append(
        Goal(what="100 containers, time over that of 1, per byte", found=many / few / longer, bound=1, at_most=True)
    )
    parses = decide[BIG.name] / decide["json.loads of it"]
    goals.append(
        Goal(what="1 MiB ConfigMap, times json.loads of the review", found=parses, bound=MAX_PARSES, at_most=True)
    )
    goals.append(Goal(what="resident at start, MB", found=resident / 1e6, bound=MAX_RESIDENT / 1e6, at_most=True))
    return goals


def _decide(folder: Path) -> dict[str, float]:
    """Seconds of each case inside the process: the least of many, which a busy machine changes least."""
    out = folder / "decide.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/bench"]
    command += [
        "--override-ini=norecursedirs=.*",
        "--override-ini=addopts=",
        f"--benchmark-json={out}",
        "--benchmark-max-time=0.5",
        "--benchmark-disable-gc",
    ]
    done = subprocess.run(
        servers.pinned(servers.SERVER_CORE, *command), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the benchmark inside the process failed:\n{done.stdout}")
    found = {}
    for benchmark in json.loads(out.read_text())["benchmarks"]:
        argument = benchmark["param"]
        name = "json.loads of it" if argument is None else _named(int(argument)) if argument.isdigit() else argument
        found[name] = benchmark["stats"]["min"]
    return found


def bench(options: argparse.Namespace) -> report.Result:
    """Measure everything."""
    load.prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _say("inside the process")
        decide = _decide(folder)
        counted = None
        if not options.quick:
            _say("instructions")
            counted = instructions.count(DENIED.name)
        policies = {OWN: POLICIES} | {_named(count): write_policies(folder / str(count), count) for count in COUNTS}
        bodies: dict[str, Path] = {}
        for case in CASES:
            bodies[case.name] = folder / f"{len(bodies)}.json"
            bodies[case.name].write_bytes(case.body)
        steps = _steps(options.compare, quick=options.quick)
        resident = dict.fromkeys(policies, 0)
        starts, rounds = (2, 1) if options.quick else (STARTS, ROUNDS)
        for start in range(starts):
            with _servers(policies) as there:
                resident = {name: max(most, there[name].started_with) for name, most in resident.items()}
                for number in range(rounds):
                    _say(f"load, round {start * rounds + number + 1} of {starts * rounds}")
                    for step in steps:
                        _measure(step, there, bodies[step.case.name])
        rows = [step.row() for step in steps]
        return report.Result(
            machine=report.machine(),
            rows=rows,
            resident=resident,
            decide=decide,
            instructions=counted,
            goals=_goals(rows, resident[OWN], decide),
        )


def _measure(step: Step, there: Mapping[str, Target], body: Path) -> None:
    other = there.get(step.server) or Target(name=step.server, url=step.server)
    noop = load.measure(there["no-op"], VALIDATE, body, step.connections, SECONDS)
    step.pairs.append((noop, load.measure(other, step.path, body, step.connections, SECONDS)))


def soak(requests: int) -> Goal:
    """Call driftwall so many times; how much its memory has grown."""
    load.prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _servers({OWN: POLICIES}) as there:
            own, answered = there[OWN], 0
            cases = [case for case in CASES if case not in (BIG, MANY_CONTAINERS)]
            bodies = [folder / f"{number}.json" for number in range(len(cases))]
            for body, case in zip(bodies, cases, strict=True):
                body.write_bytes(case.body)
            while answered < requests:
                for body in bodies:
                    for path in (VALIDATE, MUTATE):
                        answered += load.measure(own, path, body, 16, 3).requests
                grown = own.resident() - own.started_with
                _say(f"{answered:,} requests answered, {own.resident() / 1e6:.1f} MB resident, {grown / 1e6:+.1f} MB")
            grown = own.resident() - own.started_with
        return Goal(
            what=f"growth after {answered:,} requests, MB", found=grown / 1e6, bound=MAX_GROWTH / 1e6, at_most=True
        )


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def main() -> int:
    """Returns 0 if everything that has to hold holds, else 1."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="two rounds, fewer connections, no instructions: a minute and a half"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), help="where to write what was found (default: %(default)s)"
    )
    parser.add_argument(
        "--compare", metavar="URL", action="append", default=[], help="another webhook, with its path; any number"
    )
    parser.add_argument("--soak", metavar="N", type=int, help="instead: N requests, and how much memory has grown")
    options = parser.parse_args()
    if options.soak:
        goal = soak(options.soak)
        print(f"{goal.what}: {goal.found:.1f} (at most {goal.bound:g})")
        return 0 if goal.met else 1
    result = bench(options)
    options.json.write_text(json.dumps(result.as_json(), indent=1) + "\n")
    print(report.text(result))
    return 0 if all(goal.met for goal in result.goals) else 1


if __name__ == "__main__":
    sys.exit(main())
