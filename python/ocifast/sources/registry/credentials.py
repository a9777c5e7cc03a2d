"""Where a registry's credential comes from.

In this order: the caller's options; `$REGISTRY_AUTH_FILE` alone when it is set; else `$DOCKER_CONFIG/config.json`,
`$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json` and `~/.docker/config.json`. In a file a
helper for the host (`credHelpers`) comes before the helper for all (`credsStore`) and that before `auths`. Helpers
speak Docker's credential helper protocol and are run by name, without a shell, with a timeout.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

from ocifast.errors import AuthenticationError, FileError, HelperError, UsageError
from ocifast.home import config_folder, home_folder
from ocifast.logs import logger
from ocifast.patterns import pattern
from ocifast.sources.registry.credential_file import HUB_KEY, CredentialFile, keys_for, normalise_key
from ocifast.sources.registry.options import Credential, RegistryOptions

__all__ = ["CredentialKeeper", "forget", "remember", "search_paths"]

_log = logger(__name__)

_HELPER_NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOKEN_USER = "<token>"  # noqa: S105 - the protocol's name for "the secret is an identity token"
_NOT_FOUND = b"credentials not found"


def search_paths(options: RegistryOptions) -> list[Path]:
    """The files that are looked into, in order."""
    if options.auth_file is not None:
        return [options.auth_file]
    if stated := os.environ.get("REGISTRY_AUTH_FILE"):
        return [Path(stated)]
    paths = []
    if docker := os.environ.get("DOCKER_CONFIG"):
        paths.append(Path(docker) / "config.json")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        paths.append(Path(runtime) / "containers/auth.json")
    if (configuration := config_folder()) is not None:
        paths.append(configuration / "containers/auth.json")
    if (home := home_folder()) is not None:
        paths.append(home / ".docker/config.json")
    return list(dict.fromkeys(paths))


class CredentialKeeper:
    """The credential of one repository of one registry. Safe to use from several threads."""

    def __init__(self, host: str, repository: str | None, options: RegistryOptions) -> None:
        """Args: `host` as in references, `repository` None for the registry as a whole."""
        self._host = normalise_key(host)
        self._repository = repository
        self._options = options
        self._lock = threading.Lock()
        self._found: Credential | None = None
        self._helper: tuple[str, str] | None = None
        self._looked = False
        self._missing: str | None = None
        self._stated = False

    @property
    def advice(self) -> str:
        """What to do when a credential is wanted and `get` found none."""
        if self._missing is not None:
            return f"install {self._missing}, which is configured for it"
        return f"use `ocifast login {self._host}`"

    @property
    def advice_when_refused(self) -> str | None:
        """What to do when the credential is not taken; None when there is none. Never what was just done."""
        credential = self.get()
        if credential is None:
            return None
        if self._stated:
            return f"check {'the identity token' if credential.identity_token else 'the user name and the password'}"
        if self._helper is not None:
            return f"look at what {_program(self._helper[0])} gives for {self._helper[1]}"
        return f"log in anew with `ocifast login {self._host}`"

    def get(self) -> Credential | None:
        """The credential; None when there is none. Looked up once.

        Raises:
            FileError: a file is damaged.
            AuthenticationError: a helper failed.
        """
        with self._lock:
            if not self._looked:
                self._found = self._look()
                self._looked = True
            return self._found

    def again(self) -> Credential | None:
        """What the helper answers now, when the credential came from one and is another now; else None.

        Helpers of clouds hand out passwords that end after hours.
        """
        with self._lock:
            if self._helper is None:
                return None
            fresh = _ask_helper(*self._helper, self._options.helper_timeout)
            if fresh is None or fresh == self._found:
                return None
            self._found = fresh
            return fresh

    def rotate(self, identity_token: str) -> None:
        """Takes the identity token that a token server gave in place of the one that it was shown."""
        with self._lock:
            if self._found is not None and self._found.identity_token:
                self._found = replace(self._found, identity_token=identity_token)

    def _look(self) -> Credential | None:
        if self._options.anonymous:
            return None
        for host, credential in self._options.credentials.items():
            if normalise_key(host) == self._host:
                self._stated = True
                return credential
        keys = keys_for(self._host, self._repository)
        for path in search_paths(self._options):
            file = CredentialFile.read(path)
            found = self._look_into(file, keys)
            if found is not None:
                return found
        return None

    def _look_into(self, file: CredentialFile, keys: list[str]) -> Credential | None:
        helpers = [(helper, key) for key in keys if (helper := file.helper_for(key))]
        if file.store:
            helpers.append((file.store, self._host))
        for helper, key in helpers:
            if _is_missing(helper):
                # An error only where a credential is demanded: what is public needs none.
                self._missing = self._missing or _program(helper)
                continue
            found = _ask_helper(helper, key, self._options.helper_timeout)
            if found is not None:
                self._helper = (helper, key)
                return found
        return next((found for key in keys if (found := file.credential(key)) is not None), None)


def remember(host: str, credential: Credential, options: RegistryOptions) -> str:
    """Keeps a credential for a host; returns where: a path or the name of a helper.

    Raises:
        FileError, AuthenticationError.
    """
    key = normalise_key(host)
    file = CredentialFile.read(_login_path(options))
    helper = file.helper_for(key) or file.store
    if helper is None:
        CredentialFile.change(file.path, key, credential)
        return str(file.path)
    secret = credential.identity_token or credential.password
    username = _TOKEN_USER if credential.identity_token else credential.username
    message = {"ServerURL": _server_url(key), "Username": username, "Secret": secret}
    _run_helper(helper, "store", json.dumps(message).encode(), options.helper_timeout)
    return _program(helper)


def forget(host: str, options: RegistryOptions) -> list[str]:
    """Removes a host's credential wherever it is kept; returns the places.

    Raises:
        FileError, AuthenticationError.
    """
    key = normalise_key(host)
    places = []
    for path in dict.fromkeys([*search_paths(options), _login_path(options)]):
        file = CredentialFile.read(path)
        helper = file.helper_for(key) or file.store
        if helper is not None and _ask_helper(helper, key, options.helper_timeout) is not None:
            _run_helper(helper, "erase", _server_url(key).encode(), options.helper_timeout)
            places.append(_program(helper))
        if file.credential(key) is not None:
            CredentialFile.change(path, key, None)
            places.append(str(path))
    return places


def _login_path(options: RegistryOptions) -> Path:
    """Docker's file unless another one is named: all tools look there."""
    if options.auth_file is not None:
        return options.auth_file
    if stated := os.environ.get("REGISTRY_AUTH_FILE"):
        return Path(stated)
    if folder := os.environ.get("DOCKER_CONFIG"):
        return Path(folder, "config.json")
    home = home_folder()
    if home is None:
        raise FileError("there is no home to keep credentials in: name a file (--auth-file, or REGISTRY_AUTH_FILE)")
    return home / ".docker/config.json"


def _server_url(key: str) -> str:
    return HUB_KEY if key == "docker.io" else key


def _program(helper: str) -> str:
    if not _HELPER_NAME.fullmatch(helper):
        raise UsageError(f"{helper!r} is not the name of a credential helper: letters, digits, '.', '_' and '-'")
    return f"docker-credential-{helper}"


def _run_helper(helper: str, action: str, message: bytes, timeout: float) -> bytes:
    # Not imported before it is needed: most credentials stand in files, or there are none.
    from ocifast.process import run_helper

    program = _program(helper)
    try:
        return run_helper([program, action], message, timeout)
    except HelperError as error:
        if action == "get" and _NOT_FOUND in error.output.lower():
            return b""
        # What a helper wrote may be the secret itself; what it did is enough to go on.
        raise AuthenticationError(f"{error.message}; it was asked to {action} a credential", helper=program) from None


def _is_missing(helper: str) -> bool:
    from ocifast.process import find_tool

    program = _program(helper)
    if find_tool(program) is not None:
        return False
    _log.info("%s is not installed; no credential is taken from it", program)
    return True


def _ask_helper(helper: str, key: str, timeout: float) -> Credential | None:
    if _is_missing(helper):
        return None
    answer = _run_helper(helper, "get", _server_url(key).encode(), timeout)
    if not answer.strip():
        return None
    try:
        fields = json.loads(answer)
        username, secret = str(fields["Username"]), str(fields["Secret"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AuthenticationError(f"the answer of {_program(helper)} is not a credential", helper=helper) from None
    if not secret:
        return None
    if username == _TOKEN_USER:
        return Credential(identity_token=secret)
    return Credential(username, secret)
