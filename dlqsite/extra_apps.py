"""Apps of ``EXTRA_APPS``: what is wrong with one that cannot be loaded, and which one it is."""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


def failure(error: BaseException) -> str:
    """Why the apps could not be loaded, with the app's name; empty if no app of ``EXTRA_APPS`` is the cause.

    ``error``: what ``django.setup()`` raised.
    """
    if not settings.configured or apps.ready:
        return ""  # the settings are the fault, or the error came later
    for entry in settings.EXTRA_APPS:
        try:
            folder = Path(AppConfig.create(entry).path)
        except Exception as wrong:
            return _sentence(entry, wrong, _where(wrong, None) if not _is_missing(entry, wrong) else "")
        if where := _where(error, folder):
            return _sentence(entry, error, where)
    if settings.EXTRA_APPS and isinstance(error, ImproperlyConfigured):
        return f"EXTRA_APPS = {','.join(settings.EXTRA_APPS)}: {error}"  # such as a name that is taken
    return ""


def _is_missing(entry: str, error: BaseException) -> bool:
    return isinstance(error, ModuleNotFoundError) and f"{entry}.".startswith(f"{error.name}.")


def _sentence(entry: str, error: BaseException, where: str) -> str:
    text = f"EXTRA_APPS: {entry} cannot be loaded: {type(error).__name__}: {error}"
    if _is_missing(entry, error):
        return f"{text}. Install the package into this environment, or add its parent folder to PYTHONPATH."
    return f"{text}{where and f' ({where})'}"


def _where(error: BaseException, folder: Path | None) -> str:
    """File and line of an error: the innermost frame in ``folder``, or of all; empty if there is none."""
    if isinstance(error, SyntaxError):  # its text names the line
        inside = folder is None or (error.filename and Path(error.filename).is_relative_to(folder))
        return str(error.filename) if inside else ""
    frames = [(frame.filename, frame.lineno) for frame in extract_tb(error.__traceback__)]
    found = [at for at in frames if folder is None or Path(at[0]).is_relative_to(folder)]
    return f"{found[-1][0]}, line {found[-1][1]}" if found else ""
