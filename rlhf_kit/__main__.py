from __future__ import annotations

import sys

from rlhf_kit.cli import main

sys.exit(main())
