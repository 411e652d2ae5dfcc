"""Folders and files that hold a model: released ones, heads of many objectives, GGUF in and out, model cards."""
