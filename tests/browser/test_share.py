"""Exports are made, checked and fetched from the page."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.running import Studio
from tests.browser.test_path import from_sample_to_both_panes

pytestmark = pytest.mark.browser

EXPORT_MS = 180_000


@pytest.mark.slow
def test_every_export_is_made_checked_and_downloaded(
    studio: Studio, tmp_path: Path, new_page: Callable[..., Page]
) -> None:
    page = new_page()
    from_sample_to_both_panes(page, studio.url, 120_000)
    page.get_by_role("button", name="Next: share").click()
    cards = page.locator("section.export")
    expect(cards).to_have_count(5)
    for k in range(5):
        card = cards.nth(k)
        card.locator("[data-press]").click()
        expect(card.get_by_text("Download").first).to_be_visible(timeout=EXPORT_MS)
        with page.expect_download() as fetched:
            card.get_by_text("Download").first.click()
        path = tmp_path / fetched.value.suggested_filename
        fetched.value.save_as(path)
        assert path.stat().st_size > 500
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
                names = {Path(name).name for name in archive.namelist()}
            assert any(name.endswith(".safetensors") for name in names)
            assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    expect(page.locator(".export .chip.good").first).to_contain_text("answers as in the studio")
    page.reload()
    expect(page.locator("section.export").first.get_by_text("Download").first).to_be_visible()
