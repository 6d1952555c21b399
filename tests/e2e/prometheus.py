"""Debian's own Prometheus, promtool and Pushgateway: a real Prometheus that scrapes what a test shows it."""

import contextlib
import http.client
import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from . import debian, processes
from .binaries import alone, cache_folder

#: The Debian package that a tool is in.
_PACKAGES = {"prometheus": "prometheus", "promtool": "prometheus", "prometheus-pushgateway": "prometheus-pushgateway"}
# Seconds between two scrapes, and two looks at the rules: as often as a busy machine does both in time.
_EVERY = "1s"


def tool(name: str) -> Path:
    """One of _PACKAGES, unpacked from Debian's package if it is not there: nothing is installed, and no service is
    started. Raises debian.PreparationError.
    """
    if found := shutil.which(name):
        return Path(found).absolute()
    package, cache = _PACKAGES[name], cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / package / "usr" / "bin" / name
    with alone(cache / f"{package}.lock"):
        if not path.exists():
            debian.unpack(package, cache / package)
    return path


class _Server:
    """A server at `address`, which is ready inside `with`, and gone after it."""

    def __init__(self, name: str, flags: Sequence[str], folder: Path) -> None:
        self.address = f"127.0.0.1:{processes.free_port()}"
        command: list[str | Path] = [tool(name), *flags, f"--web.listen-address={self.address}", "--log.level=warn"]
        self._process = processes.Process(command, folder / f"{name}.log")

    def __enter__(self) -> Self:
        try:
            self._process.wait_until(lambda: _get(self.address, "/-/ready"))
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()


class Pushgateway(_Server):
    """A Pushgateway at `address`, from `with` to its end; what was pushed to it is gone with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__("prometheus-pushgateway", (), folder)


class Prometheus(_Server):
    """A Prometheus that scrapes `targets` and `gateway` and watches `rules`, from `with` to its end."""

    def __init__(self, folder: Path, targets: Sequence[str], gateway: str, rules: Mapping[str, Any]) -> None:
        config = {
            "global": {"scrape_interval": _EVERY, "scrape_timeout": _EVERY, "evaluation_interval": _EVERY},
            "rule_files": [str(folder / "rules.json")],
            "scrape_configs": [
                {"job_name": "driftwall", "static_configs": [{"targets": list(targets)}]},
                {"job_name": "pushgateway", "honor_labels": True, "static_configs": [{"targets": [gateway]}]},
            ],
        }
        # YAML takes JSON as it is.
        (folder / "rules.json").write_text(json.dumps(rules))
        (folder / "prometheus.json").write_text(json.dumps(config))
        flags = [f"--config.file={folder / 'prometheus.json'}", f"--storage.tsdb.path={folder / 'data'}"]
        super().__init__("prometheus", flags, folder)

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression gives now: labels and value of each series."""
        answer = json.loads(_get(self.address, f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        alerts = json.loads(_get(self.address, "/api/v1/alerts"))["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def _get(address: str, path: str) -> str:
    with contextlib.closing(http.client.HTTPConnection(address, timeout=10)) as connection:
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
