"""A page in headless Chromium, driven over its debugging pipe; no package is needed."""

import base64
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab; everything that it says is kept in `events`."""

    def __init__(self, profile):
        self._commands, self._events_from = os.pipe(), os.pipe()
        self.events = []
        self._numbers = itertools.count(1)
        self._session, self._rest = None, b""

        # Chromium reads commands from file 3 and writes answers to file 4.
        read, write = self._commands[0], self._events_from[1]
        script = f'exec "$0" "$@" 3<&{read} 4>&{write}'
        flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage"
        flags += " --no-first-run --remote-debugging-pipe --window-size=1300,1000"
        self._process = subprocess.Popen(
            ["bash", "-c", script, FOUND, *flags.split(), f"--user-data-dir={profile}"],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)

    def __enter__(self):
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        found = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *exception):
        os.close(self._commands[1])
        self._process.kill()
        self._process.wait()
        os.close(self._events_from[0])

    def ask(self, method, **parameters):
        """The answer to a command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands[1], json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self, seconds=120):
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            left = end - time.monotonic()
            ready, _, _ = select.select([self._events_from[0]], [], [], max(left, 0))
            assert ready, "Chromium does not answer"
            data = os.read(self._events_from[0], 1 << 20)
            assert data, "Chromium has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path, fragment=""):
        """Goes to a file and waits until it is loaded."""
        url = pathlib.Path(path).resolve().as_uri() + fragment
        self.ask("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def evaluate(self, expression):
        """The value of an expression of JavaScript."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def complaints(self):
        """Errors, warnings and whatever else has been written to the console."""
        methods = "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"
        return [e for e in self.events if e.get("method") in methods]

    def requests(self):
        """Addresses that have been asked for."""
        return [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]

    def screenshot(self, path, **clip):
        """A PNG of the window."""
        data = self.ask("Page.captureScreenshot", **clip)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))
