"""All settings of the dashboard, read from the environment: typed, and failing loudly with a sentence.

    PORT           the port of the web server                               8000
    FLEETUI_DATA   the folder in which everything is kept                   .fleetui
    FLEETUI_HOST   names under which browsers reach the fleet, by commas    this machine only
    DATABASE_URL   postgresql://user:password@host:5432/name                the embedded PostgreSQL
    DATABASE_OWNER_URL  the same database, by the role that owns the tables  as DATABASE_URL
    REDIS_URL      redis://host:6379/0 or unix:///path/to/socket            the embedded Valkey
    DEBUG          1 shows errors in the browser                            0
    FLEETUI_HTTPS  1 marks cookies secure, behind a proxy that speaks https  0
    FLEETUI_URL    the address that people type where a proxy stands before  none

The embedded servers' socket paths follow from FLEETUI_DATA alone, so any manage.py command finds a running fleet.
"""

import os
import re
import secrets
import warnings
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from fleetui import embedded

BASE_DIR = Path(__file__).resolve().parent.parent
# What addresses of the fleet begin with; tests/test_proxy.py keeps it true.
FIRST_NAMES = tuple("api charts healthz invitations labs login logout password static time-zone ws".split())


def read_flag(name, default=False):
    text = os.environ.get(name, "").strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    if text == "":
        return default
    raise ImproperlyConfigured(f"{name}={text!r} is neither 1 nor 0: set it to one of the two, or unset it.")


def read_port():
    text = os.environ.get("PORT") or "8000"
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ImproperlyConfigured(f"PORT={text!r} is not a port: set it to a number from 1 to 65535.")
    return int(text)


def read_public_url():
    """Returns (origin, host name, sub-path) of the address that people type, behind a proxy; else three empty texts."""
    url = os.environ.get("FLEETUI_URL", "").strip()
    if not url:
        return "", "", ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    is_plain = host and not (parts.query or parts.fragment) and re.fullmatch(r"(/[\w.~-]+)*/?", parts.path)
    if not is_plain or parts.scheme not in ("http", "https"):
        raise ImproperlyConfigured(f"FLEETUI_URL={url!r} must look like https://fleet.example:8443/fleet/.")
    if parts.path.split("/")[1:2] in ([name] for name in FIRST_NAMES):
        raise ImproperlyConfigured(
            f"FLEETUI_URL={url!r}: the fleet's own addresses begin like that; choose another path."
        )
    host = bracketed(host)
    is_default = port in (None, {"http": 80, "https": 443}[parts.scheme])
    return f"{parts.scheme}://{host}{'' if is_default else f':{port}'}", host, parts.path.rstrip("/")


def bracketed(host):
    """An IPv6 address as browsers write it in an address."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def read_database(name="DATABASE_URL"):
    url = os.environ.get(name, "")
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres") or len(parts.path) < 2:
        # The URL itself stays out of the message: it may hold a password.
        raise ImproperlyConfigured(f"{name} must look like postgresql://user:password@host:5432/name.")
    options = dict(parse_qsl(parts.query))
    return {
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        # A socket folder is written either percent-encoded in the host's place or as ?host=/folder.
        "HOST": options.pop("host", "") or unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": options,
    }


def read_databases():
    """Returns (how the application connects, how migrations do): to one database, best by two roles."""
    if not os.environ.get("DATABASE_URL"):
        return embedded.database_settings(DATA), embedded.database_settings(DATA, embedded.OWNER)
    used = read_database()
    if not os.environ.get("DATABASE_OWNER_URL"):
        return used, used
    owned = read_database("DATABASE_OWNER_URL")
    if owned["NAME"] != used["NAME"]:
        raise ImproperlyConfigured(
            f"DATABASE_OWNER_URL names the database {owned['NAME']!r}, DATABASE_URL {used['NAME']!r}: it must be one."
        )
    return used, owned


def read_redis():
    """Returns (address for Channels, address for Celery)."""
    url = os.environ.get("REDIS_URL", "")
    if not url:
        socket = embedded.valkey_socket(DATA)
        return f"unix://{socket}", f"redis+socket://{socket}?virtual_host=1"
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss") and parts.hostname:
        return url, url
    if parts.scheme == "unix" and parts.path:
        database = dict(parse_qsl(parts.query)).get("db", "0")
        return url, f"redis+socket://{parts.path}?virtual_host={database}"
    raise ImproperlyConfigured("REDIS_URL must look like redis://host:6379/0, rediss://host:6379/0 or unix:///path.")


def read_secret_key():
    """Made once and kept in the data folder, so that log-ins outlive a restart."""
    path = DATA / "secret_key"
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(50))
    except FileExistsError:
        pass
    key = path.read_text().strip()
    if len(key) < 50:
        raise ImproperlyConfigured(f"{path} is damaged: delete it (everyone has to log in again) and start anew.")
    return key


DATA = Path(os.environ.get("FLEETUI_DATA") or BASE_DIR / ".fleetui").expanduser().resolve()
DATA.mkdir(parents=True, exist_ok=True, mode=0o700)
PORT = read_port()
DEBUG = read_flag("DEBUG")
SECRET_KEY = read_secret_key()

HOST_NAMES = [bracketed(name.strip()) for name in os.environ.get("FLEETUI_HOST", "").split(",") if name.strip()]
PUBLIC_ORIGIN, PUBLIC_HOST, BASE_PATH = read_public_url()
FORCE_SCRIPT_NAME = BASE_PATH or None
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *HOST_NAMES, *([PUBLIC_HOST] if PUBLIC_HOST else [])]
# Only asking for other names opens the server to other machines: then on every address, IPv4 and IPv6.
BIND_ADDRESS = "" if HOST_NAMES else "127.0.0.1"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "channels",
    "django_celery_beat",
    "pgtrigger",
    "axes",
    "fleetui.fleet",
    "fleetui.learning",
    "fleetui.practice",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "fleetui.fleet.time_zones.use_own_time_zone",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "fleetui.headers.content_security_policy",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "fleetui.urls"
ASGI_APPLICATION = "fleetui.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

APPLICATION, OWNER = read_databases()
POOL = {"pool": {"min_size": 1, "max_size": 20, "timeout": 10}}
# The pool hands out no connection that the server has closed meanwhile, as it does when it restarts.
CONNECTIONS = {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": True}
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", **CONNECTIONS, **APPLICATION}}
DATABASES["default"]["OPTIONS"] = {**APPLICATION.get("OPTIONS", {}), **POOL}
# For `manage.py migrate` alone, which takes these in place of the above: nothing else changes tables.
DATABASE_OWNER = {"PASSWORD": "", **OWNER, "OPTIONS": {**OWNER.get("OPTIONS", {}), **POOL}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNELS_ADDRESS, CELERY_BROKER_URL = read_redis()
# Two fleets may share one external Redis: each prefixes its keys by its data folder.
KEY_PREFIX = f"fleetui-{embedded.data_key(DATA)}"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {
            # redis-py's default of 5 s would end every consumer that hears nothing for that long.
            "hosts": [{"address": CHANNELS_ADDRESS, "socket_timeout": None}],
            "prefix": KEY_PREFIX,
        },
    },
}

# A run may take days: a job that Redis hands out a second time must not happen before that.
LONGEST_RUN_S = 14 * 24 * 3600
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": LONGEST_RUN_S, "global_keyprefix": f"{KEY_PREFIX}:"}
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"visibility_timeout": LONGEST_RUN_S}
CELERY_VISIBILITY_TIMEOUT = LONGEST_RUN_S
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = f"{BASE_PATH}/static/"
STATICFILES_DIRS = [BASE_DIR / "fleetui" / "static"]
STATIC_ROOT = DATA / "static"  # what `manage.py start` collects
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "fleetui.static_files.HashedFiles"},
}
FILE_UPLOAD_PERMISSIONS = None  # scripts and styles too are written by the umask of the start: for this user alone
# They are small, so that Django reads them whole before it sends them is no news for the log.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
# Whoever guesses passwords is kept from the log-in for a while, by the name together with the address. Only the log-in
# asks django-axes: a signed-in supervisor whose name somebody else has locked still stops every station.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=10)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # else a script could keep somebody out for ever
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "fleetui.headers.client_address"
AXES_LOCKOUT_TEMPLATE = "locked_out.html"
AXES_DISABLE_ACCESS_LOG = True  # the audit log has the log-ins
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
LOGIN_URL = LOGOUT_REDIRECT_URL = f"{BASE_PATH}/login"
LOGIN_REDIRECT_URL = f"{BASE_PATH}/"
# Another site may stand under the same name: under a sub-path cookies go there alone and have names of their own.
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = f"{BASE_PATH}/"
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = (name + BASE_PATH.replace("/", "_") for name in ("sessionid", "csrftoken"))
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
# Behind a proxy that speaks https cookies may be marked secure; plain http on localhost would lose them.
HTTPS = read_flag("FLEETUI_HTTPS")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS or PUBLIC_ORIGIN.startswith("https:")
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
CSRF_TRUSTED_ORIGINS = [f"https://{name}" for name in HOST_NAMES] if HTTPS else []
CSRF_TRUSTED_ORIGINS += [PUBLIC_ORIGIN] if PUBLIC_ORIGIN else []
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "SAMEORIGIN"  # the charts stand in a frame of our own page
DATA_UPLOAD_MAX_MEMORY_SIZE = 65 * 2**20  # a station uploads at most 64 MiB of episodes at once

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "axes": {"level": "WARNING"},  # it tells of each log-in in four lines
        # While Valkey is away it writes a traceback a second; live/hearing.py and messages.py say it once.
        "channels_redis.pubsub": {"level": "CRITICAL"},
    },
}
