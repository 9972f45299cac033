"""Class data in the browser: bad files explained, good ones corrected and edited."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Page, expect

from core.home import CHECKOUT
from tests.browser.running import Studio

pytestmark = pytest.mark.browser

BAD = CHECKOUT.parent / "shared" / "badfiles"
LONGEST = 2000  # characters of a string of the catalogue that are tried


def open_data(studio: Studio, page: Page, language: str = "en") -> None:
    page.goto(f"{studio.url}/{language}/#/data")
    expect(page.locator("#sample-choices input").first).to_be_visible()


def upload(page: Page, file: Path) -> None:
    page.locator("#upload input[type=file]").set_input_files(file)


def test_a_bad_file_is_explained_and_changes_nothing(
    studio: Studio, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    open_data(studio, page)
    page.get_by_label("World capitals").check()
    expect(page.locator("#data-summary")).to_contain_text("Questions with answers: 116")
    bad = tmp_path / "class.xlsx"
    bad.write_bytes(b"PK\x03\x04 this is no workbook")
    upload(page, bad)
    refusal = page.locator("#data-refusal")
    expect(refusal).to_contain_text("class.xlsx cannot be used yet")
    expect(refusal.locator("li.error")).to_contain_text("damaged")
    assert "Traceback" not in refusal.inner_text()
    expect(page.locator("#data-summary")).to_contain_text("World capitals")


def test_a_row_with_a_fault_is_named_and_the_rest_is_kept(
    studio: Studio, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    open_data(studio, page)
    file = tmp_path / "some.csv"
    rows = "".join(f"Question {n}?,Answer {n}\n" for n in range(9))
    file.write_text(f"question,answer\n{rows}Lonely question?,\n", "utf-8")
    upload(page, file)
    expect(page.locator("#data-summary")).to_contain_text("Questions with answers: 9")
    finding = page.locator("#data-findings li", has_text="The answer is empty")
    expect(finding).to_contain_text("row 11")


def test_the_same_fault_is_told_in_chinese(
    studio: Studio, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    open_data(studio, page, "zh")
    file = tmp_path / "some.csv"
    rows = "".join(f"Question {n}?,Answer {n}\n" for n in range(9))
    file.write_text(f"question,answer\n{rows}Lonely question?,\n", "utf-8")
    upload(page, file)
    expect(page.locator("#data-findings")).to_contain_text("第 11 行")
    expect(page.locator("#data-findings")).to_contain_text("没有答案")


def test_columns_can_be_corrected(
    studio: Studio, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    open_data(studio, page)
    file = tmp_path / "three.csv"
    rows = "".join(f"Question {n}?,Answer {n},Hint {n}\n" for n in range(9))
    file.write_text(f"question,answer,hint\n{rows}", "utf-8")
    upload(page, file)
    expect(page.locator("#data-summary")).to_contain_text("three.csv")
    answer = page.get_by_label("Answer column")
    expect(answer).to_have_value("answer")
    answer.click()
    page.get_by_role("option", name="hint").click()
    expect(page.locator("#data-summary")).to_contain_text("question → hint")
    page.reload()
    expect(page.get_by_label("Answer column")).to_have_value("hint")


def test_rows_can_be_edited_and_saved_as_a_new_version(
    studio: Studio, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    open_data(studio, page)
    file = tmp_path / "small.csv"
    rows = "".join(f"Question {n}?,Answer {n}\n" for n in range(9))
    file.write_text(f"question,answer\n{rows}", "utf-8")
    upload(page, file)
    expect(page.locator("#data-summary")).to_contain_text("small.csv")
    cell = page.locator("#rows").get_by_text("Answer 4", exact=True)
    cell.dblclick()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("A better answer")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Save as a new version").click()
    expect(page.locator("#edit-said")).to_contain_text("Saved")
    page.reload()
    expect(page.get_by_test_id("cell-4-2")).to_contain_text("A better answer")
    expect(page.locator("#data-versions")).to_contain_text("rows edited: 1")


def test_a_finding_is_mended_by_one_click_and_taken_back(
    studio: Studio, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    open_data(studio, page)
    file = tmp_path / "mail.csv"
    rows = "".join(f"Question {n}?,Answer {n}\n" for n in range(9))
    file.write_text(f"question,answer\n{rows}Who?,Write to anna@example.org\n", "utf-8")
    upload(page, file)
    finding = page.locator("#data-health li", has_text="Possible personal data found")
    expect(finding).to_contain_text("row 11")
    expect(page.locator("#data-lengths [role=img]")).to_be_visible()
    finding.get_by_role("button", name="Show rows").click()
    expect(page.locator("#rows-count")).to_contain_text("1 of 1 that fit")
    finding.get_by_role("button", name="Black it out").click()
    expect(page.locator("#rows")).to_contain_text("Write to [e-mail]")
    expect(page.locator("#data-versions")).to_contain_text("E-mail addresses")
    expect(page.locator("#data-health")).not_to_contain_text("Possible personal data found")
    page.locator("#data-versions").get_by_role("button", name="Compare").click()
    expect(page.locator("#data-difference")).to_contain_text("changed: 1")
    if shots := os.environ.get("STUDIO_SHOTS"):
        page.screenshot(path=f"{shots}/data-health.png", full_page=True)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#rows")).to_contain_text("anna@example.org")
    expect(finding).to_be_visible()


def test_text_from_a_file_never_becomes_markup(
    studio: Studio, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    open_data(studio, page)
    attack = "<img src=x onerror=window.PWNED=1>"
    file = tmp_path / "attack.csv"
    rows = "".join(f"{attack} {n}?,{attack} {n}\n" for n in range(9))
    file.write_text(f"question,answer {attack}\n{rows}lonely {attack},\n", "utf-8")
    upload(page, file)
    expect(page.locator("#data-summary")).to_contain_text("Questions with answers: 9")
    expect(page.locator("#rows")).to_contain_text("onerror")
    assert page.evaluate("window.PWNED") is None


def test_columns_of_other_parts_are_added(
    studio: Studio, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    open_data(studio, page)
    file = tmp_path / "parts.csv"
    rows = "".join(f"Question {n}?,Answer {n},Role {n},More {n}\n" for n in range(9))
    file.write_text(f"question,answer,rolle,zusatz\n{rows}", "utf-8")
    upload(page, file)
    expect(page.locator("#data-learned")).to_contain_text("Question 0?")
    page.get_by_role("button", name="More columns").click()
    for label, column in (("System prompt", "rolle"), ("Joined to the question", "zusatz")):
        page.get_by_label(label).click()
        page.get_by_role("option", name=column).click()
        page.get_by_label(label).blur()  # of several columns the menu stays open
        expect(page.get_by_role("option")).to_have_count(0)
    expect(page.locator("#data-summary")).to_contain_text("question + zusatz → answer")
    expect(page.locator("#data-learned")).to_contain_text("Role 0")
    page.reload()
    expect(page.locator("#data-learned")).to_contain_text("Role 0")


def test_a_guessed_encoding_is_chosen_by_its_preview(
    studio: Studio, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    open_data(studio, page)
    file = tmp_path / "class.csv"
    rows = "".join(f"第 {n} 个问题是什么？,第 {n} 个答案\n" for n in range(9))
    file.write_bytes(f"问题,答案\n{rows}".encode("gb18030"))
    upload(page, file)
    cards = page.locator("#data-encodings")
    expect(cards.get_by_label("GB18030")).to_be_checked()
    expect(cards).to_contain_text("个问题是什么")
    cards.get_by_label("Big5").check()
    expect(page.locator("#rows")).not_to_contain_text("个问题是什么")
    cards.get_by_label("GB18030").check()
    expect(page.locator("#rows")).to_contain_text("个问题是什么")


def catalogue_strings() -> list[str]:
    """Every text of the catalogue that is meant to become markup, a script or a formula."""
    found: list[str] = []
    if not (BAD / "catalogue.csv").is_file():
        return found
    with (BAD / "catalogue.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["group"] in ("injection", "markup")]
    for row in rows:
        found += [str(json.loads(row["upload_as"]))] if row["upload_as"] else []
        if row["file"]:
            text = (BAD / "files" / row["file"]).read_text("utf-8", "replace")
            listed = Path(row["file"]).suffix == ".csv"
            found += (
                [c for line in csv.reader(io.StringIO(text)) for c in line] if listed else [text]
            )
    return [text[:LONGEST] for text in dict.fromkeys(found) if text.strip()]


def as_file(texts: list[str], name: str) -> FilePayload:
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("question", "answer"), *((t, f"{t} again") for t in texts)])
    return {"name": name, "mimeType": "text/csv", "buffer": table.getvalue().encode()}


@pytest.mark.skipif(not catalogue_strings(), reason="needs ../shared/badfiles beside the checkout")
def test_no_string_of_the_catalogue_does_anything_in_any_page(
    studio: Studio, new_page: Callable[..., Page]
) -> None:
    page = new_page()  # which fails the test on a script's fault and on a foreign request
    open_data(studio, page)
    texts = catalogue_strings()
    name = "<img src=x onerror=window.PWNED=1>.csv"
    page.locator("#upload input[type=file]").set_input_files(as_file(texts, name))
    expect(page.locator("#data-summary")).to_contain_text("onerror=window.PWNED=1")
    page.locator("#rows-search").get_by_role("textbox").fill("onload")
    page.keyboard.press("Enter")
    expect(page.locator("#rows-count")).to_contain_text("1 of 1 that fit")
    expect(page.locator("#rows")).to_contain_text("<svg/onload=window.PWNED=1>")
    cell = page.get_by_test_id("cell-0-1")
    expect(cell).to_contain_text("<svg/onload=window.PWNED=1>")
    cell.dblclick()
    page.keyboard.press("End")
    page.keyboard.type("<img src=y onerror=window.PWNED=1>")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Save as a new version").click()
    expect(page.locator("#edit-said")).to_contain_text("Saved")
    page.locator("#data-versions").get_by_role("button", name="Compare").click()
    expect(page.locator("#data-difference")).to_contain_text("src=y onerror")
    expect(page.locator("#data-lengths [role=img]")).to_be_visible()
    for step in ("plan", "train", "try", "share", "pairs", "lab", "model", "data"):
        page.goto(f"{studio.url}/en/#/{step}")
        expect(page.locator(f"#page-{step} h1")).to_be_visible()
        assert page.evaluate("window.PWNED") is None, step
        assert page.locator("img[src='x'], img[src='y'], iframe[srcdoc]").count() == 0, step
    page.get_by_label("World capitals").check()  # the page still does what it is told
    expect(page.locator("#data-summary")).to_contain_text("Questions with answers: 116")
