"""Addresses of the fleet's pages, one a view: pages are shareable and hold the view's state, acts are posted."""

from django.urls import URLPattern, URLResolver, include, path

from fleetui.fleet.views import attention, audit, effort, episodes, glossary, home, people, stations, time_zone, tokens

station_pages = [
    path("", stations.station, name="station"),
    path("/settings", stations.station_settings, name="station_settings"),
    path("/token", stations.station_token, name="station_token"),
    path("/token/renew", stations.renew_token, name="renew_token"),
    path("/token/noted", stations.put_token_away, name="put_token_away"),
    path("/archive", stations.archive_station, name="archive_station"),
    path("/restore", stations.restore_station, name="restore_station"),
    path("/delete", stations.delete_station, name="delete_station"),
    path("/maintenance", stations.begin_maintenance, name="begin_maintenance"),
    path("/maintenance/end", stations.end_maintenance, name="end_maintenance"),
]
attention_pages = [
    path("", attention.attention, name="attention"),
    path("count", attention.help_count, name="help_count"),
    path("<int:number>/acknowledge", attention.acknowledge_help, name="acknowledge_help"),
    path("<int:number>/take", attention.take_help, name="take_help"),
    path("<int:number>/release", attention.release_help, name="release_help"),
    path("<int:number>/close", attention.close_help, name="close_help"),
    path("alarms/<int:number>/close", attention.close_alarm, name="close_alarm"),
    path("contacts", attention.add_contact, name="add_contact"),
    path("contacts/<int:number>/remove", attention.remove_contact, name="remove_contact"),
    path("contacts/<int:number>/try", attention.try_contact, name="try_contact"),
]
people_pages = [
    path("", people.people, name="people"),
    path("/invite", people.invite_member, name="invite_member"),
    path("/invited/<int:number>/revoke", people.revoke_invitation, name="revoke_invitation"),
    path("/<int:number>/role", people.change_role, name="change_role"),
    path("/<int:number>/remove", people.remove_member, name="remove_member"),
    path("/<int:number>/password", people.reset_password, name="reset_password"),
]
lab_pages: list[URLPattern | URLResolver] = [
    path("jump", home.jump, name="jump"),
    path("stations/", stations.stations, name="stations"),
    path("stations/new", stations.new_station, name="new_station"),
    path("stations/<slug:station_slug>", include(station_pages)),
    path("glossary", glossary.glossary, name="glossary"),
    path("attention/", include(attention_pages)),
    path("effort/", effort.effort, name="effort"),
    path("people", include(people_pages)),
    path("audit", audit.audit, name="audit"),
    path("audit/export.<slug:kind>", audit.export, name="audit_export"),
    path("episodes/", episodes.episodes, name="episodes"),
    path("episodes/<uuid:episode_uuid>", episodes.episode, name="episode"),
    path("charts/", episodes.charts, name="charts"),
]
urlpatterns = [
    path("", home.home, name="home"),
    path("login", home.LogIn.as_view(), name="login"),
    path("logout", home.LogOut.as_view(), name="logout"),
    path("password", home.password, name="password"),
    path("access-tokens", tokens.access_tokens, name="access_tokens"),
    path("access-tokens/make", tokens.make_access_token, name="make_access_token"),
    path("access-tokens/<int:number>/revoke", tokens.revoke_access_token, name="revoke_access_token"),
    path("time-zone", time_zone.time_zone, name="time_zone"),
    path("time-zone/seen", time_zone.note_time_zone, name="note_time_zone"),
    path("invitations/<str:token>", people.invitation, name="invitation"),
    path("labs/<slug:lab_slug>/", include(lab_pages)),
]
