from django.apps.registry import Apps
from django.db import migrations

OLD, NEW = "sight_steps", "perception_steps"


def rename(apps: Apps, old: str, new: str) -> None:
    for run in apps.get_model("learning", "Run").objects.filter(recipe__has_key=old).only("recipe"):
        run.recipe[new] = run.recipe.pop(old)
        run.save(update_fields=["recipe"])


class Migration(migrations.Migration):
    """A setting's new name, in the recipes of runs that are stored."""

    dependencies = [("learning", "0005_kinds_of_methods")]

    operations = [
        migrations.RunPython(
            lambda apps, schema: rename(apps, OLD, NEW), lambda apps, schema: rename(apps, NEW, OLD)
        )
    ]
