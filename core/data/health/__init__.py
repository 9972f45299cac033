"""What a teacher should know about a class before a model learns it; every finding can be mended.

Everything here is a hint: patterns find *possible* personal data, and never all of it.
"""

from core.data.health.examine import check, examine
from core.data.health.private import is_resident_id
from core.data.health.report import Finding, Report

__all__ = ["Finding", "Report", "check", "examine", "is_resident_id"]
