"""Settings: where things are comes from the environment, how the system behaves from ``policies/*.toml``.

Every variable is listed in ``.env.example`` and explained in ``docs/settings.md``. Policy files are read here into
plain dicts; each app's ``conf.py`` gives them meaning and its system checks refuse what is out of range.
"""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import environ

from dlqsite import reporting
from dlqsite.logs import configure_logging
from dlqsite.policy_files import PolicyFiles
from dlqsite.version import VERSION as RELEASE
from processes import tracing

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.read_env(BASE_DIR / ".env", overwrite=False)

DATA_DIR = Path(env.str("DATA_DIR", default=str(BASE_DIR / "var")))


def command_prefix() -> str:
    """How this process's Python calls manage.py from any folder, for a shell."""
    directory = DATA_DIR.absolute()
    set_directory = [] if directory == BASE_DIR / "var" else [f"DATA_DIR={shlex.quote(str(directory))}"]
    return " ".join([*set_directory, shlex.join([sys.executable, str(BASE_DIR / "manage.py")])])


#: The beginning of every command that the console shows to be copied. Shell syntax.
COMMAND_PREFIX = env.str("COMMAND_PREFIX", default="") or command_prefix()

#: Policy files. The directory of the variable replaces shipped ones by name.
POLICIES = PolicyFiles(env.str("POLICY_DIR", default=""))


def running_stack() -> dict[str, Any]:
    """What ``make up`` wrote about the stack that runs on this machine, so that commands in another shell find it."""
    try:
        found = json.loads((DATA_DIR / "connection.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # nothing runs, or the file belongs to somebody else: the defaults below say where to look
    return found if isinstance(found, dict) else {}


def secret_key() -> str:
    """The given key, else the one that ``make up`` keeps in the data directory; without either empty: refused."""
    given: str = env.str("SECRET_KEY", default="")
    if given:
        return given
    try:
        return (DATA_DIR / "secret_key").read_text(encoding="utf-8").strip()
    except OSError:
        return "insecure-key-for-development-only-never-serve-with-it" if DEBUG else ""


_stack = running_stack()

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = secret_key()
#: Shown in the console's header, so that users notice which installation they act on.
ENVIRONMENT = env.str("ENVIRONMENT", default="local")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])

REDIS_URL = env.str("REDIS_URL", default=_stack.get("redisUrl", "redis://127.0.0.1:6379/0"))
REDIS_PREFIX = env.str("REDIS_PREFIX", default="dlq:")
MONGODB_URL = env.str("MONGODB_URL", default=_stack.get("mongodbUrl", "mongodb://127.0.0.1:27017/"))
MONGODB_DATABASE = env.str("MONGODB_DATABASE", default=_stack.get("database", "dlq"))

#: Seconds after which PostgreSQL stops a statement. A silent server is given up one second later.
DATABASE_TIMEOUT = env.float("DATABASE_TIMEOUT", default=3.0)
DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{DATA_DIR / 'db.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # CONN_MAX_AGE stays 0, although opening one costs a handler about a millisecond: what a message leaves in a kept
    # connection would reach the next one on its thread. A pragma or a temporary table changes what it may do, a
    # half-read cursor hides what others wrote and locks it out of writing.
    # Readers never wait for the writer (WAL), and a transaction that will write says so when it begins, so that two of
    # them queue up instead of failing with "database is locked".
    DATABASES["default"].setdefault("OPTIONS", {}).update(
        {
            "timeout": 10,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
    )
elif DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    DATABASES["default"].update(ENGINE="dlqsite.postgres", CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True)
    # Parameters of the URL come first: postgres://…/dlq?connect_timeout=5.
    DATABASES["default"]["OPTIONS"] = {
        "connect_timeout": 2,
        "options": f"-c statement_timeout={round(DATABASE_TIMEOUT * 1000)}",
        # A connection whose packets nobody confirms is given up, also while nothing is asked.
        "tcp_user_timeout": 3000,
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        **DATABASES["default"].get("OPTIONS", {}),
    }
else:
    DATABASES["default"]["CONN_MAX_AGE"] = 60
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True

INSTALLED_APPS = [
    "console",  # before the admin: its templates take the place of Django's of the same name
    "dlqsite.apps.ConsoleConfig",
    "management",  # first: its commands take the place of Django's and RQ's of the same name
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework_api_key",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "axes",
    "csp",
    # Parts that dlqsite/sign_in uses. None of their pages has an address.
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "django_rq",
    "dlqsite",
    "audit_app",
    "messages_app",
    "dlq_app",
    "breaker_app",
    "notify_app",
]
#: Apps of others, with handlers of their own: dotted, as in INSTALLED_APPS. Last, so that nothing of theirs takes the
#: place of a template or a command.
EXTRA_APPS = [name.strip() for name in env.list("EXTRA_APPS", default=[]) if name.strip()]
INSTALLED_APPS += EXTRA_APPS
MIDDLEWARE = [
    "dlqsite.logs.RequestLog",
    "dlqsite.compression.CompressedPages",
    "dlqsite.api.private.PrivateAnswers",
    "dlqsite.api.problems.ApiProblems",
    "dlqsite.pages.ConsoleErrors",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "dlqsite.sign_in.complete.CompleteSignIns",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
    "allauth.account.middleware.AccountMiddleware",  # the library does not start without it
]
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
            ]
        },
    }
]
ROOT_URLCONF = "dlqsite.urls"
WSGI_APPLICATION = "dlqsite.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = env.str("TIME_ZONE", default="UTC")
FORMAT_MODULE_PATH = ["dlqsite.formats"]

STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("STATIC_ROOT", default=str(BASE_DIR / "staticfiles")))
STATICFILES_DIRS = [BASE_DIR / "static"]
# Hashed names and compression after `collectstatic`; before it, files come from the apps.
_collected = (STATIC_ROOT / "staticfiles.json").is_file()
if not _collected:
    # Whitenoise warns about the missing directory in every process; here it is a way of running, not a mistake.
    warnings.filterwarnings("ignore", message="No directory at", category=UserWarning)
WHITENOISE_USE_FINDERS = not _collected
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if _collected
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}

# --- access ---

#: Addresses and networks of proxies whose X-Forwarded-For and -Proto are trusted; "unix": a proxy on a socket.
TRUSTED_PROXIES = env.list("TRUSTED_PROXIES", default=[])
#: True: redirect to https, secure cookies, HSTS. False only for plain http on a trusted network, such as loopback.
HTTPS = env.bool("HTTPS", default=not DEBUG)
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^api/system/(live|ready|health)$", r"^metrics$"]
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
if TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 12 * 3600
CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "manifest-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
    "dlqsite.sign_in.backend.ProviderBackend",
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
# Ten wrong passwords lock the pair of name and address for 15 minutes, so no user can lock out another.
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False
AXES_LOCKOUT_CALLABLE = "dlqsite.pages.locked_out"
AXES_CLIENT_IP_CALLABLE = "dlqsite.access.login_address"
#: Identity provider of OpenID Connect. Empty: users sign in with passwords of this system only.
OIDC_ISSUER = env.str("OIDC_ISSUER", default="")
OIDC_CLIENT_ID = env.str("OIDC_CLIENT_ID", default="")
OIDC_CLIENT_SECRET = env.str("OIDC_CLIENT_SECRET", default="")
#: Name of the provider on the login page.
OIDC_NAME = env.str("OIDC_NAME", default="single sign-on")
OIDC_SCOPES = env.str("OIDC_SCOPES", default="openid profile email")
#: Claim with the user's groups; a path with dots for a nested one.
OIDC_GROUPS_CLAIM = env.str("OIDC_GROUPS_CLAIM", default="groups")
#: False: only superusers can sign in with a password, for when the provider is unavailable.
LOCAL_SIGN_IN = env.bool("LOCAL_SIGN_IN", default=True)
#: True: a password alone signs no one in.
REQUIRE_SECOND_FACTOR = env.bool("REQUIRE_SECOND_FACTOR", default=False)
#: Roles of the provider's groups. The variable names another file.
SIGN_IN_POLICY_FILE = env.str("SIGN_IN_POLICY", default="") or POLICIES.file("sign_in")
SIGN_IN_POLICY, SIGN_IN_POLICY_PROBLEM = POLICIES.read_file(SIGN_IN_POLICY_FILE)
MFA_ADAPTER = "dlqsite.sign_in.library.FactorAdapter"
MFA_TOTP_ISSUER = f"Dead letters ({ENVIRONMENT})"
#: Steps of 30 s by which the clock of a phone can differ.
MFA_TOTP_TOLERANCE = 1
SOCIALACCOUNT_ADAPTER = "dlqsite.sign_in.library.ProviderAdapter"
DATA_UPLOAD_MAX_MEMORY_SIZE = 9 * 1024 * 1024
# No page accepts file uploads.
FILE_UPLOAD_HANDLERS = ["dlqsite.web.uploads.NoFiles"]

# --- intake ---

#: Requests of one client (API key, else address) in 60 s; 0: no limit. The number of a key takes precedence.
RATE_LIMIT_PER_MINUTE = env.int("RATE_LIMIT_PER_MINUTE", default=100)
#: The same for reads and operator calls.
READ_RATE_LIMIT_PER_MINUTE = env.int("READ_RATE_LIMIT_PER_MINUTE", default=6000)

#: How long an ended message is remembered: the idempotency window.
RECORD_TTL_S = env.int("RECORD_TTL_S", default=24 * 3600)
#: How long the payload of a message is kept after it was done.
BODY_TTL_S = env.int("BODY_TTL_S", default=3600)
#: ``everysec``: a power cut may lose the last seconds. ``fsync``: no 202 before Redis has it on its disk.
#: ``replica``: nor before a replica has.
ACCEPT_DURABILITY = env.str("ACCEPT_DURABILITY", default="everysec")

# --- processing ---

#: Whether messages of type ``demo`` are accepted. They simulate work, so clients can occupy workers with them.
DEMO_HANDLER = env.bool("DEMO_HANDLER") if env.str("DEMO_HANDLER", default="") else ENVIRONMENT == "local"

VERSION = RELEASE
#: Messages that one worker process runs at the same time.
WORKER_CONCURRENCY = env.int("WORKER_CONCURRENCY", default=10)
#: Seconds that a stopping worker gives running attempts to finish.
WORKER_SHUTDOWN_GRACE = env.float("WORKER_SHUTDOWN_GRACE", default=10.0)
#: Seconds that code may hold the interpreter before the process is killed. Less than the lease of 30 s.
WATCHDOG_TIMEOUT = env.float("WATCHDOG_TIMEOUT", default=20.0)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["dlqsite.access.ApiKeyAuthentication", "dlqsite.access.StaffSession"],
    "DEFAULT_PERMISSION_CLASSES": ["dlqsite.access.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["messages_app.store.throttles.ReadThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["dlq_app.rest.requests.ActionParser"],
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_SCHEMA_CLASS": "dlqsite.api.schema.DocumentedView",
    "EXCEPTION_HANDLER": "dlqsite.api.problems.handle",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Dead-letter queue",
    "DESCRIPTION": "Submit messages, follow them, and find, understand and replay those that could not be processed.",
    "VERSION": RELEASE,
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "SERVE_PERMISSIONS": ["dlqsite.access.HasScope"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "SCHEMA_PATH_PREFIX": "/api",
    "SORT_OPERATIONS": False,
    # Not the default hook, which needs a name for each of the many `status` and `state`.
    "POSTPROCESSING_HOOKS": [],
    "SWAGGER_UI_SETTINGS": {"persistAuthorization": False, "displayRequestDuration": True},
}

_LANES = ("high", "normal", "low", "alone")
#: ``rq``: how RQ gets its clients, from REDIS_URL. It caches nothing.
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "rq": {"BACKEND": "messages_app.store.queues.RqConnection"},
}
RQ_QUEUES = {
    name: {"USE_REDIS_CACHE": "rq", "DEFAULT_TIMEOUT": 3600, "SERIALIZER": "rq.serializers.JSONSerializer"}
    for name in _LANES
}
RQ = {"COMMIT_MODE": "auto", "JOB_CLASS": "messages_app.jobs.WakeUpJob", "QUEUE_CLASS": "messages_app.jobs.WakeUpQueue"}

#: A replay batch of more letters needs the scope or permission ``admin``.
#: Days for which lines of the audit log are kept; 0: for ever.
AUDIT_KEEP_DAYS = env.int("AUDIT_KEEP_DAYS", default=730)
#: The person who runs commands, for histories and the audit log. Default: the operating system's user.
OPERATOR = env.str("OPERATOR", default="")
DLQ_APPROVAL_SIZE = env.int("DLQ_APPROVAL_SIZE", default=10_000)
#: Implements ``dlq_app.domain.ports.IntakePort``.
DLQ_RESUBMIT = "messages_app.services.IntakePort"
#: Returns ``breaker_app.held.Held`` by the name of the breaker.
BREAKER_HELD = "messages_app.store.held.read"

#: Days for which a replay batch and the list of its letters are kept after its end; 0: for ever.
DLQ_BATCH_KEEP_DAYS = env.int("DLQ_BATCH_KEEP_DAYS", default=90)
#: Health is degraded when the last backup is older. 0: backups are not checked.
BACKUP_MAX_AGE_H = env.float("BACKUP_MAX_AGE_H", default=0.0)

#: Names the function that masks secrets in audit lines.
AUDIT_MASK = "dlq_app.conf.mask_shown"

RETRY_POLICY = POLICIES.read("retry")
BREAKER_POLICY = POLICIES.read("breaker")
REPLAY_POLICY = POLICIES.read("replay")
#: Allowed destinations of deliveries; none by default. The variable names another file.
DELIVERY_POLICY_FILE = env.str("DELIVERY_POLICY", default="") or POLICIES.file("delivery")
DELIVERY_POLICY, DELIVERY_POLICY_PROBLEM = POLICIES.read_file(DELIVERY_POLICY_FILE)
MASKING_POLICY = POLICIES.read("masking")
OBJECTIVES_POLICY = POLICIES.read("objectives")
GROUPS_POLICY = POLICIES.read("groups")
OWNERS_POLICY = POLICIES.read("owners")
FACETS_POLICY = POLICIES.read("facets")
#: Secret of the hashes of masked facets; empty: derived from SECRET_KEY.
FACETS_KEY = env.str("FACETS_KEY", default="")
#: Who is notified of what; no one by default. The variable names another file.
NOTIFY_POLICY_FILE = env.str("NOTIFY_POLICY", default="") or POLICIES.file("notify")
NOTIFY_POLICY, NOTIFY_POLICY_PROBLEM = POLICIES.read_file(NOTIFY_POLICY_FILE)
#: Address of the console, for links in notifications.
CONSOLE_URL = env.str("CONSOLE_URL", default=_stack.get("url", ""))

#: Address of a trace in the tracing system, with ``{trace_id}``; pages link to it. Empty: no links.
TRACE_URL_TEMPLATE = env.str("TRACE_URL_TEMPLATE", default="")
# Traces are on with an exporter or an endpoint. OpenTelemetry reads its other variables itself.
TRACING_PROBLEM = tracing.switch(
    exporter_name=env.str("OTEL_TRACES_EXPORTER", default=""),
    endpoint=env.str("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", default="")
    or env.str("OTEL_EXPORTER_OTLP_ENDPOINT", default=""),
    protocol=env.str("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", default="")
    or env.str("OTEL_EXPORTER_OTLP_PROTOCOL", default=""),
    is_disabled=env.str("OTEL_SDK_DISABLED", default="").lower() == "true",
    about={"service.name": "dlq", "service.version": RELEASE, "deployment.environment.name": ENVIRONMENT},
)
#: Unexpected errors of every process are sent there; empty: nothing is sent.
SENTRY_DSN = env.str("SENTRY_DSN", default="")

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
#: ``json`` for machines, ``console`` for a terminal.
LOG_FORMAT = env.str("LOG_FORMAT", default="json")
LOGGING_CONFIG = None
configure_logging(level=LOG_LEVEL, form=LOG_FORMAT)
SENTRY_PROBLEM = reporting.switch(SENTRY_DSN, environment=ENVIRONMENT, release=RELEASE)
