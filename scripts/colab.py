"""Colab: installs the pinned set into the running image. Standard library only; safe to run again.

    python scripts/colab.py                        # what the notebooks' first cell calls; prints "restart" when it installed
    python scripts/colab.py --repository OWNER/NAME  # once, by whoever publishes a copy: notebooks and README learn its address
"""

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TAG = "colab"
BADGES = re.compile(r"<!-- badges -->.*?<!-- /badges -->", re.S)
# The first cell of every notebook. Only the address differs between copies.
CELL = '''\
# On Colab: fetch the kit, install its pinned set, restart the session once.
# Elsewhere this cell does nothing.
import sys

if "google.colab" in sys.modules:
    import os
    import subprocess

    REPOSITORY = "{address}"  # https://github.com/OWNER/NAME
    assert REPOSITORY, "set REPOSITORY above to this notebook's repository"
    KIT = "/content/kit"
    if not os.path.isdir(KIT):
        clone = ["git", "clone", "-q", "--depth", "1"]
        subprocess.run([*clone, REPOSITORY, KIT], check=True)
    os.chdir(KIT)
    sys.path.insert(0, KIT)
    install = [sys.executable, "scripts/colab.py"]
    told = subprocess.run(install, capture_output=True, text=True)
    print(told.stdout + told.stderr)
    assert told.returncode == 0, "the pinned packages could not be installed, see above"
    if "restart" in told.stdout:
        get_ipython().kernel.do_shutdown(True)'''


def pins(root=ROOT, gpu=False):
    """{package: version} of requirements.txt, beside a GPU with vLLM."""
    found = {}
    for name in ["requirements.txt"] + (["requirements-gpu.txt"] if gpu else []):
        for line in (root / name).read_text(encoding="utf-8").splitlines():
            line = line.split("#")[0].strip()
            if line:
                package, version = line.split("==")
                found[package] = version
    return found


def differing(wanted):
    """The pins that this Python does not have in that version; a local build tag (+cpu, +cu130) does not count."""
    found = []
    for package, version in wanted.items():
        try:
            installed = metadata.version(package).split("+")[0]
        except metadata.PackageNotFoundError:
            installed = None
        if installed != version:
            found.append(f"{package}=={version}")
    return found


def has_gpu():
    if not shutil.which("nvidia-smi"):
        return False
    return subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def install(root=ROOT):
    """0 when everything stands as pinned (perhaps after installing), else pip's status."""
    wanted = pins(root, has_gpu())
    missing = differing(wanted)
    if not missing:
        print("the pinned packages are installed")
        return 0
    status = subprocess.call([sys.executable, "-m", "pip", "install", "-q", *["{}=={}".format(*one) for one in wanted.items()]])
    if status == 0:
        print(f"{len(missing)} packages were changed to the pinned versions; the session will restart now: run the cells again from the top")
    return status


# ---------------------------------------------------------------- the address


def put_cell(book, address):
    """The notebook (a dict) with the Colab cell in second place, behind the opening card."""
    cells = [cell for cell in book["cells"] if TAG not in cell["metadata"].get("tags", [])]
    cell = {"cell_type": "code", "execution_count": None, "id": "colab-setup", "outputs": [], "source": CELL.format(address=address).splitlines(True),
            "metadata": {"jupyter": {"source_hidden": True}, "tags": [TAG]}}
    book["cells"] = cells[:1] + [cell] + cells[1:]
    return book


def badge(repository, name):
    page = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb"
    return f"[![Open {name} in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({page})"


def publish(repository, root=ROOT):
    """Writes the address into the notebooks' first cell, and badges into README.md (between its badge marks)."""
    if repository and not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", repository):
        sys.exit(f"colab: --repository {repository!r} is not OWNER/NAME")
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for path in paths:
        book = put_cell(json.loads(path.read_text(encoding="utf-8")), "https://github.com/" + repository if repository else "")
        path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    lines = "\n".join(badge(repository, path.stem) for path in paths) + "\n" if repository else ""
    readme.write_text(BADGES.sub("<!-- badges -->\n" + lines.replace("\\", "") + "<!-- /badges -->", text), encoding="utf-8")
    print(f"{len(paths)} notebooks and README.md name {repository or 'no repository'}")


def main(arguments):
    if not arguments:
        return install()
    if len(arguments) != 2 or arguments[0] != "--repository":
        sys.exit("colab: usage: python scripts/colab.py [--repository OWNER/NAME]")
    publish(arguments[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
