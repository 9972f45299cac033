"""The one error of the set-up."""

from __future__ import annotations

from core.errors import StudioError


class SetupError(StudioError):
    """The environment cannot be made or the studio cannot start; says what to do about it."""
