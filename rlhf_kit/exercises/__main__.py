"""`python -m rlhf_kit.exercises [--execute]`: lets lessons and solutions notebooks agree after an edit of either."""

import argparse
import sys

from rlhf_kit.errors import KitError
from rlhf_kit.exercises import solutions
from rlhf_kit.running import notebooks

options = argparse.ArgumentParser(prog="python -m rlhf_kit.exercises", description=__doc__)
options.add_argument("--execute", action="store_true", help="also execute the solutions notebooks, outputs stored")
execute = options.parse_args().execute
try:
    changed = solutions.agree()
    print("\n".join(f"written: {path.parent.name}/{path.name}" for path in changed) or "lessons and solutions agree")
    for path in sorted(notebooks.FOLDER.glob("solutions/*.ipynb")) if execute else []:
        solutions.execute(path)
        print(f"executed: solutions/{path.name}", flush=True)
except KitError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
