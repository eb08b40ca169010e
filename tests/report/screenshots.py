"""Takes the screenshots in docs/ of a run's page: `python -m tests.report.screenshots RUN DOCS`.

page-wide.png shows the first view, page-dark.png an opened pair, page-narrow.png the same on a phone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.report import build_report
from tests.report.browsers import chromium, opened, until

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
_TELLING = """() => {
  const spread = (visit) => new Set(visit.cards.map((card) => card.score)).size;
  const best = visits.filter((visit) => visit.isPair).sort((a, b) => spread(b) - spread(a))[0];
  return best && "#" + best.address;
}"""


def pair_view(browser: Any, page: Path, **context: Any) -> Any:
    """The list with the pair open whose candidates differ most."""
    view, _ = opened(browser, page, **context)
    view.evaluate("(hash) => { location.hash = hash; }", view.evaluate(_TELLING))
    until(view, "document.querySelectorAll('#list details[open] .card').length > 0")
    view.evaluate("document.activeElement.blur()")
    return view


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Take the screenshots of a run's page.")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("docs", type=Path, help="the folder for the screenshots")
    options = parser.parse_args(arguments)
    page = build_report(options.run)
    with chromium() as browser:
        wide, _ = opened(browser, page, viewport=WIDE, color_scheme="light")
        dark = pair_view(browser, page, viewport=WIDE, color_scheme="dark")
        dark.evaluate("document.querySelector('#pairs').scrollIntoView()")
        narrow = pair_view(
            browser, page, viewport=NARROW, color_scheme="light", device_scale_factor=2, has_touch=True
        )
        for name, view in (("wide", wide), ("dark", dark), ("narrow", narrow)):
            path = options.docs / f"page-{name}.png"
            print(f"{path}: {len(view.screenshot(path=path)):,} bytes")


if __name__ == "__main__":
    main()
