"""The store: order, idempotence, threads, and a database that is not as it should be."""

import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.events import Note, StatusChanged
from core.runs import migrations
from core.runs.ingest import read_events
from core.runs.store import Store, StoreError

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "studio.db")
    yield opened
    opened.close()


def make_folder(home, run_id, *, events=(), result=None):
    folder = home / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"name": f"name of {run_id}"}), "utf-8")
    lines = [json.dumps(event.to_json()) + "\n" for event in events]
    (folder / "events.jsonl").write_text("".join(lines), "utf-8")
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result), "utf-8")
    return folder


def test_runs_keep_the_order_of_creation(store):
    for name in "abc":
        store.add_run(name, {"seed": 1}, name=name)
    assert [run.id for run in store.runs()] == ["a", "b", "c"]
    assert store.next_queued().id == "a"
    store.update("a", status="running", result={"steps": 3})
    assert store.next_queued().id == "b"
    assert store.run("a").result == {"steps": 3}
    assert [run.id for run in store.runs("running", "queued")] == ["a", "b", "c"]


def test_the_same_key_gives_the_same_run(store):
    first = store.add_run("a", {}, name="", key="click")
    again = store.add_run("b", {}, name="", key="click")
    assert again.id == first.id == "a"
    assert len(store.runs()) == 1


def test_any_cursor_sees_what_came_after_it(store):
    store.add_run("a", {}, name="")
    assert store.append_events("a", [Note(str(n)) for n in range(5)]) == 5
    assert store.append_events("a", [StatusChanged("done")]) == 6
    assert [e["text"] for e in store.events_after("a", 1, 2)] == ["1", "2"]
    assert [e["seq"] for e in store.events_after("a", 4)] == [5, 6]
    assert store.events_after("a", 6) == []
    assert store.events_after("a", kinds=["status"])[0]["status"] == "done"
    assert store.last_event("a", "note")["text"] == "4"


def test_an_unknown_run_is_a_sentence(store):
    with pytest.raises(StoreError, match="no such run"):
        store.run("nothing")


def test_removing_a_run_removes_its_events(store):
    store.add_run("a", {}, name="")
    store.append_events("a", [Note("x")])
    store.remove_run("a")
    assert store.events_after("a") == []


def test_threads_lose_no_event(store):
    store.add_run("a", {}, name="")

    def write(number):
        for n in range(20):
            store.append_events("a", [Note(f"{number}.{n}")])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = store.events_after("a")
    assert [e["seq"] for e in events] == list(range(1, 101))
    assert len({e["text"] for e in events}) == 100


def test_a_failed_transaction_leaves_nothing(store):
    def fail_halfway():
        with store.transaction():
            store.add_run("a", {}, name="")
            store.append_events("a", [Note("x")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert store.runs() == []


def test_data_versions_are_added_and_moved_with_the_home(tmp_path):
    (tmp_path / "one" / "uploads").mkdir(parents=True)
    file = tmp_path / "one" / "uploads" / "class.csv"
    file.write_text("q,a\n", "utf-8")
    first = Store(tmp_path / "one" / "studio.db")
    made = first.add_dataset("class.csv", file, "ab" * 32, {"question": "q"})
    assert first.datasets() == [made]
    first.close()
    (tmp_path / "one").rename(tmp_path / "two")
    second = Store(tmp_path / "two" / "studio.db")
    found = second.dataset(made.id)
    assert found.path.read_text("utf-8") == "q,a\n"
    assert (found.label, found.settings) == ("class.csv", {"question": "q"})
    second.remove_dataset(made.id)
    assert second.datasets() == []
    second.close()


def test_events_are_read_in_once_and_whole_lines_only(store, tmp_path):
    folder = make_folder(tmp_path, "a", events=[Note("one")])
    store.add_run("a", {}, name="")
    path = folder / "events.jsonl"
    with path.open("ab") as file:
        file.write(b'{"kind": "note", "te')
    assert [e["text"] for e in read_events(store, store.run("a"))] == ["one"]
    assert read_events(store, store.run("a")) == []
    with path.open("ab") as file:
        file.write(b'xt": "two"}\nnot json\n[1]\n{"kind": "note", "text": "three"}\n')
    assert [e["text"] for e in read_events(store, store.run("a"))] == ["two", "three"]
    assert [e["text"] for e in store.events_after("a")] == ["one", "two", "three"]


def test_a_flood_is_read_in_parts_and_one_huge_line_does_not_block(store, tmp_path):
    make_folder(tmp_path, "a", events=[Note("x" * 500), Note("short")])
    store.add_run("a", {}, name="")
    assert len(read_events(store, store.run("a"), most=100)) == 1
    assert len(read_events(store, store.run("a"), most=100)) == 1
    assert read_events(store, store.run("a"), most=100) == []


@pytest.mark.parametrize("damage", ["page", "garbage", "cut"])
def test_a_damaged_database_is_kept_aside_and_built_again_from_the_folders(tmp_path, damage):
    path = tmp_path / "studio.db"
    store = Store(path)
    make_folder(tmp_path, "a", events=[Note("x"), StatusChanged("done")], result={"steps": 7})
    make_folder(tmp_path, "b", events=[StatusChanged("running")])
    for run_id in "ab":
        store.add_run(run_id, {}, name="")
        read_events(store, store.run(run_id))
    store.append_events("a", [Note("y" * 3000) for _ in range(20)])
    store.close()
    content = bytearray(path.read_bytes())
    if damage == "page":
        content[4096:8192] = bytes(4096)
    elif damage == "garbage":
        content[:200] = b"?" * 200
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)

    again = Store(path)
    assert again.put_aside.read_bytes() == bytes(content)
    assert {r.id: r.status for r in again.runs()} == {"a": "done", "b": "stopped"}
    assert again.run("a").result == {"steps": 7}
    assert again.run("a").name == "name of a"
    assert [e["kind"] for e in again.events_after("a")] == ["note", "status"]
    # What was rebuilt goes on where the file ends.
    assert read_events(again, again.run("a")) == []
    again.close()


def test_a_newer_database_is_refused_and_unchanged(tmp_path):
    path = tmp_path / "studio.db"
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(migrations.MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer version"):
        Store(path)
    assert path.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["studio.db"]


def test_a_locked_database_is_a_sentence(store, monkeypatch):
    store._db.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="in use by another program"):
        store.add_run("a", {}, name="")
    other.execute("ROLLBACK")
    other.close()
    assert store.add_run("a", {}, name="").id == "a"


NEXT = (
    *migrations.MIGRATIONS,
    (
        "ALTER TABLE run ADD COLUMN note TEXT NOT NULL DEFAULT ''",
        "CREATE TABLE extra (id INTEGER PRIMARY KEY)",
        "INSERT INTO extra VALUES (1)",
    ),
)

KILLED_AT = """
import json, os, sqlite3, sys
sys.path.insert(0, sys.argv[1])
from core.runs import migrations
migrations_and_next = (*migrations.MIGRATIONS, tuple(json.loads(sys.argv[4])))
left = int(sys.argv[3])
class Dying(sqlite3.Connection):
    def execute(self, *statement):
        global left
        if statement[0].startswith(("BEGIN", "ALTER", "CREATE", "INSERT", "PRAGMA user_version =",
                                    "COMMIT")):
            left -= 1
            if left < 0:
                os._exit(137)
        return super().execute(*statement)
db = sqlite3.connect(sys.argv[2], isolation_level=None, factory=Dying)
migrations.migrate(db, migrations_and_next)
"""


@pytest.mark.parametrize("statement", range(6))
def test_killed_in_a_migration_leaves_the_old_schema_and_the_data(tmp_path, statement):
    path = tmp_path / "studio.db"
    store = Store(path)
    store.add_run("a", {}, name="kept")
    store.close()
    child = subprocess.run(
        [
            *(sys.executable, "-c", KILLED_AT, str(CHECKOUT), str(path), str(statement)),
            json.dumps(NEXT[-1]),
        ],
        check=False,
    )
    assert child.returncode == 137
    connection = sqlite3.connect(path)
    assert migrations.version(connection) == len(migrations.MIGRATIONS)
    assert connection.execute("SELECT name FROM run").fetchall() == [("kept",)]
    assert "note" not in [row[1] for row in connection.execute("PRAGMA table_info(run)")]
    connection.close()

    connection = sqlite3.connect(path, isolation_level=None)
    migrations.migrate(connection, NEXT)
    assert migrations.version(connection) == len(NEXT)
    assert connection.execute("SELECT name, note FROM run").fetchall() == [("kept", "")]
    connection.close()


def test_a_backup_is_made_before_a_migration(tmp_path):
    path = tmp_path / "studio.db"
    Store(path, migrations=migrations.MIGRATIONS[:1]).close()
    later = (*migrations.MIGRATIONS[:1], ("CREATE TABLE extra (id INTEGER)",))
    Store(path, migrations=later).close()
    copy = sqlite3.connect(tmp_path / "studio.v1.bak")
    assert migrations.version(copy) == 1
    copy.close()
