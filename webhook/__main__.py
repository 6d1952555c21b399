"""``python -m webhook`` is the command ``driftwall``."""

import sys

from webhook.cli import main

sys.exit(main())
