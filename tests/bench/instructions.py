"""How many instructions the denied UPDATE takes, by valgrind's callgrind: what no noise of the machine touches."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Final

from tests.e2e import debian

from .cases import ROOT, answering, case_named

#: Decisions that are counted, after as many that are not: few, since each takes fifty times as long as usual.
_COUNTED: Final = 50


def count(case: str) -> int:
    """Instructions of one decision of a case, from the review's bytes to the answer's.

    Raises:
        PreparationError: valgrind cannot be had.
    """
    if shutil.which("valgrind") is None:
        debian.install(["valgrind"])
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        done = subprocess.run(
            [*command, sys.executable, "-m", __name__, case],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0", "TMPDIR": folder},
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"callgrind told no count: {done.stderr}")
    return int(found[1]) // _COUNTED


def main(name: str) -> None:
    """Decide, and let callgrind count: it is told when by the tool that comes with it."""
    answer = answering(case_named(name))
    for _ in range(_COUNTED):
        answer()
    subprocess.run(["callgrind_control", "--instr=on", str(os.getpid())], check=True, stdout=subprocess.DEVNULL)
    for _ in range(_COUNTED):
        answer()
    subprocess.run(["callgrind_control", "--instr=off", str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(sys.argv[1])
