"""Scripts and styles under names that hold a hash of their content, so that a browser keeps each for good, and gzipped.

`manage.py start` collects them into the data folder; WhiteNoise serves them from there.
"""

import hashlib

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedFiles(CompressedManifestStaticFilesStorage):
    support_js_module_import_aggregation = True  # import "./live.js" gets the hashed name too


def collect() -> None:
    """Once for each state of the sources, so that a second start is quick."""
    sources = [
        (name, storage.size(name), storage.get_modified_time(name).timestamp())
        for finder in get_finders()
        for name, storage in finder.list([])
    ]
    state = hashlib.sha256(repr(sorted(sources)).encode()).hexdigest()
    stamp = settings.STATIC_ROOT / "collected.txt"
    if not stamp.is_file() or stamp.read_text() != state:
        call_command("collectstatic", verbosity=0, interactive=False, clear=True)
        stamp.write_text(state)
