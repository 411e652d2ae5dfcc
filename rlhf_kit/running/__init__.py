"""Runs of many notebooks: executed by papermill, judged by their claims, repeated over seeds, compared."""
