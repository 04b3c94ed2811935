"""Tasks may be in words; each knows the body it is for, which of old ones their family says."""

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from robots.tasks import TASKS


def say_bodies(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for task in apps.get_model("fleet", "Task").objects.filter(family__in=TASKS):
        task.embodiment = TASKS[task.family].embodiment
        task.save(update_fields=["embodiment"])


class Migration(migrations.Migration):
    dependencies = [("fleet", "0017_teleoperator")]
    operations = [
        migrations.AddField("task", "embodiment", models.CharField(blank=True, default="", max_length=80)),
        migrations.AddField("task", "wordings", models.JSONField(blank=True, default=list)),
        migrations.AddField("task", "held_out_wordings", models.JSONField(blank=True, default=list)),
        migrations.AddField("task", "slots", models.JSONField(blank=True, default=dict)),
        migrations.RunPython(say_bodies, migrations.RunPython.noop),
    ]
