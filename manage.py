#!/usr/bin/env python
"""Django's command line; `manage.py start` is what `make run` calls."""

import os
import sys


def main() -> None:
    """Carry out one of Django's commands."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetui.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
