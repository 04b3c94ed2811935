"""Which fleet, by which token: what `fleet login` wrote down, or the environment says (FLEET_URL, FLEET_TOKEN,
FLEET_LAB).
"""

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fleetui_client.errors import NotLoggedIn

LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Login:
    """A fleet's address, an access token there and, where it is chosen, the lab."""

    url: str
    token: str
    lab: str = ""


def login_file() -> Path:
    """In the user's own folder of settings."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA") or "~/.config"
    return Path(home).expanduser() / "fleet" / "login.json"


def find_login(url: str = "", token: str = "", lab: str = "") -> Login:
    """What is given, then what the environment says, then what was written down. A token that was written down goes to
    no other address than its own.
    """
    url = (url or os.environ.get("FLEET_URL", "")).rstrip("/")
    token = token or os.environ.get("FLEET_TOKEN", "")
    lab = lab or os.environ.get("FLEET_LAB", "")
    kept = read_login()
    if kept is not None and url in ("", kept.url):
        url, token, lab = kept.url, token or kept.token, lab or kept.lab
    if not url or not token:
        missing = "address" if not url else "token"
        raise NotLoggedIn(f"No {missing} of a fleet is known: type fleet login, or set FLEET_URL and FLEET_TOKEN.")
    return Login(url, token, lab)


def read_login() -> Login | None:
    """What was written down; None where nothing was, or it can't be read."""
    try:
        told = json.loads(login_file().read_text())
        return Login(str(told["url"]), str(told["token"]), str(told.get("lab", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_login(login: Login) -> Path:
    """For this user alone: nobody else may read the file, at no moment."""
    path = login_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    number, name = tempfile.mkstemp(dir=path.parent)  # with mode 0600
    try:
        with open(number, "w", encoding="utf-8") as file:
            json.dump(asdict(login), file)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    return path


def forget_login() -> bool:
    """Whether there was one."""
    try:
        login_file().unlink()
    except FileNotFoundError:
        return False
    return True
