"""What is asked of a registry besides images: tags, deletion, and whether a credential is taken."""

from __future__ import annotations

import httpx
import msgspec

from ocifast.errors import ImageNotFoundError, RegistryError, UsageError
from ocifast.models import readable
from ocifast.reference import Reference
from ocifast.sources.registry.client import Client
from ocifast.sources.registry.hops import next_page
from ocifast.sources.registry.hosts import push_endpoint
from ocifast.sources.registry.options import RegistryOptions

__all__ = ["check_login", "delete_manifest", "list_tags"]

_PAGE_LIMIT = 4 << 20
_PAGES = 10_000
_LIST_LIMIT = 128 << 20
"""Most bytes of all pages of a list of tags, some millions of tags: a list that never ends fills no memory."""


@readable
class _Tags(msgspec.Struct):
    tags: list[str] | None = None


def list_tags(reference: Reference, options: RegistryOptions | None = None, *, pages: int | None = None) -> list[str]:
    """All tags of a repository, in the registry's order, however many pages they take.

    Args:
        reference: of which only host and repository count.
        options: how to speak to the registry.
        pages: ends after so many, with the tags that they have; None goes on to the last one.

    Raises:
        ImageNotFoundError: no such repository.
        RegistryError and its kinds.
    """
    client, repository = _client(reference, options)
    try:
        tags: dict[str, None] = {}
        target: str | httpx.URL = f"/v2/{repository}/tags/list?n=1000"
        seen: set[str] = set()
        total = 0
        for number in range(_PAGES):
            response, body = client.get(
                target,
                limit=_PAGE_LIMIT + 1,
                name=reference.name,
                what="list tags",
                scopes=(f"repository:{repository}:pull",),
                expected=(200, 404),
            )
            if response.status_code == 404:
                raise ImageNotFoundError(
                    f"{reference.name}: no such repository; check its name, and log in if it is private",
                    reference=reference.name,
                )
            page = _decode(reference.name, body)
            total += len(body)
            if total > _LIST_LIMIT:
                raise RegistryError(
                    f"{reference.name}: the list of tags is longer than {_LIST_LIMIT >> 20} MiB,"
                    f" after {len(tags)} tags",
                    reference=reference.name,
                )
            tags.update(dict.fromkeys(page))
            following = next_page(reference.name, response, client.options)
            if following is None or number + 1 == pages:
                return list(tags)
            if str(following) in seen:
                break
            seen.add(str(following))
            target = following
        raise RegistryError(f"{reference.name}: the list of tags does not end", reference=reference.name)
    finally:
        client.close()


def delete_manifest(reference: Reference, options: RegistryOptions | None = None) -> None:
    """Deletes a manifest, and with it all tags that name it.

    Args:
        reference: must have a digest: a tag says nothing about what would be lost.
        options: how to speak to the registry.

    Raises:
        UsageError: no digest.
        ImageNotFoundError: no such manifest.
        RegistryError and its kinds.
    """
    if reference.digest is None:
        raise UsageError(f"{reference}: only a digest can be deleted; write {reference.name}@sha256:…")
    name = str(reference)
    client, repository = _client(reference, options)
    try:
        response = client.send(
            "DELETE",
            f"/v2/{repository}/manifests/{reference.digest}",
            name=name,
            what="delete the manifest",
            scopes=(f"repository:{repository}:delete,pull",),
            expected=(200, 202, 204, 404, 405),
        )
        response.close()
        if response.status_code == 404:
            raise ImageNotFoundError(f"{name}: not found, nothing was deleted", reference=name)
        if response.status_code == 405:
            raise RegistryError(f"{name}: the registry does not allow deletion", reference=name)
    finally:
        client.close()


def check_login(host: str, options: RegistryOptions) -> bool:
    """Asks a registry for nothing but its welcome, with the credential of the options.

    Returns:
        Whether the registry took the credential; False: it asks nobody for one, so that nothing was checked.

    Raises:
        AuthenticationError: the credential is refused.
        RegistryError: it is no registry.
    """
    client, _ = _client(Reference(host, ""), options)
    try:
        response = client.send("GET", "/v2/", name=host, what="log in", expected=(200,))
        media_type = response.headers.get("Content-Type", "")
        response.close()
        if media_type.startswith("text/html"):
            raise RegistryError(f"{host} is no registry: it answers with a page; check its name and port", host=host)
        return "Authorization" in response.request.headers
    finally:
        client.close()


def _client(reference: Reference, options: RegistryOptions | None) -> tuple[Client, str]:
    """A client of the registry itself, whatever mirrors there are, and the repository's path there."""
    endpoint = push_endpoint(reference, options if options is not None else RegistryOptions())
    client = Client(endpoint.host, endpoint.repository or None, endpoint.options, registry=endpoint.registry)
    return client, endpoint.repository


def _decode(name: str, body: bytes) -> list[str]:
    if len(body) > _PAGE_LIMIT:
        raise RegistryError(f"{name}: a page of its tags is longer than {_PAGE_LIMIT >> 20} MiB", reference=name)
    try:
        return msgspec.json.decode(body, type=_Tags).tags or []
    except (msgspec.MsgspecError, RecursionError):
        raise RegistryError(f"{name}: what the registry sends is no list of tags", reference=name) from None
