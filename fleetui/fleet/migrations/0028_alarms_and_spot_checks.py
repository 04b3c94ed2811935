"""Alarms of the detector, and how many detected successes of a task people look at."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0024_access_tokens'),
        ('learning', '0007_bodies_of_datasets'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='task',
            name='audit_share',
            field=models.FloatField(null=True),
        ),
        migrations.CreateModel(
            name='Alarm',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('reason', models.CharField(max_length=300)),
                ('opened_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('closed_at', models.DateTimeField(null=True)),
                ('outcome', models.CharField(blank=True, max_length=300)),
                ('closed_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('lab', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='alarms', to='fleet.lab')),
                ('policy', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='alarms', to='learning.checkpoint')),
                ('station', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='alarms', to='fleet.station')),
            ],
            options={
                'ordering': ['-opened_at'],
                'indexes': [models.Index(fields=['lab', '-opened_at'], name='fleet_alarm_lab_id_8209fe_idx')],
                'constraints': [models.UniqueConstraint(fields=('station', 'policy'), name='one_alarm_a_station_and_policy')],
            },
        ),
    ]
