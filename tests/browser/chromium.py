"""A headless Chromium, controlled by the DevTools protocol: opens a page, evaluates scripts, records messages."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0")
_UNDRAWN = "[...document.querySelectorAll('.plot')].some(plot => !plot.querySelector('.main-svg'))"
_MESSAGES = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


class Tab:
    """A browser tab. `messages` are errors and console lines, `requests` the fetched URLs."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.messages: list[dict] = []
        self.requests: list[str] = []

    async def call(self, method: str, **parameters: object) -> dict:
        """Call a method of the protocol; return its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=60)
            self._record(message)
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return message["result"]

    async def open(self, url: str, width: int, *, dark: bool = False) -> None:
        """Open a page at a width, and wait until it has loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.widen(width)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=url)
        while await self.run("document.readyState") != "complete":  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.05)

    async def widen(self, width: int, height: int = 900) -> None:
        """Set the size of the window."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **size)

    async def run(self, expression: str) -> object:
        """Return the value of a JavaScript expression; a promise is awaited."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def draw_all(self, width: int) -> None:
        """Make the window as tall as the page, so that every figure is drawn."""
        for _ in range(3):
            await self.widen(width, int(await self.run("document.documentElement.scrollHeight")))
            await asyncio.sleep(1)
        while await self.run(_UNDRAWN):  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.1)

    async def screenshot(self) -> bytes:
        """Return a screenshot as PNG."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _record(self, message: dict) -> None:
        if message.get("method") in _MESSAGES:
            self.messages.append(message["params"])
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])


@asynccontextmanager
async def chromium():
    """Start a browser, yield its tab, and end it.

    Raises:
        FileNotFoundError: if no browser is installed; names the package.
    """
    if CHROMIUM is None:
        msg = "expected chromium, chromium-browser or google-chrome on the path: `apt-get install chromium` installs it"
        raise FileNotFoundError(msg)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={home}", "about:blank"]
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
        try:
            async with aiohttp.ClientSession() as session:
                address = await _address(session, Path(home))
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    yield Tab(socket)
        finally:
            process.terminate()
            await process.wait()


async def _address(session: aiohttp.ClientSession, home: Path) -> str:
    """Return the address of the first tab, once it listens."""
    active = home / "DevToolsActivePort"
    for _ in range(1200):
        if active.exists() and len(active.read_text().splitlines()) > 1:
            port = active.read_text().splitlines()[0]
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = [tab for tab in json.loads(await answer.text()) if tab["type"] == "page"]
            if tabs:
                return tabs[0]["webSocketDebuggerUrl"]
        await asyncio.sleep(0.1)
    raise TimeoutError("chromium did not start within 120 s")
