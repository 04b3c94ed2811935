from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("fleet", "0010_stopped_by"),
    ]

    operations = [
        migrations.AddField(
            model_name="task",
            name="reset_each_attempt",
            field=models.BooleanField(default=False),
        ),
    ]
