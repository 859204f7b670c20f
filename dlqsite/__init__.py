"""The composition root: settings, URLs, policies, and what joins the apps. Nothing imports it."""

from processes.leaner import import_leaner

import_leaner()  # before the settings and the apps import Django's database and the drivers
