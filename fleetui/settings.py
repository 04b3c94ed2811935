"""All settings of the dashboard. What the environment may say of them stands in one class: typed, and failing loudly
with a sentence that names the variable, its value and what is allowed.

The embedded servers' socket paths follow from FLEETUI_DATA alone, so any manage.py command finds a running fleet.
"""

import os
import re
import secrets
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from csp.constants import NONE, SELF, UNSAFE_INLINE
from django.core.exceptions import ImproperlyConfigured
from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_core import PydanticUseDefault
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fleetui import embedded

BASE_DIR = Path(__file__).resolve().parent.parent
# What addresses of the fleet begin with; tests/test_proxy.py keeps it true.
FIRST_NAMES = (
    "access-tokens",
    "api",
    "charts",
    "healthz",
    "invitations",
    "labs",
    "login",
    "logout",
    "password",
    "static",
    "time-zone",
    "ws",
)


class PublicAddress(NamedTuple):
    """What people type, behind a proxy; three empty texts where there is none."""

    origin: str = ""  # https://fleet.example:8443
    host: str = ""
    path: str = ""  # /fleet


class RedisAddress(NamedTuple):
    channels: str
    celery: str


def read_public_address(url: str) -> PublicAddress:
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    is_plain = not (parts.query or parts.fragment) and re.fullmatch(r"(/[\w.~-]+)*/?", parts.path)
    if (
        not host
        or not is_plain
        or parts.scheme not in ("http", "https")
        or parts.path.partition("/")[2].partition("/")[0] in FIRST_NAMES
    ):
        raise ValueError
    host = bracketed(host)
    is_default = port in (None, {"http": 80, "https": 443}[parts.scheme])
    origin = f"{parts.scheme}://{host}{'' if is_default else f':{port}'}"
    return PublicAddress(origin, host, parts.path.rstrip("/"))


def bracketed(host: str) -> str:
    """An IPv6 address as browsers write it in an address."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def read_host_names(names: str) -> list[str]:
    return [bracketed(name.strip()) for name in names.split(",") if name.strip()]


def read_database(url: str) -> dict[str, Any]:
    """As Django has it. (pydantic's own PostgresDsn refuses ?host=/folder, as the host's place is empty then.)"""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres") or len(parts.path) < 2:
        raise ValueError
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


def read_redis(url: str) -> RedisAddress:
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss") and parts.hostname:
        return RedisAddress(url, url)
    if parts.scheme == "unix" and parts.path:
        database = dict(parse_qsl(parts.query)).get("db", "0")
        return RedisAddress(url, f"redis+socket://{parts.path}?virtual_host={database}")
    raise ValueError


def read_folders(text: str) -> list[Path]:
    """Whole paths, with colons between them."""
    folders = [Path(each).expanduser() for each in text.split(os.pathsep) if each.strip()]
    if not all(folder.is_absolute() for folder in folders):
        raise ValueError
    return folders


def read_queues(text: str) -> list[str]:
    names = [each.strip() for each in text.split(",") if each.strip()]
    if not set(names) <= {"cpu", "gpu"}:
        raise ValueError
    return names


class Environment(BaseSettings):
    """What the environment may say. A description completes "NAME must ..."; a value whose repr is off may hold a
    password and is never shown.
    """

    model_config = SettingsConfigDict(case_sensitive=True, frozen=True, validate_default=False)

    # The port of the web server.
    PORT: int = Field(default=8000, ge=1, le=65535, description="be a number from 1 to 65535")
    # The folder in which everything is kept.
    FLEETUI_DATA: Path = Field(default=BASE_DIR / ".fleetui", description="be a folder")
    # Names under which browsers reach the fleet; without any, this machine alone does.
    FLEETUI_HOST: Annotated[list[str], NoDecode, BeforeValidator(read_host_names)] = Field(
        default=[], description="be host names, with commas between them"
    )
    # The address that people type where a proxy stands before the fleet.
    FLEETUI_URL: Annotated[PublicAddress, NoDecode, BeforeValidator(read_public_address)] = Field(
        default=PublicAddress(),
        description="look like https://fleet.example:8443/fleet/, and its path must not begin like an address of the "
        f"fleet's own ({', '.join(FIRST_NAMES)})",
    )
    # Marks cookies secure, behind a proxy that speaks https.
    FLEETUI_HTTPS: bool = Field(default=False, description="be 1 or 0")
    # Folders of this machine below which datasets may be imported; without any, none may.
    FLEETUI_IMPORT_ROOTS: Annotated[list[Path], NoDecode, BeforeValidator(read_folders)] = Field(
        default=[], description="be whole paths of folders, with colons between them"
    )
    # How many trainings that need no station a worker of this machine does at a time; others wait for their turn.
    FLEETUI_TRAININGS: int = Field(
        default=max(1, (os.cpu_count() or 1) // 2), ge=1, le=1000, description="be a number from 1 to 1000"
    )
    # Which runs the workers of this machine take; without it those of the queue cpu, and of gpu where there is a card.
    FLEETUI_QUEUES: Annotated[list[str], NoDecode, BeforeValidator(read_queues)] = Field(
        default=[], description="be cpu, gpu or cpu,gpu"
    )
    # Shows errors in the browser.
    DEBUG: bool = Field(default=False, description="be 1 or 0")
    # Own servers in place of the embedded ones.
    DATABASE_URL: Annotated[dict[str, Any] | None, NoDecode, BeforeValidator(read_database)] = Field(
        default=None, repr=False, description="look like postgresql://user:password@host:5432/name"
    )
    # The same database, by the role that owns the tables.
    DATABASE_OWNER_URL: Annotated[dict[str, Any] | None, NoDecode, BeforeValidator(read_database)] = Field(
        default=None, repr=False, description="look like postgresql://user:password@host:5432/name"
    )
    REDIS_URL: Annotated[RedisAddress | None, NoDecode, BeforeValidator(read_redis)] = Field(
        default=None, repr=False, description="look like redis://host:6379/0, rediss://host:6379/0 or unix:///path"
    )

    @field_validator("*", mode="before")
    @classmethod
    def leave_out_blanks(cls, value: str) -> str:
        if not value.strip():
            raise PydanticUseDefault
        return value.strip()


def read_environment() -> Environment:
    try:
        return Environment()
    except ValidationError as error:
        wrong = [str(each["loc"][0]) for each in error.errors()]
    fields = Environment.model_fields
    shown = {name: f"{name}={os.environ[name]!r}" if fields[name].repr else name for name in wrong}
    raise ImproperlyConfigured(
        " ".join(f"{shown[name]} must {fields[name].description}; or unset it." for name in wrong)
    )


def choose_databases(environment: Environment, data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (how the application connects, how migrations do): to one database, best by two roles."""
    used = environment.DATABASE_URL
    if used is None:
        return embedded.database_settings(data), embedded.database_settings(data, embedded.OWNER)
    owned = environment.DATABASE_OWNER_URL or used
    if owned["NAME"] != used["NAME"]:
        raise ImproperlyConfigured(
            f"DATABASE_OWNER_URL names the database {owned['NAME']!r}, DATABASE_URL {used['NAME']!r}: it must be one."
        )
    return used, owned


def embedded_redis(data: Path) -> RedisAddress:
    socket = embedded.valkey_socket(data)
    return RedisAddress(f"unix://{socket}", f"redis+socket://{socket}?virtual_host=1")


def read_secret_key(data: Path) -> str:
    """Made once and kept in the data folder, so that log-ins outlive a restart."""
    path = data / "secret_key"
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(50))
    except FileExistsError:
        pass
    key = path.read_text().strip()
    if len(key) < 50:
        raise ImproperlyConfigured(f"{path} is damaged: delete it (everyone has to log in again) and start anew.")
    return key


environment = read_environment()
# Which servers are the fleet's own: those that the environment names no replacement for, by the variables' names.
EMBEDDED_SERVERS = [name for name in ("DATABASE_URL", "REDIS_URL") if getattr(environment, name) is None]
DATA = environment.FLEETUI_DATA.expanduser().resolve()
DATA.mkdir(parents=True, exist_ok=True, mode=0o700)
PORT = environment.PORT
TRAININGS = environment.FLEETUI_TRAININGS
QUEUES = environment.FLEETUI_QUEUES
DEBUG = environment.DEBUG
SECRET_KEY = read_secret_key(DATA)
IMPORT_ROOTS = environment.FLEETUI_IMPORT_ROOTS

HOST_NAMES = environment.FLEETUI_HOST
PUBLIC_ORIGIN, PUBLIC_HOST, BASE_PATH = environment.FLEETUI_URL
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
    "csp",
    "fleetui.fleet",
    "fleetui.learning",
    "fleetui.practice",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "fleetui.fleet.time_zones.use_own_time_zone",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

SILENCED_SYSTEM_CHECKS = ["urls.W002"]  # an included route begins with what follows its object's address
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

APPLICATION, OWNER = choose_databases(environment, DATA)
POOL = {"pool": {"min_size": 1, "max_size": 20, "timeout": 10}}
# The pool hands out no connection that the server has closed meanwhile, as it does when it restarts.
CONNECTIONS = {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": True}
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", **CONNECTIONS, **APPLICATION}}
DATABASES["default"]["OPTIONS"] = {**APPLICATION.get("OPTIONS", {}), **POOL}
# For `manage.py migrate` alone, which takes these in place of the above: nothing else changes tables.
DATABASE_OWNER = {"PASSWORD": "", **OWNER, "OPTIONS": {**OWNER.get("OPTIONS", {}), **POOL}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNELS_ADDRESS, CELERY_BROKER_URL = environment.REDIS_URL or embedded_redis(DATA)
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
CELERY_TASK_DEFAULT_QUEUE = "fleet"  # what is no run: the main worker's
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
HTTPS = environment.FLEETUI_HTTPS
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS or PUBLIC_ORIGIN.startswith("https:")
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
CSRF_TRUSTED_ORIGINS = [f"https://{name}" for name in HOST_NAMES] if HTTPS else []
CSRF_TRUSTED_ORIGINS += [PUBLIC_ORIGIN] if PUBLIC_ORIGIN else []
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "SAMEORIGIN"  # the charts stand in a frame of our own page
# What a page may load: this server's own files only, and no inline script. Dash's own pages, which need inline scripts,
# are served beside Django and don't pass here.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "style-src": [SELF, UNSAFE_INLINE],  # plotly.js writes style elements
        "img-src": [SELF, "data:", "blob:"],  # frames and downloads of a chart are blobs
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [SELF],
    }
}
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
