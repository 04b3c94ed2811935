"""Addresses of the fleet's pages; they are shareable and hold the view's state."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from fleetui.fleet import views

urlpatterns = [
    path("", views.home, name="home"),
    path("login", views.LogIn.as_view(), name="login"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("labs/<slug:lab_slug>/", views.wall, name="wall"),
    path("labs/<slug:lab_slug>/jump", views.jump, name="jump"),
    path("labs/<slug:lab_slug>/stations/new", views.new_station, name="new_station"),
    path("labs/<slug:lab_slug>/stations/<slug:station_slug>", views.station, name="station"),
    path("labs/<slug:lab_slug>/stations/<slug:station_slug>/settings", views.station_settings, name="station_settings"),
    path("labs/<slug:lab_slug>/episodes/", views.episodes, name="episodes"),
    path("labs/<slug:lab_slug>/episodes/<uuid:episode_uuid>", views.episode, name="episode"),
    path("labs/<slug:lab_slug>/tasks/", views.tasks, name="tasks"),
    path("labs/<slug:lab_slug>/charts/", views.charts, name="charts"),
]
