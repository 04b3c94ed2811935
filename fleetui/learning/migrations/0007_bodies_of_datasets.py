"""Datasets keep the body that their episodes were recorded with; of old ones their families say which."""

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from robots.embodiments import EMBODIMENTS
from robots.tasks import TASKS


def say_bodies(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for dataset in apps.get_model("learning", "Dataset").objects.all():
        bodies = {TASKS[family].embodiment for family in dataset.families if family in TASKS}
        if len(bodies) == 1 and (body := EMBODIMENTS.get(bodies.pop())):
            dataset.body = body.to_json()
            dataset.save(update_fields=["body"])


class Migration(migrations.Migration):
    dependencies = [("learning", "0006_perception_steps")]
    operations = [
        migrations.AddField("dataset", "body", models.JSONField(blank=True, default=dict)),
        migrations.RunPython(say_bodies, migrations.RunPython.noop),
    ]
