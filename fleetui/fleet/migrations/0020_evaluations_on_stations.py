"""An assignment may be an evaluation of a checkpoint, whose attempts know it."""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("fleet", "0019_record_frames"), ("learning", "0007_bodies_of_datasets")]
    operations = [
        migrations.AddField(
            "assignment",
            "checkpoint",
            models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="evaluations",
                to="learning.checkpoint",
            ),
        ),
        migrations.AddConstraint(
            "assignment",
            models.CheckConstraint(
                condition=Q(checkpoint=None) | Q(run=None, parent__isnull=False, budget_episodes__isnull=False),
                name="evaluation_has_its_attempts",
            ),
        ),
        migrations.AddField(
            "episode",
            "assignment",
            models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="episodes",
                to="fleet.assignment",
            ),
        ),
    ]
