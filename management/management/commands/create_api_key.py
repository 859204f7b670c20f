"""Make an API key and show it, this once."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from audit_app.lines import record
from dlqsite.models import SCOPES, ApiKey
from management.terminal import actor
from wire.visible_text import one_line


class Command(BaseCommand):
    help = "Create an API key. It is shown once: only its hash is stored."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="Owner of the key; also the default source of its messages")
        parser.add_argument(
            "--scope",
            action="append",
            dest="scopes",
            choices=SCOPES,
            metavar="SCOPE",
            help=f"Scope of the key, repeatable: {', '.join(SCOPES)} (admin implies all)",
        )
        parser.add_argument("--rate", type=int, metavar="N", help="Submissions per 60 s; 0 for no limit")
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        scopes = list(dict.fromkeys(options["scopes"] or []))
        draft = ApiKey(name=options["name"], scopes=scopes, rate_limit_per_minute=options["rate"])
        try:
            draft.clean_fields(exclude=["id", "prefix", "hashed_key"])
        except ValidationError as error:
            told = "; ".join(f"{name}: {' '.join(messages)}" for name, messages in error.message_dict.items())
            raise CommandError(f"{told} (for example --scope submit --scope read)") from error
        key = ApiKey.objects.assign_key(draft)
        draft.save()
        what = f"API key made for {', '.join(scopes)}"
        record(actor(), what, kind="apikey", object_id=draft.prefix, name=draft.name)
        if options["as_json"]:
            said = {"name": draft.name, "prefix": draft.prefix, "scopes": scopes, "apiKey": key}
            self.stdout.write(json.dumps(said))
            return
        self.stdout.write(key)
        self.stderr.write(
            f"Key of {one_line(draft.name)} for {', '.join(scopes)}. Save it now: it cannot be shown again."
        )
