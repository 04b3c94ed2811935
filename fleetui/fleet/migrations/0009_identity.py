"""A station called "new" had the address of the page that makes stations, so nobody could look at it."""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def give_stations_an_address(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    stations = apps.get_model("fleet", "Station").objects.using(schema_editor.connection.alias)
    for station in stations.filter(slug="new"):
        number = 2
        while stations.filter(lab_id=station.lab_id, slug=f"new-{number}").exists():
            number += 1
        stations.filter(pk=station.pk).update(slug=f"new-{number}")


class Migration(migrations.Migration):
    dependencies = [("fleet", "0008_attempts")]
    operations = [migrations.RunPython(give_stations_an_address, migrations.RunPython.noop)]
