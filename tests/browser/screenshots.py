"""Take screenshots of a report at the width of a phone and of a desktop, light and dark.

python -m tests.browser.screenshots report.html FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.browser.chromium import chromium

WIDTHS = (390, 1400)


async def screenshot(url: str, width: int, *, dark: bool) -> tuple[bytes, list[dict]]:
    """Return a screenshot of the whole page, and the messages of the browser."""
    async with chromium() as tab:
        await tab.open(url, width, dark=dark)
        await tab.draw_all(width)
        return await tab.screenshot(), tab.messages


if __name__ == "__main__":
    report, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            picture, messages = asyncio.run(screenshot(report.absolute().as_uri(), width, dark=scheme == "dark"))
            (folder / f"report-{width}-{scheme}.png").write_bytes(picture)
            print(width, scheme, messages)  # noqa: T201 - the output of a script
