"""Celery's app. A job only supervises a child process (`python -m training ...`), so the worker's pool is threads.

The Run row, with its attempt and heartbeat, is the truth about a run; Celery only carries the wish to start one.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetui.settings")

app = Celery("fleetui")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["fleetui.fleet", "fleetui.learning", "fleetui.practice"], related_name="jobs")
for jobs in ("comparison_jobs", "transfer_jobs", "look_jobs"):
    app.autodiscover_tasks(["fleetui.learning"], related_name=jobs)
app.autodiscover_tasks(["fleetui"], related_name="worker")
