"""What must be true before the roles start: each step looks first and does nothing when nothing is to be done."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.staticfiles.finders import get_finders
from django.contrib.staticfiles.management.commands.collectstatic import Command as CollectStatic
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import Error as DatabaseError
from django.db import connection as database_connection
from django.db.migrations.executor import MigrationExecutor
from whitenoise.storage import CompressedManifestStaticFilesStorage

from audit_app.lines import record
from audit_app.models import AuditLine
from dlqsite.models import SCOPES, ApiKey
from management.data_directory import write_private
from management.stack import ADMIN_USER
from management.terminal import actor
from management.user_lines import recorded_users
from wire.errors import ServiceError

KEY_NAME = "local"
#: Written beside the collected files: what they were collected from.
_STAMP = ".collected-from"
_OLD = ".replaced"


def require_safe_redis() -> str:
    """Refuse a Redis that cannot be used or could lose accepted messages. Raises CommandError with the fix.

    Returns what could not be checked, and what to do about it; empty when all of it was.
    """
    from messages_app.domain.errors import StoreUnavailable
    from messages_app.domain.redis_state import ALLOW_INFO, NOT_CHECKED
    from messages_app.store.ledger import ledger
    from messages_app.work.startup import refusal

    if wrong := refusal(patience_s=0):
        raise CommandError(wrong)
    try:
        info = ledger().server_info()
        problems = ledger().require_safe_redis(info)
    except StoreUnavailable as error:
        raise CommandError(f"{error} Start Redis, or set REDIS_URL.") from error
    if problems:
        raise CommandError(" ".join(f"{problem.what} {problem.fix}" for problem in problems))
    return "" if info else f"{NOT_CHECKED} {ALLOW_INFO}"


def ensure_indexes() -> None:
    """Build what is missing in MongoDB. Raises CommandError when that cannot be."""
    from dlq_app.domain.errors import StoreUnavailable
    from dlq_app.services import dead_letters

    try:
        dead_letters.build_indexes()
    except StoreUnavailable as error:
        raise CommandError(f"{error} Start MongoDB, or set MONGODB_URL.") from error
    except ServiceError as error:
        raise CommandError(str(error)) from error


def unprepared() -> str:
    """What `prepare` has yet to do before roles may start, or why that is unknown; empty when nothing is left."""
    from dlq_app.store import indexes, mongo

    try:
        executor = MigrationExecutor(database_connection)
        if plan := executor.migration_plan(executor.loader.graph.leaf_nodes()):
            return f"{len(plan)} migrations are not applied"
        missing = indexes.missing(mongo.database())
    except (DatabaseError, ServiceError) as error:
        database_connection.close()  # the next look begins with a new one
        return str(error) or type(error).__name__
    return f"indexes are missing in MongoDB: {', '.join(missing)}" if missing else ""


def collect_static_files() -> int:
    """Collect into STATIC_ROOT unless that was done from the very same files. Returns how many were copied.

    They are collected beside it and put in its place at the end, so nobody sees half of them and nothing old stays.
    """
    root = Path(settings.STATIC_ROOT)
    wanted = _fingerprint()
    stamp = root / _STAMP
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted and (root / "staticfiles.json").is_file():
        return 0
    draft = root.with_name(f"{root.name}.{os.getpid()}")
    command = CollectStatic()
    # The settings serve straight from the apps until the manifest is there, so the storage is named here.
    command.storage = CompressedManifestStaticFilesStorage(location=str(draft))
    # They hold nothing private, and another user of this checkout or a proxy may serve them.
    before = os.umask(0o022)
    try:
        call_command(command, interactive=False, verbosity=0)
        (draft / _STAMP).write_text(wanted, encoding="ascii")
        if root.exists():
            root.rename(draft / _OLD)
        with suppress(OSError):  # somebody else, who prepares at the same time, was quicker
            draft.rename(root)
    finally:
        os.umask(before)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(root / _OLD, ignore_errors=True)
    return len(command.copied_files)


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for finder in get_finders():
        for path, storage in finder.list([]):
            found = Path(storage.path(path)).stat()
            digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def record_policies() -> None:
    """Add a line to the audit log for each policy whose file has changed since the last run."""
    files = {name: settings.POLICIES.file(name) for name in settings.POLICIES.names}
    files |= {
        "sign_in": settings.SIGN_IN_POLICY_FILE,
        "delivery": settings.DELIVERY_POLICY_FILE,
        "notify": settings.NOTIFY_POLICY_FILE,
    }
    for name, file in files.items():
        try:
            digest = hashlib.sha256((settings.BASE_DIR / file).read_bytes()).hexdigest()[:12]
        except OSError:
            continue  # the checks name it
        # The digest is in the id: texts are masked, and look-ups by id are indexed.
        version = f"{name}@{digest}"
        last = AuditLine.objects.filter(kind="policy", object_id__startswith=f"{name}@").order_by("-at", "-pk").first()
        if last is None or last.object_id != version:
            what = "policy changed" if last else "policy in use"
            record(actor(), what, kind="policy", object_id=version, name=str(file))


def ensure_credentials(path: Path) -> None:
    """Keep in ``path`` a key with every scope, and the first administrator's password while it is the generated one."""
    held: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = dict(held)
    if not ApiKey.objects.is_valid(kept.get("apiKey", "")):
        key, kept["apiKey"] = ApiKey.objects.create_key(name=KEY_NAME, scopes=list(SCOPES))
        what = f"API key made for {', '.join(SCOPES)}"
        record(actor(), what, kind="apikey", object_id=key.prefix, name=KEY_NAME)
    users = get_user_model().objects
    if not users.filter(is_superuser=True).exists():
        kept["adminUser"], kept["adminPassword"] = ADMIN_USER, secrets.token_urlsafe(12)
        with recorded_users():
            users.create_superuser(kept["adminUser"], password=kept["adminPassword"])
    elif "adminPassword" in kept and not _still_generated(kept):
        del kept["adminPassword"]
    if kept != held:
        write_private(path, json.dumps(kept, indent=2) + "\n")


def _still_generated(credentials: dict[str, str]) -> bool:
    user = User.objects.filter(username=credentials.get("adminUser", ADMIN_USER)).first()
    return user is not None and user.check_password(credentials["adminPassword"])


def ensure_named_administrator() -> None:
    """Create the administrator that the environment names, if there is none yet and it names one."""
    name, password = os.environ.get("DJANGO_SUPERUSER_USERNAME"), os.environ.get("DJANGO_SUPERUSER_PASSWORD")
    users = get_user_model().objects
    if name and password and not users.filter(is_superuser=True).exists():
        with recorded_users():
            users.create_superuser(name, email=os.environ.get("DJANGO_SUPERUSER_EMAIL", ""), password=password)
