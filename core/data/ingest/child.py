"""The child of ``read_isolated``: a request on standard input, a reply on standard output."""

from __future__ import annotations

import json
import sys

from core.data.ingest.isolated import MEMORY_EXIT, error_to_json, result_to_lines
from core.data.ingest.reader import read_file
from core.errors import DataError


def main() -> int:
    """Read the file that the request names and write the result or its error as JSON lines."""
    request = json.loads(sys.stdin.buffer.read())
    try:
        limit_memory(request["memory_limit"])
        try:
            result = read_file(request["path"], **request["options"])
        except DataError as error:
            lines = iter([json.dumps({"error": error_to_json(error)})])
        else:
            lines = result_to_lines(result)
        sys.stdout.buffer.writelines(f"{line}\n".encode() for line in lines)
    except MemoryError:
        return MEMORY_EXIT
    return 0


def limit_memory(limit: int) -> None:
    """Limit the address space where the system can (not on Windows, in vain on macOS)."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        return


if __name__ == "__main__":
    sys.exit(main())
