"""RLHF Workflow (arXiv 2405.07863) as a notebook-first course: a thin helper package under the notebooks."""

__version__ = "0.1.0"
