from __future__ import annotations

import compileall
from pathlib import Path

from hypothesis import settings

# As it is in the image: otherwise each process that a test starts compiles it anew, where Python may not write that.
compileall.compile_dir(Path(__file__).parents[1] / "webhook", quiet=1)

# No deadline: a busy machine is no bug. Derandomized: the same tests run everywhere, every time.
settings.register_profile("tests", deadline=None, derandomize=True)
# By hand, to search further: pytest --hypothesis-profile=deep
settings.register_profile("deep", deadline=None, max_examples=5000)
# For `make fuzz`, again and again: at random, as nothing else is.
settings.register_profile("fuzz", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("tests")
