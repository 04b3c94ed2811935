"""`manage.py fill`: a lab as full as after years of use, in a fleet that has done nothing yet."""

import time
from typing import Any, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper

from fleetui.fleet.management.commands.migrate import as_owner
from fleetui.fleet.models import Episode, Lab
from fleetui.learning.models import Dataset
from fleetui.practice.filling import fill_lab
from robots import strict_json

SLUG = "full"


class Command(BaseCommand):
    help = "Make a lab full of invented rows, to look at full pages. Only in a fleet that has no episodes."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--episodes", type=int, default=100_000)
        parser.add_argument("--runs", type=int, default=200)

    def handle(self, **options: Any) -> None:
        for name, least in (("episodes", 100), ("runs", 2)):
            if options[name] < least:
                raise CommandError(f"--{name} must be at least {least}.")
        if Episode.objects.exists() or Lab.objects.filter(slug=SLUG).exists():
            raise CommandError(
                "This fleet has episodes already. What is invented would stand in its audit log for good: start one "
                "with another data folder (FLEETUI_DATA) and fill that."
            )
        # A root in one file: what the first start makes.
        source = Dataset.objects.filter(state="ready", path__endswith=".safetensors").order_by("pk").first()
        if source is None:
            raise CommandError("Wait until the fleet's first demonstrations are ready: all of it is made of those.")
        began = time.monotonic()
        full = fill_lab(source=source, slug=SLUG, episodes=options["episodes"], runs=options["runs"])
        # As PostgreSQL does by itself a little later.
        with as_owner(cast(DatabaseWrapper, connection)), connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        said = {
            "lab": full.lab.slug,
            "dataset": full.dataset.pk,
            "runs": [run.pk for run in full.runs],
            "practised": [run.pk for run in full.practised],
            "reward_model": str(next(iter(full.reward_models.values())).pk),
            "station_token": full.token,
            "seconds": round(time.monotonic() - began, 1),
        }
        self.stdout.write(strict_json.dumps(said))
