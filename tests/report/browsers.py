"""A real browser for the page's tests: the Chromium that is installed, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """Where the browser is; None where there is none on the PATH."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that is closed again. Skips the test where playwright or the browser is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = executable()
    if path is None:
        pytest.skip("no chromium on the PATH")
    with api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        try:
            browser = playwright.chromium.launch(executable_path=path, args=arguments)
        except api.Error as error:
            pytest.skip(f"chromium cannot run here: {str(error)[:200]}")
        with browser:
            yield browser


def opened(browser: Any, page: Path, fragment: str = "", **context: Any) -> tuple[Any, list[str]]:
    """The page in a context of its own, and the list to which what its console says is added."""
    view = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context}).new_page()
    said: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.goto(page.resolve().as_uri() + fragment)
    view.wait_for_selector("#list li")
    return view, said


def until(view: Any, expression: str) -> None:
    """Waits, five seconds at most, until it is true. The page forbids the eval of wait_for_function."""
    for _ in range(100):
        if view.evaluate(expression):
            return
        view.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")
