"""Class files to examples: one reader a format, told apart by content."""

from core.data.ingest.encoding import candidates
from core.data.ingest.isolated import read_isolated
from core.data.ingest.label import clean_label
from core.data.ingest.reader import FORMATS, read_file

__all__ = ["FORMATS", "candidates", "clean_label", "read_file", "read_isolated"]
