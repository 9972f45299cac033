"""The door: who may talk to the studio, and what it answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from core.errors import StudioError
from core.home import CHECKOUT
from studio.api import Downloads
from studio.backend import Backend
from studio.door import take_port
from studio.guard import MAX_BODY_BYTES, MAX_UPLOAD_BYTES


def test_health(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "studio.lan:7860", ""])
def test_a_foreign_host_is_refused(client: TestClient, host: str) -> None:
    for path in ("/", "/en/", "/api/overview", "/healthz", "/en/gradio_api/info"):
        assert client.get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:9", "[::1]:7860", "LOCALHOST"])
def test_this_computer_is_served_under_all_its_names(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost:7860"]
)
def test_a_foreign_origin_is_refused(client: TestClient, origin: str) -> None:
    for method, path in (("GET", "/api/overview"), ("POST", "/api/runs"), ("POST", "/en/upload")):
        answer = client.request(method, path, headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_the_own_origin_is_served(client: TestClient) -> None:
    answer = client.get("/api/overview", headers={"origin": "http://127.0.0.1:7860"})
    assert answer.status_code == 200


def test_a_cross_site_post_without_origin_is_refused(client: TestClient) -> None:
    headers = {"sec-fetch-site": "cross-site"}
    assert client.post("/api/runs", headers=headers).status_code == 403


@pytest.mark.parametrize("path", ["/", "/en/", "/zh/", "/healthz", "/api/overview", "/missing"])
def test_every_answer_has_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path, follow_redirects=False).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"


def test_a_body_over_the_limit_is_refused_before_it_is_read(client: TestClient) -> None:
    headers = {"content-length": str(MAX_BODY_BYTES + 1)}
    assert client.post("/api/runs", headers=headers).status_code == 413
    assert client.post("/en/gradio_api/upload", headers=headers).status_code != 413
    headers = {"content-length": str(MAX_UPLOAD_BYTES + 1)}
    assert client.post("/en/gradio_api/upload", headers=headers).status_code == 413


def test_a_body_without_declared_length_is_cut_off(client: TestClient) -> None:
    def endless() -> "object":
        for _ in range(MAX_BODY_BYTES // 10**6 + 2):
            yield b" " * 10**6

    assert client.post("/api/runs", content=endless()).status_code == 413


def test_the_start_page_follows_cookie_and_browser(client: TestClient) -> None:
    chinese = client.get("/", headers={"accept-language": "zh-CN"}, follow_redirects=False)
    assert chinese.headers["location"] == "/zh/"
    english = client.get(
        "/?a=1",
        headers={"accept-language": "zh-CN", "cookie": "lang=en"},
        follow_redirects=False,
    )
    assert english.headers["location"] == "/en/?a=1"


@pytest.mark.parametrize(("language", "tag"), [("en", "en"), ("zh", "zh-CN")])
def test_the_page_is_dressed(client: TestClient, language: str, tag: str) -> None:
    page = client.get(f"/{language}/").text
    assert f'lang="{tag}"' in page
    assert page.index("/static/js/shell.js") < page.index("window.gradio_config")
    assert "og:image" not in page


def test_the_page_names_no_foreign_resource(client: TestClient) -> None:
    page = client.get("/en/").text
    before_config = page.split("window.gradio_config")[0]
    assert 'src="http' not in before_config
    assert 'rel="stylesheet" href="http' not in before_config


def test_words_for_the_scripts(client: TestClient) -> None:
    body = client.get("/api/words/zh.js").text
    texts = json.loads(body.removeprefix("window.STUDIO_WORDS = ").removesuffix(";"))
    assert texts["language"] == "zh"
    assert texts["layer"] == "层"


def test_scripts_and_charts_come_from_here(client: TestClient) -> None:
    assert "plotly" in client.get("/static/plotly.js").text[:2000].lower()
    assert "window.Studio" in client.get("/static/js/shell.js").text
    assert client.get("/static/js/..%2f..%2fcore/config.py").status_code == 404


def test_starting_without_a_class_is_a_sentence(client: TestClient) -> None:
    answer = client.post("/api/runs?lang=zh", json={"sample": "", "key": "k"})
    assert answer.status_code == 409
    assert "班级资料" in answer.json()["problems"][0]


def test_a_sample_class_starts_with_one_request_and_only_once(
    client: TestClient, backend: Backend
) -> None:
    first = client.post("/api/runs", json={"sample": "en", "key": "one click"})
    again = client.post("/api/runs", json={"sample": "en", "key": "one click"})
    assert first.status_code == 201
    assert first.json() == again.json()
    (run,) = (run for run in backend.runs() if run.submit_key == "one click")
    assert run.config["data"]["path"].endswith("english.csv")
    assert run.config["budget_bytes"] > 0


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"want": "explode"}', b'{"want": null}'])
def test_a_wish_that_is_none_is_refused(client: TestClient, run_id: str, body: bytes) -> None:
    assert client.post(f"/api/runs/{run_id}/want", content=body).status_code == 400


def test_a_wish_reaches_the_run(client: TestClient, backend: Backend, run_id: str) -> None:
    assert client.post(f"/api/runs/{run_id}/want", json={"want": "stop"}).status_code == 200
    assert backend.run(run_id).status == "stopped"


def test_an_unknown_run_is_a_sentence(client: TestClient) -> None:
    answer = client.get("/api/runs/nope/live")
    assert answer.status_code == 404
    assert answer.json()["problems"]


def test_the_live_route_goes_on_from_its_cursor(
    client: TestClient, backend: Backend, run_id: str
) -> None:
    first = client.get(f"/api/runs/{run_id}/live?since=0").json()
    assert first["run"]["name"] == "Class 8b"
    assert first["run"]["status"] == "queued"
    backend.store.append_events(run_id, [{"kind": "note", "text": "Hello.", "code": ""}])
    second = client.get(f"/api/runs/{run_id}/live?since={first['cursor']}").json()
    assert second["notes"] == ["Hello."]
    third = client.get(f"/api/runs/{run_id}/live?since={second['cursor']}").json()
    assert third["notes"] == []
    assert third["cursor"] == second["cursor"]


def test_a_download_needs_its_id(client: TestClient, tmp_path: Path) -> None:
    assert client.get("/download/guess/report.html").status_code == 404
    assert client.get("/download/..%2f..%2fetc/passwd").status_code == 404


def test_an_offered_file_has_one_unguessable_address_until_it_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("<h1>x</h1>", "utf-8")
    downloads = Downloads()
    address = downloads.offer(file)
    assert downloads.offer(file) == address
    token = address.split("/")[2]
    assert len(token) >= 20
    assert downloads.find(token) == file
    file.unlink()
    assert downloads.find(token) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "studio.lan"])
def test_only_this_computer_may_be_served(host: str) -> None:
    with pytest.raises(StudioError, match="this computer only"):
        take_port(host, 0)


def test_a_taken_port_is_one_sentence() -> None:
    with take_port("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StudioError, match=f"Port {port} cannot be used"):
            take_port("127.0.0.1", port)


def test_the_studio_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, studio.server, studio.__main__\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'peft'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
