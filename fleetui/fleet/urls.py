"""Addresses of the fleet's pages; they are shareable and hold the view's state."""

from django.urls import path

from fleetui.fleet.views import attention, audit, effort, episodes, glossary, home, people, stations, time_zone

urlpatterns = [
    path("", home.home, name="home"),
    path("login", home.LogIn.as_view(), name="login"),
    path("logout", home.LogOut.as_view(), name="logout"),
    path("password", home.password, name="password"),
    path("time-zone", time_zone.time_zone, name="time_zone"),
    path("labs/<slug:lab_slug>/jump", home.jump, name="jump"),
    path("labs/<slug:lab_slug>/stations/", stations.stations, name="stations"),
    path("labs/<slug:lab_slug>/stations/new", stations.new_station, name="new_station"),
    path("labs/<slug:lab_slug>/stations/<slug:station_slug>", stations.station, name="station"),
    path(
        "labs/<slug:lab_slug>/stations/<slug:station_slug>/settings", stations.station_settings, name="station_settings"
    ),
    path("labs/<slug:lab_slug>/glossary", glossary.glossary, name="glossary"),
    path("labs/<slug:lab_slug>/attention/", attention.attention, name="attention"),
    path("labs/<slug:lab_slug>/attention/count", attention.help_count, name="help_count"),
    path("labs/<slug:lab_slug>/effort/", effort.effort, name="effort"),
    path("labs/<slug:lab_slug>/stations/<slug:station_slug>/token", stations.station_token, name="station_token"),
    path("labs/<slug:lab_slug>/stations/<slug:station_slug>/archive", stations.archive_station, name="archive_station"),
    path("labs/<slug:lab_slug>/stations/<slug:station_slug>/maintenance", stations.maintenance, name="maintenance"),
    path("labs/<slug:lab_slug>/people", people.people, name="people"),
    path("labs/<slug:lab_slug>/audit", audit.audit, name="audit"),
    path("labs/<slug:lab_slug>/audit/export.<slug:kind>", audit.export, name="audit_export"),
    path("invitations/<str:token>", people.invitation, name="invitation"),
    path("labs/<slug:lab_slug>/episodes/", episodes.episodes, name="episodes"),
    path("labs/<slug:lab_slug>/episodes/<uuid:episode_uuid>", episodes.episode, name="episode"),
    path("labs/<slug:lab_slug>/charts/", episodes.charts, name="charts"),
]
