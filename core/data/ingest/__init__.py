"""Readers: one a format, all into the same examples."""
