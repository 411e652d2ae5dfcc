"""Rows from files and the hub: recognised, read, filtered by the paper's rules, cleaned, split. `preferences` is the face."""
