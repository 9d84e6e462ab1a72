"""A headless Chromium, spoken to over a pair of pipes, as its debugging protocol allows: no package is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from itertools import count

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell", "chrome")
#: A page that draws needs no GPU, and a container has no sandbox to offer.
OPTIONS = (
    "--headless=shell", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-zygote",
    "--single-process", "--in-process-gpu", "--use-gl=angle", "--use-angle=swiftshader", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip


def find() -> str | None:
    """Give a Chromium: ANNSERVE_CHROMIUM, or the first that the PATH has."""
    return os.environ.get("ANNSERVE_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One browser with one page and no network."""

    def __init__(self, program: str, profile: str) -> None:
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        # The browser reads from 3 and writes to 4, whatever the numbers are here.
        wrapped = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", wrapped, program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._numbers, self._read, self.events = count(1), b"", []
        self._session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")
        self.ask("Runtime.enable")
        self.ask("Network.enable")
        self.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def ask(self, method: str, **parameters):
        """Send a command and wait for its result; what happens meanwhile goes to `events`."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]
            self.events.append(said)

    def show(self, url: str, width: int = 1_400) -> bytes:
        """Load a page, and give a PNG of all of it, so many pixels wide."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.ask("Page.navigate", url=url)
        while self.value("document.readyState + ' ' + location.href") != f"complete {url}":
            time.sleep(0.02)
        return self.picture()

    def picture(self) -> bytes:
        """Give a PNG of all of the page."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        return base64.b64decode(self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])

    def go_online(self) -> None:
        """Let pages reach this machine's servers."""
        self.ask(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    def prefer(self, scheme: str) -> None:
        """Have the user prefer pages that are ``light`` or ``dark``."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def asked_for(self) -> list[str]:
        """Give the addresses that the page asked for, since it was shown."""
        asked = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in asked]

    def exceptions(self) -> list[dict]:
        """Give what the page's script threw, since it was shown."""
        return [event for event in self.events if event.get("method") == "Runtime.exceptionThrown"]

    def wait_for(self, expression: str):
        """Evaluate JavaScript until it gives something, for ten seconds."""
        deadline = time.monotonic() + 10
        while not (value := self.value(expression)):
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)
        return value

    def value(self, expression: str):
        """Evaluate JavaScript in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def _next(self):
        while b"\0" not in self._read:
            part = os.read(self._from, 1 << 20)
            assert part, "the browser ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)
