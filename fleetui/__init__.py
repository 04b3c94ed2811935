"""The dashboard: everything Django, and only here. Importing it makes Celery's app known to every process."""

from fleetui.celery import app as celery_app

__all__ = ["celery_app"]
