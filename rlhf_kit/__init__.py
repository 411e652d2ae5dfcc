"""RLHF Workflow (arXiv 2405.07863) as a notebook-first course: a thin helper package under the notebooks."""

import logging
import os

__version__ = "0.1.0"

# Idle OpenMP threads of PyTorch on Linux spin for a moment and then sleep. At the default they spin for long, and a
# second busy process on the machine then slows a training down many times over. Read when PyTorch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Read when huggingface_hub is first imported, which TRL and transformers do.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Where QLoRA's package is installed and no GPU is, each training would tell of a faster kernel that it did not find.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
