"""The WSGI entry point: the front door of intake, and Django behind it."""

from __future__ import annotations

import os
from importlib import import_module

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dlqsite.settings")
_django = get_wsgi_application()

from dlqsite.access import believed, known_client  # noqa: E402  # needs the apps that the line above loads
from dlqsite.checks import require_secret_key  # noqa: E402
from dlqsite.metrics.http import Timed  # noqa: E402
from messages_app.rest.front import Front  # noqa: E402
from messages_app.work.startup import refusal  # noqa: E402

require_secret_key()
if wrong := refusal():
    raise SystemExit(wrong)  # gunicorn shows it as it is and ends with 1
import_module("dlqsite.urls")  # not with the first request, and shared by all forked processes
application = Timed(believed(Front(_django, known_client)))
