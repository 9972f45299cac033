"""The helper process: streaming, lanes, cancelling, crashes, limits, idleness."""

import contextlib
import sys
import threading
import time
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.runs.lock import process_identity
from core.runs.service import LARGEST_MESSAGE, Service, ServiceError

SERVE = Path(__file__).with_name("fake_serve.py")


@contextlib.contextmanager
def helper(folder, **options):
    service = Service(
        command=[sys.executable, str(SERVE), str(folder / "errors.log")],
        log=folder / "service.log",
        **options,
    )
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def service(tmp_path):
    with helper(tmp_path) as opened:
        yield opened


def turns(text="hello"):
    return [{"role": "user", "content": text}]


def gather(service, op, **arguments):
    return list(service.stream(op, **arguments))


def test_answers_stream_in_order_and_prints_do_not_disturb_them(service, tmp_path):
    *tokens, done = gather(service, "count", to=4)
    assert [(a["event"], a["text"]) for a in tokens] == [("token", str(n)) for n in range(4)]
    assert (done["event"], done["result"]["stopped"]) == ("done", False)
    assert "a library prints this" in (tmp_path / "service.log").read_text("utf-8")


def test_progress_comes_before_the_plan(service):
    *progress, done = gather(service, "plan")
    assert [round(a["share"] * 10) for a in progress] == list(range(10))
    assert done["result"] == {"feasible": True}


def test_an_error_arrives_with_its_numbers(service):
    with pytest.raises(ServiceError, match="does not fit") as caught:
        service.call("fail", how="budget")
    assert (caught.value.exit_code, caught.value.minimum_budget_bytes) == (3, 99)
    assert caught.value.problems[0].code == "budget.too_small"


def test_an_unexpected_error_shows_no_details(service, tmp_path):
    with pytest.raises(ServiceError, match="unexpected") as caught:
        service.call("fail", how="bug")
    assert "secret" not in str(caught.value)
    assert "/home/teacher/secret" in (tmp_path / "errors.log").read_text("utf-8")
    assert service.call("count", to=1)["stopped"] is False


def test_an_unknown_operation_is_refused(service):
    with pytest.raises(ServiceError, match="no operation 'fly'"):
        service.call("fly")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize(("how", "words"), [("kill", "out of memory"), ("exit", "unexpectedly")])
def test_after_a_crash_the_next_request_starts_a_new_child(service, how, words):
    first = service.call("ping")["pid"]
    with pytest.raises(ServiceError, match=words):
        service.call("fail", how=how)
    assert service.call("ping")["pid"] != first


def test_everybody_waiting_hears_of_a_crash(service):
    heard = []

    def ask():
        with pytest.raises(ServiceError) as caught:
            gather(service, "chat", which="base", turns=turns(), to=500, seconds=0.01)
        heard.append(caught.value.code)

    thread = threading.Thread(target=ask)
    thread.start()
    while not service.pid:
        time.sleep(0.01)
    with pytest.raises(ServiceError):
        service.call("fail", how="exit")
    thread.join(timeout=10)
    assert heard == ["service.crashed"]


def test_the_two_panes_stream_at_once_and_one_pane_takes_turns(service):
    def together(*panes):
        results = []

        def ask(which):
            results.append(
                service.call("chat", which=which, turns=turns(), to=10, seconds=0.03)["together"]
            )

        threads = [threading.Thread(target=ask, args=(which,)) for which in panes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return max(results)

    service.call("ping")
    assert together("base", "tuned") == 2
    assert together("base", "base") == 1


def test_closing_the_iterator_cancels(service):
    answers = service.stream("chat", which="base", turns=turns(), to=10_000, seconds=0.01)
    next(answers)
    answers.close()
    started = time.monotonic()
    service.call("chat", which="base", turns=turns(), to=1)  # waits for the same model
    assert time.monotonic() - started < 5


def test_a_request_can_be_cancelled_by_its_number(service):
    answers = service.stream(
        "chat", request_id="mine", which="base", turns=turns(), to=10_000, seconds=0.01
    )
    next(answers)
    service.cancel("mine")
    assert list(answers)[-1]["result"]["stopped"] is True


def test_a_cancelled_preview_ends_with_that_word(service):
    answers = service.stream("plan", request_id="mine", tenths=10_000)
    next(answers)
    service.cancel("mine")
    with pytest.raises(ServiceError, match="cancelled") as caught:
        list(answers)
    assert caught.value.code == "cancelled"


def test_a_message_that_is_too_long_is_refused_with_the_limit(service):
    with pytest.raises(ConfigError, match="20001 characters; the limit is 20000"):
        gather(service, "chat", which="base", turns=turns("x" * (LARGEST_MESSAGE + 1)))
    assert service.pid == 0  # nothing was started for it
    assert service.call("chat", which="base", turns=turns("x" * LARGEST_MESSAGE)) is not None


def test_many_callers_get_their_own_answers(service):
    results = {}

    def ask(number):
        answers = gather(service, "count", to=number)
        results[number] = [a["text"] for a in answers[:-1]]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [str(i) for i in range(n)] for n in range(8)}


def test_an_idle_child_is_ended_and_a_busy_one_is_not(tmp_path):
    with helper(tmp_path, idle_seconds=0.2) as service:
        *_, done = gather(service, "count", to=8, seconds=0.1)
        assert done["event"] == "done"
        pid, deadline = service.pid, time.monotonic() + 10
        assert pid
        while service.pid and time.monotonic() < deadline:
            time.sleep(0.02)
        assert service.pid == 0
        assert service.call("ping")["pid"] != pid


def test_the_child_leaves_with_its_parent(tmp_path):
    with helper(tmp_path) as service:
        pid = service.call("ping")["pid"]
        identity = process_identity(pid)
        assert identity
        service._child.process.stdin.close()  # what the end of the parent does
        deadline = time.monotonic() + 10
        while process_identity(pid) == identity and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process_identity(pid) != identity
