from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0009_identity")]

    operations = [
        migrations.AddField(
            model_name="station",
            name="stopped_by",
            field=models.CharField(blank=True, max_length=80, default=""),
            preserve_default=False,
        ),
    ]
