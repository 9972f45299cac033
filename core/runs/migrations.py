"""The database's schema as append-only numbered migrations.

``PRAGMA user_version`` counts those applied. Never edit one that has been released: add the next.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

Migration = tuple[str, ...]

MIGRATIONS: tuple[Migration, ...] = (
    (
        # seq orders by creation (never by a clock); place orders the queue.
        """CREATE TABLE run (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            submit_key TEXT UNIQUE,
            name TEXT NOT NULL,
            status TEXT NOT NULL,
            want TEXT NOT NULL DEFAULT 'run',
            place INTEGER NOT NULL DEFAULT 0,
            config TEXT NOT NULL,
            folder TEXT NOT NULL,
            created REAL NOT NULL,
            pid INTEGER NOT NULL DEFAULT 0,
            process TEXT NOT NULL DEFAULT '',
            attempts INTEGER NOT NULL DEFAULT 0,
            beat REAL NOT NULL DEFAULT 0,
            read_bytes INTEGER NOT NULL DEFAULT 0,
            result TEXT)""",
        """CREATE TABLE event (
            run TEXT NOT NULL REFERENCES run(id) ON DELETE CASCADE,
            seq INTEGER NOT NULL,
            kind TEXT NOT NULL,
            body TEXT NOT NULL,
            PRIMARY KEY (run, seq)) WITHOUT ROWID""",
        "CREATE INDEX event_by_kind ON event (run, kind, seq)",
        """CREATE TABLE dataset (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            label TEXT NOT NULL,
            path TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            settings TEXT NOT NULL,
            created REAL NOT NULL)""",
    ),
)


def version(connection: sqlite3.Connection) -> int:
    """Number of migrations applied to the database."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply what is missing, each migration whole or not at all.

    Args:
        connection: in autocommit mode (``isolation_level=None``).
        migrations: all of them, in order.

    Raises:
        sqlite3.Error: if one fails; the database is then as before that one.
    """
    for number in range(version(connection), len(migrations)):
        connection.execute("BEGIN EXCLUSIVE")
        try:
            for statement in migrations[number]:
                connection.execute(statement)
            # Part of the same transaction: the count and the schema never disagree.
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
