from django.apps import AppConfig


class PracticeConfig(AppConfig):
    """Without models of its own: what it writes are rows of the fleet and of learning."""

    name = "fleetui.practice"
    label = "practice"

    def ready(self) -> None:
        from fleetui.practice import receivers  # noqa: F401  # it imports models, which are there only now
