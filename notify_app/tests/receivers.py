"""A real SMTP server on loopback, and policies for tests."""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
from email.message import EmailMessage
from typing import Any

from django.test.utils import override_settings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def policy(**tables: Any) -> override_settings:
    """The settings with this policy."""
    return override_settings(NOTIFY_POLICY=tables, NOTIFY_POLICY_PROBLEM="", CONSOLE_URL="https://dlq.example.org")


def a_recipient(**changes: Any) -> dict[str, Any]:
    """A table of ``[recipients]``: a webhook."""
    return {"channel": "webhook", "url_env": "HOOK_URL", "secrets": ["HOOK_SECRET"], **changes}


class Smtp:
    """Accepts e-mails from ``with`` on. ``reply_to_data``: the answer to the end of an e-mail; empty: hangs up."""

    def __init__(self, reply_to_data: str = "250 accepted") -> None:
        self.reply_to_data = reply_to_data
        self.mails: list[EmailMessage] = []

    def __enter__(self) -> Smtp:
        smtp = self

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say("220 test")
                while line := self.rfile.readline().decode("ascii", "replace").strip():
                    verb = line.split(" ")[0].upper()
                    if verb == "DATA":
                        self._say("354 go on")
                        if not self._take():
                            return
                    elif verb == "QUIT":
                        self._say("221 bye")
                        return
                    else:
                        self._say("250 test" if verb in ("EHLO", "HELO", "MAIL", "RCPT", "RSET", "NOOP") else "502 no")

            def _take(self) -> bool:
                lines = []
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(line[1:] if line.startswith(b"..") else line)
                parsed = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
                assert isinstance(parsed, EmailMessage)
                smtp.mails.append(parsed)
                if smtp.reply_to_data:
                    self._say(smtp.reply_to_data)
                return bool(smtp.reply_to_data)

            def _say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"mailto://127.0.0.1:{self.port}/ops@example.org?from=dlq@example.org&mode=insecure"


def text_of(mail: EmailMessage) -> str:
    """The plain text of an e-mail."""
    part = mail.get_body(("plain",))
    assert part is not None
    return str(part.get_content())
