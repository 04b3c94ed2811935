"""Finds the nginx that the tests of a proxy run; `python tests/nginx.py` installs one where there is none."""

import os
import shutil
import subprocess
import sys

MISSING = (
    "The tests of a proxy need nginx and openssl; they were not found and could not be installed. "
    "Install them (Debian: apt install nginx-light openssl), then run make test again."
)


def find_nginx():
    """The paths of nginx and openssl, or None."""
    place = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    found = tuple(shutil.which(name, path=place) for name in ("nginx", "openssl"))
    return found if all(found) else None


def install_nginx():
    """Debian's own as root; it is not started as a service."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing nginx for the tests of a proxy (apt-get install nginx-light) ...", flush=True)
        # Debian would start it at once on port 80: RUNLEVEL=1 makes its start script hold back.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "nginx-light", "openssl"]):
            subprocess.run(["apt-get", "-qq", *command], env=environment, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    if not find_nginx():
        install_nginx()
    if not find_nginx():
        sys.exit(MISSING)
