"""An exported page in headless Chromium: python -m tests.browser --site site --out docs

Measures frames a second and milliseconds a step, and takes screenshots. The tests use the same server and browser.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from glass_gym.export.page import RUNTIME_VERSION

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)

WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
"""Chromium's options for a graphics card emulated by the CPU."""


class Files(http.server.SimpleHTTPRequestHandler):
    """A static web server."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_):
        """Log nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder that is served from this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


@contextmanager
def page_of(url: str, arguments: Sequence[str] = (), **options) -> Iterator:
    """A page in headless Chromium; `page.said` holds its errors, `page.asked` all addresses that it requested."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *arguments])
        yield opened(browser.new_context(**options), url)
        browser.close()


def opened(context, url: str):
    """A new page of a browser's context that records its errors and requests."""
    page = context.new_page()
    page.said, page.asked = [], []
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("console", lambda line: page.said.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(url)
    return page


def until(page, condition: str, seconds: float = 60) -> None:
    """Wait for an expression to be true. (Playwright's own function would use eval, which the page forbids.)"""
    over = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < over, f"{condition} never came true; the page says {page.inner_text('body')[:500]!r}"
        page.wait_for_timeout(50)


def wait_until_ready(page, seconds: float = 120) -> None:
    """Wait until the world is loaded and each local action has its film."""
    until(page, "globalThis.glass?.ready", seconds)


def runtime(folder: Path) -> Path | None:
    """onnxruntime-web from npm; None if it cannot be fetched."""
    npm = shutil.which("npm")
    file = folder / f"onnxruntime-web-{RUNTIME_VERSION}.tgz"
    if npm and not file.exists():
        try:
            subprocess.run(
                [npm, "pack", f"onnxruntime-web@{RUNTIME_VERSION}"],
                cwd=folder,
                check=True,
                capture_output=True,
                timeout=90,
            )
        except (subprocess.SubprocessError, OSError):
            return None
    return file if file.exists() else None


MILLISECONDS = """async (code) => {
  const game = new glass.Game(glass.world, 1);
  await game.reset();
  for (let i = 0; i < 5; i++) await game.step(1, code);
  const began = performance.now();
  for (let i = 0; i < 100; i++) await game.step(i % 9, code);
  return (performance.now() - began) / 100;
}"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    p = argparse.ArgumentParser("python -m tests.browser", description=__doc__)
    p.add_argument("--site", type=Path, required=True, help="a folder of glass-export --web")
    p.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()), help="where screenshots go")
    arguments = p.parse_args(argv)
    figures = {}
    with served(arguments.site) as url:
        for name in json.loads((arguments.site / "worlds.json").read_text(encoding="utf-8")):
            with page_of(f"{url}#world={name}&seed=3", viewport={"width": 1100, "height": 860}) as page:
                began = time.perf_counter()
                wait_until_ready(page)
                loaded = time.perf_counter() - began
                page.keyboard.down("ArrowLeft")
                time.sleep(0.7)
                page.screenshot(path=arguments.out / f"web_{name}.png")
                page.keyboard.up("ArrowLeft")
                if page.evaluate("Boolean(glass.agent)"):
                    page.select_option("#who", "both")
                    time.sleep(1.5)
                    page.screenshot(path=arguments.out / f"web_{name}_both.png")
                    page.select_option("#who", "human")
                page.evaluate("document.getElementById('fps').max = 240; document.getElementById('fps').value = 240")
                time.sleep(4)
                shown = page.inner_text("#score").rpartition("·")[2].strip()
                page.evaluate("glass.pause()")
                steps = {"digit": page.evaluate(MILLISECONDS, 0), "prior": page.evaluate(MILLISECONDS, None)}
                figures[name] = {"seconds_to_load": loaded, "as_fast_as_it_can": shown, "ms_a_step": steps}
                print(name, json.dumps(figures[name]), *page.said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
