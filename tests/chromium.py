"""Finds the Chromium that the browser tests drive; `python tests/chromium.py` installs one where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# The headless shell, which playwright itself prefers, is the same engine without the windows around the pages.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = tuple(f"/Applications/{name}.app/Contents/MacOS/{name}" for name in ("Chromium", "Google Chrome"))
MISSING = (
    "The browser tests need Chromium; none was found and none could be installed. Install it (Debian: apt install "
    "chromium-headless-shell; anywhere: .venv/bin/python -m playwright install --with-deps chromium), then run make "
    "test again."
)


def find_chromium():
    """The path of a browser, or None."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    downloads = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright")
    if sys.platform == "darwin" and not os.environ.get("PLAYWRIGHT_BROWSERS_PATH"):
        downloads = Path.home() / "Library/Caches/ms-playwright"
    inside = ("chrome-linux*/chrome", "chrome-mac*/*.app/Contents/MacOS/*")
    candidates = [*MAC, *(str(path) for name in inside for path in sorted(downloads.glob(f"chromium-*/{name}")))]
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def install_chromium():
    """Debian's own as root; anywhere else the one that playwright downloads for this user."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing Chromium for the browser tests (apt-get install chromium-headless-shell) ...", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium-headless-shell"]):
            subprocess.run(["apt-get", "-qq", *command], env=environment, stdout=subprocess.DEVNULL)
    if not find_chromium():
        print("Downloading Chromium for the browser tests ...", flush=True)
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])


if __name__ == "__main__":
    if not find_chromium():
        install_chromium()
    if not find_chromium():
        sys.exit(MISSING)
