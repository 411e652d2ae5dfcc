"""`python -m rlhf_kit.exercises`: lets lessons and solutions notebooks agree after an edit of either."""

from rlhf_kit.exercises.solutions import agree

print("\n".join(f"written: {path.parent.name}/{path.name}" for path in agree()) or "lessons and solutions agree")
