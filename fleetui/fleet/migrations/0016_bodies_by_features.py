"""Stations keep what their body said of itself: from here on as named features (robots/embodiments.py)."""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from robots.embodiments import Embodiment


def in_present_form(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for station in apps.get_model("fleet", "Station").objects.exclude(embodiment={}):
        try:
            station.embodiment = Embodiment.from_json(station.embodiment).to_json()
        except ValueError:  # it describes itself anew when it connects
            station.embodiment = {}
        station.save(update_fields=["embodiment"])


class Migration(migrations.Migration):
    dependencies = [("fleet", "0015_low_success_probability")]
    operations = [migrations.RunPython(in_present_form, migrations.RunPython.noop)]
