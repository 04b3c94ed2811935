from django.apps.registry import Apps
from django.db import migrations, models

OLD, NEW = "hopeless", "low_success_probability"


def rename(apps: Apps, old: str, new: str) -> None:
    apps.get_model("fleet", "Episode").objects.filter(ending=old).update(ending=new)


class Migration(migrations.Migration):
    """What a rule and the ending by it are called. Files of episodes keep the old word; robots/episodes.py reads it."""

    dependencies = [("fleet", "0014_alter_task_resets")]

    operations = [
        migrations.RenameField("task", OLD, NEW),
        migrations.AlterField("episode", "ending", models.CharField(max_length=32)),
        migrations.RunPython(lambda apps, schema: rename(apps, OLD, NEW), lambda apps, schema: rename(apps, NEW, OLD)),
    ]
