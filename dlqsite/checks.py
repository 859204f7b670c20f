"""System checks of the site's settings, each with a fix."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import ERROR, CheckMessage, Error, Warning, register, run_checks
from django.core.exceptions import ImproperlyConfigured

from console import trace_links
from dlqsite.sign_in import policy
from wire.errors import PolicyError

KEY_FIX = (
    "Set SECRET_KEY to 50 or more random characters, e.g. from "
    "`python -c 'import secrets; print(secrets.token_urlsafe(50))'`, "
    "or DATA_DIR to the directory in which `make up` keeps one."
)

TRACES_HINT = "Set OTEL_EXPORTER_OTLP_ENDPOINT to the collector's address, such as http://collector:4318."

ENVIRONMENTS = ("local", "staging", "production")


def secret_key_problem() -> str | None:
    """What is wrong with the secret key, None when it may be used."""
    try:
        key = settings.SECRET_KEY
    except ImproperlyConfigured:
        return "SECRET_KEY is not set and DEBUG is off."
    if not settings.DEBUG and (key.startswith("insecure-") or len(key) < 32):
        return "SECRET_KEY is too weak to serve with and DEBUG is off."
    return None


def require_secret_key() -> None:
    """Refuse to serve without a proper key; servers do not run the system checks, so they ask here."""
    wrong = secret_key_problem()
    if wrong:
        raise ImproperlyConfigured(f"{wrong} {KEY_FIX}")


def settings_problems() -> list[str]:
    """What is wrong with settings and policies, each with its fix. Web servers ask here; commands ask Django."""
    return [f"{found.msg} ({found.id}) {found.hint or ''}".strip() for found in run_checks() if found.level >= ERROR]


@register
def check_secret_key(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    wrong = secret_key_problem()
    return [Error(wrong, hint=KEY_FIX, id="dlqsite.E001")] if wrong else []


@register
def check_trusted_proxies(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for entry in settings.TRUSTED_PROXIES:
        try:
            if entry != "unix":
                ipaddress.ip_network(entry, strict=False)
        except ValueError:
            found.append(
                Error(
                    f"TRUSTED_PROXIES holds {entry!r}, which is no address or network.",
                    hint="Use a comma-separated list like 10.0.0.0/8,192.168.1.7, or unix for a proxy on a socket.",
                    id="dlqsite.E002",
                )
            )
    return found


@register
def check_rate_limits(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            f"{name} is {getattr(settings, name)}.", hint="Use 0 for no limit, or a positive number.", id="dlqsite.E003"
        )
        for name in ("RATE_LIMIT_PER_MINUTE", "READ_RATE_LIMIT_PER_MINUTE")
        if getattr(settings, name) < 0
    ]


@register
def check_audit_retention(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    days = settings.AUDIT_KEEP_DAYS
    if 0 <= days <= 36_500:
        return []
    hint = "Use the number of days for which lines of the audit log are kept, 1 to 36500, or 0: for ever."
    return [Error(f"AUDIT_KEEP_DAYS is {days}.", hint=hint, id="dlqsite.E010")]


@register
def check_approval_size(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    if settings.DLQ_APPROVAL_SIZE >= 0:
        return []
    hint = "Use the number of letters that an operator may start within an hour; 0: every batch needs an administrator."
    return [Error(f"DLQ_APPROVAL_SIZE is {settings.DLQ_APPROVAL_SIZE}.", hint=hint, id="dlqsite.E005")]


@register
def check_tracing(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """E007: a variable of OpenTelemetry. E008: the link to traces. E009: the address for errors."""
    found: list[CheckMessage] = []
    if settings.TRACING_PROBLEM:
        found.append(Error(settings.TRACING_PROBLEM, hint=TRACES_HINT, id="dlqsite.E007"))
    if wrong := trace_links.template_problem(settings.TRACE_URL_TEMPLATE):
        hint = "Use the address of a trace, such as https://tracing.example.org/trace/{trace_id}, or leave it empty."
        found.append(Error(wrong, hint=hint, id="dlqsite.E008"))
    if settings.SENTRY_PROBLEM:
        found.append(Error(settings.SENTRY_PROBLEM, hint="Copy the DSN of the project.", id="dlqsite.E009"))
    return found


@register
def check_log_format(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    if settings.LOG_FORMAT in ("json", "console"):
        return []
    return [Error(f"LOG_FORMAT is {settings.LOG_FORMAT!r}.", hint="Use json or console.", id="dlqsite.E004")]


@register
def check_environment(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    if settings.ENVIRONMENT in ENVIRONMENTS:
        return []
    return [
        Error(f"ENVIRONMENT is {settings.ENVIRONMENT!r}.", hint="Use local, staging or production.", id="dlqsite.E006")
    ]


@register
def check_sign_in(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """``dlqsite.E011`` to ``E014``, and ``W001`` if no group of the identity provider has a role."""
    found: list[CheckMessage] = []
    try:
        has_roles = policy.sign_in_policy().has_roles
    except PolicyError as error:
        hint = f"Correct {settings.SIGN_IN_POLICY_FILE}: its comments say what each key means."
        return [Error(error.detail, hint=hint, id="dlqsite.E011")]
    if not settings.OIDC_ISSUER:
        if not settings.LOCAL_SIGN_IN:
            hint = "Set OIDC_ISSUER, OIDC_CLIENT_ID and OIDC_CLIENT_SECRET, or remove LOCAL_SIGN_IN."
            found.append(Error("LOCAL_SIGN_IN is off without OIDC_ISSUER.", hint=hint, id="dlqsite.E014"))
        return found
    if wrong := policy.issuer_problem():
        hint = "Use the issuer of the provider's discovery document, such as https://login.example.org/realms/staff."
        found.append(Error(f"OIDC_ISSUER: {wrong}", hint=hint, id="dlqsite.E012"))
    found += [
        Error(f"{name} is empty, but OIDC_ISSUER is set.", hint="Copy it from the provider.", id="dlqsite.E013")
        for name in ("OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET", "OIDC_NAME", "OIDC_GROUPS_CLAIM")
        if not getattr(settings, name)
    ]
    if "openid" not in settings.OIDC_SCOPES.split():
        hint = "Use a list separated by spaces, such as openid profile email groups."
        found.append(Error("OIDC_SCOPES does not contain openid.", hint=hint, id="dlqsite.E013"))
    if not has_roles:
        hint = f"Name groups in {settings.SIGN_IN_POLICY_FILE}, or in the file that SIGN_IN_POLICY names."
        found.append(
            Warning(
                "No group of the identity provider has a role, so no one can sign in with it.",
                hint=hint,
                id="dlqsite.W001",
            )
        )
    return found


@register
def check_backup_age(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    if 0 <= settings.BACKUP_MAX_AGE_H < float("inf"):
        return []
    hint = "Use the hours after which a backup is too old, such as 26; 0: backups are not checked."
    return [Error(f"BACKUP_MAX_AGE_H is {settings.BACKUP_MAX_AGE_H}.", hint=hint, id="dlqsite.E020")]
