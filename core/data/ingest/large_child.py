"""The child of ``import_isolated``: a request on standard input, progress and a result as lines."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.data.ingest.child import limit_memory
from core.data.ingest.isolated import MEMORY_EXIT, error_to_json
from core.data.ingest.large import to_json
from core.data.ingest.stream import Progress, import_rows
from core.errors import DataError


def main() -> int:
    """Import the file that the request names."""
    request = json.loads(sys.stdin.buffer.read())

    def tell(progress: Progress) -> None:
        say({"progress": asdict(progress)})

    try:
        limit_memory(request["memory_limit"])
        path, to = Path(request["path"]), Path(request["to"])
        try:
            found = import_rows(path, to, progress=tell, **request["options"])
        except DataError as error:
            say({"error": error_to_json(error)})
        else:
            say({"imported": to_json(found)})
    except MemoryError:
        return MEMORY_EXIT
    return 0


def say(document: dict[str, Any]) -> None:
    """Write a document as one line."""
    sys.stdout.buffer.write(json.dumps(document).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
