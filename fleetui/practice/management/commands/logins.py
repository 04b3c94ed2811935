"""`manage.py logins`: the log-ins that the first start made, shown again; a password changed since is in no file."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleetui.practice import first_start


class Command(BaseCommand):
    help = "Shows the log-ins that the first start made, with their first passwords."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="as JSON: [{role, username, password}, ...]")

    def handle(self, **options: Any) -> None:
        try:
            self.stdout.write(json.dumps(first_start.read_logins()) if options["json"] else first_start.logins_text())
        except first_start.FirstStartError as error:
            raise CommandError(str(error)) from None
