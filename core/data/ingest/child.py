"""The child of ``read_isolated``: one request on standard input, one reply on standard output."""

from __future__ import annotations

import json
import sys

from core.data.ingest.isolated import MEMORY_EXIT, error_to_json, result_to_json
from core.data.ingest.reader import read_file
from core.errors import DataError


def main() -> int:
    """Read the file that the request names and write the result or its error as JSON."""
    request = json.loads(sys.stdin.buffer.read())
    try:
        _limit_memory(request["memory_limit"])
        try:
            result = read_file(request["path"], **request["options"])
            reply = {"result": result_to_json(result)}
        except DataError as error:
            reply = {"error": error_to_json(error)}
        sys.stdout.buffer.write(json.dumps(reply).encode())
    except MemoryError:
        return MEMORY_EXIT
    return 0


def _limit_memory(limit: int) -> None:
    """Limit the address space where the system can (not on Windows, in vain on macOS)."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        return


if __name__ == "__main__":
    sys.exit(main())
