"""The keys of TLS, without which nobody reaches a scheduler or a worker of a run.

Dask has no passwords: whoever reaches a port of a scheduler or a worker can have code run as its user. With TLS on both
sides only holders of the run's own key are let in. The key is made anew for every run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from distributed.security import Security

from ..config.clusters import AddressCluster
from ..errors import InputError

CERTIFICATE, KEY = "certificate.pem", "key.pem"


def make_keys() -> Security:
    """Make a key and a certificate for a run, in memory: for processes that are started by this one."""
    keys: Security = Security.temporary()
    return keys


@contextmanager
def write_keys(folder: Path) -> Iterator[Security]:
    """Make a key and a certificate for a run, in files that jobs on other machines read.

    They lie in a new folder inside of ``folder``, which nobody but the user can enter, and are deleted at the end of
    the ``with`` block.
    """
    keys = make_keys().get_tls_config_for_role("worker")  # the same for every role
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="keys-", dir=folder.resolve()) as private:  # its mode is 0700
        files = {name: str(Path(private) / name) for name in (CERTIFICATE, KEY)}
        for name, content in ((CERTIFICATE, keys["cert"]), (KEY, keys["key"])):
            with open(os.open(files[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(content)
        pairs = {f"tls_{role}_cert": files[CERTIFICATE] for role in ("client", "scheduler", "worker")}
        pairs |= {f"tls_{role}_key": files[KEY] for role in ("client", "scheduler", "worker")}
        yield Security(require_encryption=True, tls_ca_file=files[CERTIFICATE], **pairs)


def read_keys(config: AddressCluster) -> Security | None:
    """Return the keys that a configuration names for a running scheduler, None where it names none.

    Raises
    ------
    InputError
        A file is not there, or holds no certificate or no key that goes with it.
    """
    if not config.tls_ca:
        return None
    named = {"tls_ca": config.tls_ca, "tls_cert": config.tls_cert, "tls_key": config.tls_key}
    for key, path in named.items():
        if not os.path.isfile(path):
            raise InputError(f"cluster.{key} = {path!r} is no file: it is the path of a PEM file.")
    keys = Security(
        require_encryption=True,
        tls_ca_file=config.tls_ca,
        tls_client_cert=config.tls_cert,
        tls_client_key=config.tls_key,
    )
    try:
        keys.get_connection_args("client")
    except OSError as error:  # of ssl, too
        raise InputError(
            f"cluster.tls_ca = {config.tls_ca!r}, tls_cert = {config.tls_cert!r} and tls_key = {config.tls_key!r} "
            f"cannot be used: {error}. They are PEM files: the authority's certificate, and a certificate with its key."
        ) from error
    return keys
