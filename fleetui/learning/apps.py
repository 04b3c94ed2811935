from django.apps import AppConfig

from training.methods.registry import methods


class LearningConfig(AppConfig):
    name = "fleetui.learning"
    label = "learning"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        methods()  # one that can't be had is named now, not to the person who looks at a run
