from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0008_attempts")]

    operations = [
        migrations.AddField(
            model_name="station",
            name="stopped_by",
            field=models.CharField(blank=True, max_length=80, default=""),
            preserve_default=False,
        ),
    ]
