"""Keeps secrets out of messages and logs.

Blob redirects carry signatures in their query, and both httpx (INFO) and httpcore (DEBUG) log URLs and headers; whoever
switches these logs on must not find a signature or a password in them (threats: signed URLs and tokens in logs).
"""

from __future__ import annotations

import logging
import re

import httpx

from ocifast.patterns import pattern

__all__ = ["redact", "shown_url"]

_QUERY = pattern(r"(https?://[^\s\"'<>?\\]+)\?[^\s\"'<>\\)]*", re.IGNORECASE)
_RELATIVE_QUERY = pattern(r"(/v2/[^\s\"'<>?\\]*|/[^\s\"'<>?\\]*)\?[^\s\"'<>\\)]+")
_USER_INFO = pattern(r"(https?://)[^\s/@\"']+@", re.IGNORECASE)
_AUTHORIZATION = pattern(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}")
_FIELDS = pattern(
    r"""(?ix) (["']? (?:password|secret|refresh_token|access_token|identitytoken|token|auth) ["']? \s* [:=] \s*) ["']?
        [^\s"',;&}]+ ["']?"""
)
_LOGGERS = (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.proxy",
    "httpcore.socks",
)


def redact(text: str) -> str:
    """The text without query strings of URLs, user names in URLs, Authorization values and fields of tokens."""
    text = _USER_INFO.sub(r"\1", text)
    text = _QUERY.sub(r"\1?…", text)
    text = _RELATIVE_QUERY.sub(r"\1?…", text)
    text = _AUTHORIZATION.sub(r"\1 …", text)
    return _FIELDS.sub(r"\1…", text)


def shown_url(url: httpx.URL) -> str:
    """A URL as messages show it: scheme, host, port and path."""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host}{port}{url.path}"


class _Redactor(logging.Filter):
    """Rewrites the records of the HTTP libraries; never drops one."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = redact(record.getMessage())
        record.args = None
        return True


def _install() -> None:
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(present, _Redactor) for present in logger.filters):
            logger.addFilter(_Redactor())


_install()
