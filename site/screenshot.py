"""Take the README's picture of a panel from the built site, and write it to site/panel.png.

./run_all.sh --only 02 && .venv/bin/python site/screenshot.py      (needs Chromium)
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "build" / "quick" / "site" / "02_variation_and_chips.html"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def main() -> None:
    if not PAGE.exists() or not BROWSER:
        sys.exit(f"error: this needs Chromium and {PAGE}; run ./run_all.sh --only 02 first")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 640, "height": 900}, device_scale_factor=1.5, color_scheme="light")
        page.goto(PAGE.as_uri())
        panel = page.locator(".companion-panel").first
        panel.get_by_label("shared part e_B").press("ArrowRight")
        panel.screenshot(path=HERE / "panel.png")
        browser.close()


if __name__ == "__main__":
    main()
