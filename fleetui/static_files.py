"""Scripts and styles under names that hold a hash of their content, so that a browser keeps each for good, and gzipped.

`manage.py start` collects them into the data folder; WhiteNoise serves them from there.
"""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedFiles(CompressedManifestStaticFilesStorage):
    support_js_module_import_aggregation = True  # import "./live.js" gets the hashed name too
