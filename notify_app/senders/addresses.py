"""Whether the variables that a recipient names can be used."""

from __future__ import annotations

import os

from messages_app.domain import signing
from messages_app.domain.addresses import UrlRefused, parse_url
from messages_app.domain.signing import SecretRefused
from notify_app import conf
from notify_app.domain.policy import WEBHOOK, Recipient
from notify_app.senders import by_apprise


def problems(recipient: Recipient) -> list[str]:
    """What is wrong with the variables of a recipient, without their values; empty if it can be used."""
    where = f"{conf.policy().file} [recipients.{recipient.name}]"
    wrong = [_url_problem(recipient), *map(_secret_problem, recipient.secrets)]
    return [f"{where}: {one}." for one in wrong if one]


def _url_problem(recipient: Recipient) -> str:
    url = conf.address(recipient)
    if not url:
        return f"the environment variable {recipient.url_env} is not set"
    if recipient.channel != WEBHOOK:
        why = by_apprise.problem(url)
        return f"the URL in {recipient.url_env} {why}" if why else ""
    try:
        parse_url(url)
    except UrlRefused as error:
        return f"the URL in {recipient.url_env} {error}"
    return ""


def _secret_problem(variable: str) -> str:
    secret = os.environ.get(variable, "")
    try:
        signing.key_of(secret)
    except SecretRefused as error:
        return f"the environment variable {variable} {error if secret else 'is not set'}"
    return ""
