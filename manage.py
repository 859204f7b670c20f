#!/usr/bin/env python3
"""Django's command line for this project."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dlqsite.settings")
    try:
        from django.core.management import execute_from_command_line
    except ModuleNotFoundError as error:
        sys.exit(f"{error}. Run `make up` once, then use .venv/bin/python manage.py, or install requirements.txt.")
    from dlqsite import extra_apps
    from dlqsite.policy_files import PolicyFileError

    try:
        execute_from_command_line(sys.argv)
    except PolicyFileError as error:
        sys.exit(str(error))
    except Exception as error:
        if wrong := extra_apps.failure(error):
            sys.exit(wrong)
        raise


if __name__ == "__main__":
    main()
