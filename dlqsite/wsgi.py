"""The WSGI entry point: the front door of intake, and Django behind it."""

from __future__ import annotations

import os
from importlib import import_module

from django.core.wsgi import get_wsgi_application

from dlqsite import extra_apps
from dlqsite.policy_files import PolicyFileError

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dlqsite.settings")
try:
    _django = get_wsgi_application()
except PolicyFileError as error:
    raise SystemExit(str(error)) from None
except Exception as error:
    if wrong := extra_apps.failure(error):
        raise SystemExit(wrong) from None
    raise

from dlqsite.access import believed, known_client  # needs the apps that the line above loads
from dlqsite.checks import require_secret_key, settings_problems
from dlqsite.metrics.http import Timed
from messages_app.rest.front import Front
from messages_app.work.startup import refusal

require_secret_key()
if wrong := refusal():
    raise SystemExit(wrong)  # gunicorn shows it as it is and ends with 1
import_module("dlqsite.urls")  # not with the first request, and shared by all forked processes
if problems := settings_problems():
    raise SystemExit("\n".join(problems))
application = Timed(believed(Front(_django, known_client)))
