"""Reject uploaded files, so that clients cannot fill the disk of the web server."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadhandler import FileUploadHandler


class FileRefused(SuspiciousOperation):
    """A form came with a file; answered with 400."""


class NoFiles(FileUploadHandler):
    """Refuse a file before the first byte of it is kept. Letters are imported by REST, which reads no forms."""

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        raise FileRefused("This page takes no files.")

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes | None:
        raise FileRefused("This page takes no files.")

    def file_complete(self, file_size: int) -> None:
        return None
