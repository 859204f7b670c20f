"""Settings: where things are comes from the environment, how the system behaves from ``policies/*.toml``.

Every variable is listed in ``.env.example``. Policy files are read here into plain dicts; each app's ``conf.py`` gives them
meaning and its system checks refuse what is out of range.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import environ

BASE_DIR = Path(__file__).resolve().parent.parent
POLICY_DIR = Path(__file__).resolve().parent / "policies"

env = environ.Env()
env.read_env(BASE_DIR / ".env", overwrite=False)


def policy(name: str) -> dict[str, Any]:
    """The parsed ``policies/<name>.toml``; an absent file is an empty policy (all defaults)."""
    path = POLICY_DIR / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="insecure-development-key")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])

REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
MONGODB_URL = env.str("MONGODB_URL", default="mongodb://127.0.0.1:27017/")
MONGODB_DATABASE = env.str("MONGODB_DATABASE", default="dlq")
REDIS_PREFIX = env.str("REDIS_PREFIX", default="dlq:")
DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'var' / 'db.sqlite3'}")}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "management",
    "django_rq",
    "dlqsite",
    "messages_app",
    "dlq_app",
    "breaker_app",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]

_LANES = ("high", "normal", "low", "alone")
RQ_QUEUES = {
    name: {"URL": REDIS_URL, "DEFAULT_TIMEOUT": 3600, "SERIALIZER": "rq.serializers.JSONSerializer"} for name in _LANES
}
RQ = {"COMMIT_MODE": "auto"}

#: Answers ``dlq_app.ports.IntakePort``.
DLQ_RESUBMIT = "messages_app.services.IntakePort"

RETRY_POLICY = policy("retry")
BREAKER_POLICY = policy("breaker")
REPLAY_POLICY = policy("replay")
DELIVERY_POLICY = policy("delivery")
MASKING_POLICY = policy("masking")
