"""Debian's own Prometheus and promtool, and a real Prometheus that scrapes what a test shows it."""

import contextlib
import http.client
import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import debian, processes
from .binaries import alone, cache_folder

_PACKAGE = "prometheus"
# Seconds between two scrapes, and two looks at the rules: as often as a busy machine does both in time.
_EVERY = "1s"


def tool(name: str) -> Path:
    """`prometheus` or `promtool`, unpacked from Debian's package if it is not there: nothing is installed, and no
    service is started. Raises debian.PreparationError.
    """
    if found := shutil.which(name):
        return Path(found).absolute()
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / _PACKAGE / "usr" / "bin" / name
    with alone(cache / f"{_PACKAGE}.lock"):
        if not path.exists():
            debian.unpack(_PACKAGE, cache / _PACKAGE)
    return path


class Prometheus:
    """A Prometheus that scrapes `targets` and watches `rules`, from `start`, or `with`, until `stop`."""

    def __init__(self, folder: Path, targets: Sequence[str], rules: Mapping[str, Any]) -> None:
        config = {
            "global": {"scrape_interval": _EVERY, "scrape_timeout": _EVERY, "evaluation_interval": _EVERY},
            "rule_files": [str(folder / "rules.json")],
            "scrape_configs": [{"job_name": "driftwall", "static_configs": [{"targets": list(targets)}]}],
        }
        # YAML takes JSON as it is.
        (folder / "rules.json").write_text(json.dumps(rules))
        (folder / "prometheus.json").write_text(json.dumps(config))
        self._port = processes.free_port()
        self._process = processes.Process(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.json'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--log.level=warn",
            ],
            folder / "prometheus.log",
        )

    def __enter__(self) -> "Prometheus":
        try:
            self._process.wait_until(lambda: self._get("/-/ready"))
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression gives now: labels and value of each series."""
        answer = json.loads(self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        alerts = json.loads(self._get("/api/v1/alerts"))["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _get(self, path: str) -> str:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
        if response.status != 200:
            raise OSError(f"{path}: HTTP {response.status}: {text}")
        return text


def promtool(*arguments: Iterable[str] | Path | str) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    command = [str(tool("promtool")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
