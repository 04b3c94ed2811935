"""Promotions, comparisons, stored curves of d, spot checks, and reward models with another threshold."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0028_alarms_and_spot_checks'),
        ('learning', '0008_runs_workbench'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='checkpoint',
            name='derived_from',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='derived', to='learning.checkpoint'),
        ),
        migrations.CreateModel(
            name='Comparison',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('time_limit', models.PositiveIntegerField()),
                ('edge_margin', models.FloatField(null=True)),
                ('episodes', models.PositiveIntegerField()),
                ('seed', models.BigIntegerField()),
                ('state', models.CharField(choices=[('queued', 'queued'), ('running', 'running'), ('completed', 'completed'), ('failed', 'failed'), ('canceled', 'canceled')], default='queued', max_length=12)),
                ('progress', models.FloatField(default=0.0)),
                ('heartbeat_at', models.DateTimeField(null=True)),
                ('error', models.TextField(blank=True)),
                ('results', models.JSONField(blank=True, default=dict)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('ended_at', models.DateTimeField(null=True)),
                ('created_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('first', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='compared_first', to='learning.checkpoint')),
                ('lab', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='comparisons', to='fleet.lab')),
                ('second', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='compared_second', to='learning.checkpoint')),
                ('task', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='comparisons', to='fleet.task')),
            ],
            options={
                'ordering': ['-id'],
                'constraints': [models.CheckConstraint(condition=models.Q(('state__in', ('queued', 'running', 'completed', 'failed', 'canceled'))), name='comparison_state_known'), models.CheckConstraint(condition=models.Q(('second', None), models.Q(('second', models.F('first')), _negated=True), _connector='OR'), name='comparison_of_two_policies')],
            },
        ),
        migrations.CreateModel(
            name='Curve',
            fields=[
                ('episode', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='curve', serialize=False, to='fleet.episode')),
                ('d', models.BinaryField()),
                ('error', models.FloatField(null=True)),
                ('stored_at', models.DateTimeField()),
                ('policy', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='learning.checkpoint')),
                ('station', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='fleet.station')),
                ('weights', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='curves', to='learning.checkpoint')),
            ],
            options={
                'indexes': [models.Index(fields=['weights', '-stored_at'], name='learning_cu_weights_b31ab8_idx'), models.Index(condition=models.Q(('error__isnull', False)), fields=['station', 'policy', 'stored_at'], name='curve_with_error')],
            },
        ),
        migrations.CreateModel(
            name='Promotion',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('role', models.CharField(choices=[('policy', 'policy'), ('reward_model', 'reward_model')], max_length=12)),
                ('body', models.CharField(blank=True, max_length=80)),
                ('reason', models.CharField(blank=True, max_length=300)),
                ('at', models.DateTimeField(default=django.utils.timezone.now)),
                ('checkpoint', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='promotions', to='learning.checkpoint')),
                ('lab', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='promotions', to='fleet.lab')),
                ('run', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='promotions', to='learning.run')),
                ('user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'ordering': ['-id'],
                'indexes': [models.Index(fields=['lab', 'role', 'body', '-id'], name='learning_pr_lab_id_793a86_idx')],
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('role', 'policy'), ('run', None)), models.Q(('role', 'reward_model'), ('run__isnull', False)), _connector='OR'), name='promotion_has_its_scope')],
            },
        ),
        migrations.CreateModel(
            name='SpotCheck',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('answer', models.BooleanField(null=True)),
                ('answered_at', models.DateTimeField(null=True)),
                ('before', models.BooleanField(null=True)),
                ('answered_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('episode', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='spot_check', to='fleet.episode')),
                ('lab', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='spot_checks', to='fleet.lab')),
                ('policy', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='spot_checks', to='learning.checkpoint')),
                ('reward_model', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='spot_checks_of_it', to='learning.checkpoint')),
                ('task', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='spot_checks', to='fleet.task')),
            ],
            options={
                'ordering': ['-id'],
                'indexes': [models.Index(condition=models.Q(('answered_at', None)), fields=['lab', '-id'], name='spot_check_waits'), models.Index(condition=models.Q(('answer__isnull', False)), fields=['policy', 'task'], name='spot_check_answered')],
            },
        ),
    ]
