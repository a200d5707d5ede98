"""Take pictures of a report at the width of a telephone and of a desk, light and dark.

python -m tests.browser.screenshots report.html FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.browser.chromium import chromium

WIDTHS = (390, 1400)


async def shoot(url: str, width: int, *, dark: bool) -> tuple[bytes, list[dict]]:
    """Take a picture of the whole page; gives what the browser complained of as well."""
    async with chromium() as tab:
        await tab.open(url, width, dark=dark)
        await tab.draw_all(width)
        return await tab.shoot(), tab.complaints


if __name__ == "__main__":
    report, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            picture, complaints = asyncio.run(shoot(report.absolute().as_uri(), width, dark=scheme == "dark"))
            (folder / f"report-{width}-{scheme}.png").write_bytes(picture)
            print(width, scheme, complaints)  # noqa: T201 - a script's answer
