"""Buckets and web servers behind URLs, by way of obstore: list, describe, read, write and delete what is in them.

A bucket has no folders. What the keys of its objects have in common, up to a slash, is taken for one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from .errors import InputError, StopError, TopnineError, first_line

WEB = ("http", "https")
SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", *WEB)
MISSING_EXTRA = "URLs need the extra s3: pip install 'topnine[s3]'."

# Variables of which another value makes another client. The others that obstore reads are read once.
VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_SKIP_SIGNATURE",
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_MAX_ATTEMPTS",
)  # fmt: skip

# A request that fails is sent again after a pause. So a server that is gone is given up after about half a minute.
ATTEMPTS = 11
FIRST_PAUSE = timedelta(seconds=0.2)
LONGEST_PAUSE = timedelta(seconds=15)
PAUSE_BASE = 3  # the next pause is drawn between the first one and three times the last one
RETRIED_FOR = timedelta(minutes=3)
CONNECT_TIMEOUT = "10s"
READ_TIMEOUT = "60s"  # without a byte
REQUEST_TIMEOUT = "30m"  # to the last byte: a slow line may carry hundreds of answers side by side
IDLE_CONNECTIONS = "1000"

CREATE_ATTEMPTS = 2  # where no answer comes; obstore itself repeats only what may be done twice
DELETED_AT_ONCE = 1000
WILDCARD = re.compile(r"[*?\[]")

# What servers answer to a key or a token that they will not accept again.
REFUSED = ("ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired")

Found = tuple[str, int, float, bool]  # URL, size in bytes, time of modification in s since 1970, whether it is a folder


def connect(url: str, write: bool = False) -> tuple[Any, str]:
    """Return the client of a URL's bucket, of which a process has one, and the key in the bucket.

    Raises
    ------
    InputError
        The URL cannot be opened, or cannot be written to.
    """
    base, key = _split(url)
    return _connect(base, "", write), key


def connect_folder(url: str, write: bool = False) -> Any:
    """Return a client of a folder in a bucket, to which all its keys are relative; InputError as ``connect``."""
    return _connect(*_split(url), write)


def describe(url: str) -> Found | None:
    """Return what is at a URL, None if there is nothing."""
    base, key = _split(url)
    with suppress(FileNotFoundError):
        if key:
            return _describe_object(url)
    if key and base.startswith(WEB):
        return None
    with suppress(FileNotFoundError):
        if _holds_objects(url) or not key:
            return url.rstrip("/"), 0, 0.0, True
    return None


def iterate_folder(url: str) -> Iterator[Found]:
    """Yield the objects and folders that are directly in a folder."""
    import obstore

    base, folder = _split(url)
    client, _ = _connect_to_list(url)
    with os_errors(url):
        listing = obstore.list_with_delimiter(client, folder or None)
    yield from ((f"{base}/{key}", 0, 0.0, True) for key in listing["common_prefixes"] if key != folder)
    yield from (_found(f"{base}/{info['path']}", info) for info in listing["objects"] if info["path"] != folder)


def list_matching(pattern: str) -> list[str]:
    """List the URLs that match a pattern, of which ``*`` and ``?`` match no slash."""
    base, key = _split(pattern)
    parts = key.split("/")
    fixed = next((at for at, part in enumerate(parts) if WILDCARD.search(part)), len(parts))
    if fixed == len(parts):
        return [pattern] if describe(pattern) else []
    urls = ["/".join([base, *parts[:fixed]])]
    for at, part in enumerate(parts[fixed:], fixed + 1):
        found = [inner for url in urls for inner in iterate_folder(url)]
        urls = [
            url for url, _, _, is_folder in found
            if fnmatchcase(url.rpartition("/")[2], part) and (is_folder or at == len(parts))
        ]  # fmt: skip
    return urls


def list_sizes(url: str) -> dict[str, int]:
    """List all objects in a folder and the folders in it: sizes in bytes by the paths below it."""
    import obstore

    client, folder = _connect_to_list(url)
    start = len(folder) + 1 if folder else 0
    with os_errors(url):
        infos = [info for some in obstore.list(client, folder or None, chunk_size=1000) for info in some]
    return {info["path"][start:]: info["size"] for info in infos if info["path"] != folder}


def read(url: str) -> bytes:
    """Return the content of an object."""
    import obstore

    client, key = connect(url)
    with os_errors(url):
        _check_key(key)
        return obstore.get(client, key).bytes().to_bytes()


def read_range(url: str, client: Any, key: str, offset: int, size: int) -> tuple[bytes, int]:
    """Return bytes of an object, which may be fewer than ``size``, and how many it has in all."""
    import obstore

    with os_errors(url):
        _check_key(key)
        answer = obstore.get(client, key, options={"range": (offset, offset + size)})
        return answer.bytes().to_bytes(), answer.meta["size"]


def write(url: str, content: bytes) -> None:
    """Write an object in place of any that is there."""
    import obstore

    client, key = connect(url, write=True)
    with os_errors(url):
        obstore.put(client, key, content)


def create(url: str, content: bytes) -> bool:
    """Write an object where none is; return False where there is one, or another request is just writing it.

    A request whose answer was lost is repeated and finds its own object, so the content has to tell callers apart.
    """
    import obstore

    client, key = connect(url, write=True)
    with os_errors(url):
        for attempts_left in reversed(range(CREATE_ATTEMPTS)):
            try:
                obstore.put(client, key, content, mode="create")
                return True
            except obstore.exceptions.AlreadyExistsError:
                return _holds(url, content)
            except obstore.exceptions.GenericError as error:
                if not attempts_left or _read_answer(error)[0]:
                    raise
    raise AssertionError("the last attempt returns or raises")


def delete(url: str) -> None:
    """Delete an object; FileNotFoundError from some servers where there is none."""
    import obstore

    client, key = connect(url, write=True)
    with os_errors(url):
        obstore.delete(client, key)


def delete_tree(url: str) -> None:
    """Delete all objects in a folder and the folders in it."""
    import obstore

    client, folder = connect(url, write=True)
    with os_errors(url):
        keys = [info["path"] for some in obstore.list(client, folder or None, chunk_size=1000) for info in some]
        for start in range(0, len(keys), DELETED_AT_ONCE):
            some = keys[start : start + DELETED_AT_ONCE]
            try:
                obstore.delete(client, some)
            except FileNotFoundError:  # another process deletes them, too, and this server minds
                for key in some:
                    with suppress(FileNotFoundError):
                        obstore.delete(client, key)


@contextmanager
def os_errors(url: str) -> Iterator[None]:
    """Raise OSError for whatever obstore raises, in one line; StopError where the server takes the keys no more.

    FileNotFoundError stands for what is not there, PermissionError for what the keys do not permit.
    """
    try:
        yield
    except (TopnineError, MemoryError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {url}") from None
    except OSError:
        raise
    except Exception as error:
        raise _translate(error, url) from error


def _translate(error: Exception, url: str) -> Exception:
    status, code, reason = _read_answer(error)
    if status == "401" or code in REFUSED:
        return StopError(
            f"{url} cannot be reached: its server refuses the credentials ({reason}). "
            "What is done is kept; with new credentials the same command goes on."
        )
    if status == "404":
        return FileNotFoundError(f"there is no {url} ({reason})")
    if status == "403":
        return PermissionError(f"{url} cannot be reached: its server does not permit it ({reason})")
    return OSError(f"{url} cannot be reached: {reason}")


def _read_answer(error: Exception) -> tuple[str, str, str]:
    """Return the status and the code of a server's answer, "" without one, and the reason as one line."""
    if not type(error).__module__.startswith("obstore"):
        return "", "", f"{type(error).__name__}: {first_line(error)}"
    text, _, details = str(error).partition("\n\nDebug source:")
    tries = f", tried {int(found[1]) + 1} times" if (found := re.search(r"after (\d+) retries", text)) else ""
    if answer := re.search(r"status code: (\d{3})([^:<\n]*)", text):
        code, message = (re.search(rf"<{tag}>\s*([^<]+?)\s*</{tag}>", text) for tag in ("Code", "Message"))
        parts = (answer[1] + answer[2].rstrip(), code and code[1], message and " ".join(message[1].split()))
        return answer[1], code[1] if code else "", ": ".join(filter(None, parts)).rstrip(".") + tries
    cause = re.search(r'message: "([^"]+)"', details)  # of the operating system
    reason = text.splitlines()[0].rpartition(" - ")[2].strip()
    hint = " Is AWS_REGION the region of the bucket?" if "redirect" in reason else ""
    return "", "", reason + (f" ({cause[1]})" if cause else "") + tries + hint


def _split(url: str) -> tuple[str, str]:
    """Return the part of a URL that names the bucket or the web server, and the key in it.

    >>> _split("s3://bucket/a/b%20c/"), _split("https://host/b%20c"), _split("gs://bucket")
    (('s3://bucket', 'a/b%20c'), ('https://host', 'b c'), ('gs://bucket', ''))
    """
    scheme, _, rest = url.partition("://")
    place, _, key = rest.partition("/")
    if scheme == "file":
        raise InputError(f"{url} cannot be opened: give the path, without file://.")
    if scheme not in SCHEMES or not place:
        raise InputError(f"{url} cannot be opened: URLs begin with {', '.join(f'{known}://' for known in SCHEMES)}.")
    if scheme in WEB and "?" in key:
        raise InputError(f"{url} cannot be opened: an address with a question mark is not supported.")
    return f"{scheme}://{place}", (unquote(key) if scheme in WEB else key).strip("/")


def _connect_to_list(url: str) -> tuple[Any, str]:
    if url.startswith(WEB):
        raise InputError(f"{url} cannot be listed, as a web server lists nothing: name each file.")
    return connect(url)


def _connect(base: str, folder: str, write: bool) -> Any:
    if write and base.startswith(WEB):
        raise InputError(f"{base} cannot be written to: what is behind http:// and https:// is only read.")
    if os.getpid() != _process_of_clients():
        raise OSError(f"{base} cannot be reached from a process that was forked from one which has read URLs")
    return _client(base, folder, tuple(map(os.environ.get, VARIABLES)))


@cache
def _process_of_clients() -> int:
    """Return the process that made the first client: obstore's threads do not outlast a fork, and calls would hang."""
    return os.getpid()


@lru_cache(maxsize=64)
def _client(base: str, folder: str, variables: tuple[str | None, ...]) -> Any:
    try:
        return _make_client(base, folder)
    except ImportError as error:
        raise InputError(f"{base} cannot be opened: {error}. {MISSING_EXTRA}") from error
    except Exception as error:
        raise InputError(f"{base} cannot be opened: {_read_answer(error)[2]}.") from error


def _make_client(base: str, folder: str) -> Any:
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

    scheme, place = base.split("://")
    options: dict[str, Any] = {"client_options": _client_options(), "retry_config": _retry_config()}
    if scheme in WEB:
        return HTTPStore(f"{base}/{quote(folder)}", **options)
    options["prefix"] = folder or None
    if scheme in ("s3", "s3a"):
        return S3Store(place, **_find_credentials(), **options)
    if scheme == "gs":
        return GCSStore(place, **options)
    container, _, host = place.partition("@")  # abfs://container@account.dfs.core.windows.net
    if host:
        options["account_name"] = host.split(".")[0]
    return AzureStore(container, **options)


def _client_options() -> dict[str, Any]:
    options: dict[str, Any] = {
        "allow_http": True,
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "timeout": REQUEST_TIMEOUT,
        "pool_max_idle_per_host": IDLE_CONNECTIONS,
    }
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        options["root_certificate"] = Path(bundle).read_bytes()
    return options


def _retry_config() -> dict[str, Any]:
    backoff = {"init_backoff": FIRST_PAUSE, "max_backoff": LONGEST_PAUSE, "base": PAUSE_BASE}
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS))
    return {"backoff": backoff, "max_retries": max(0, attempts - 1), "retry_timeout": RETRIED_FOR}


def _find_credentials() -> dict[str, Any]:
    """Return what obstore does not read itself: keys, region and endpoint of a profile; or that there are no keys."""
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE"):
        return {}
    import botocore.session
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = botocore.session.get_session()
    keys = {"credential_provider": Boto3CredentialProvider(session)} if session.get_credentials() else {}
    settings: dict[str, Any] = keys or {"skip_signature": True}
    endpoint = session.get_scoped_config().get("endpoint_url")
    if endpoint and not (os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3")):
        settings["endpoint"] = endpoint
    region = session.get_config_variable("region")
    if region and not os.environ.get("AWS_REGION"):
        settings["region"] = region
    return settings


def _describe_object(url: str) -> Found:
    import obstore

    client, key = connect(url)
    with os_errors(url):
        return _found(url, obstore.head(client, key))


def _holds_objects(url: str) -> bool:
    import obstore

    client, folder = _connect_to_list(url)
    with os_errors(url):
        return any(len(some) for some in obstore.list(client, folder or None, chunk_size=1))


def _holds(url: str, content: bytes) -> bool:
    try:
        return read(url) == content
    except FileNotFoundError:  # another request is just writing it
        return False


def _check_key(key: str) -> None:
    """Raise IsADirectoryError for a bucket's own URL: its server would answer with a listing."""
    if not key:
        raise IsADirectoryError("a bucket is no file")


def _found(url: str, info: Any) -> Found:
    return url, info["size"], info["last_modified"].timestamp(), False
