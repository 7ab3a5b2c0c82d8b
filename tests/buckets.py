"""Servers of S3, a simulated one in this process and a real one, and what fills their buckets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer


def environment(endpoint: str, key: str = "key", secret: str = "secret") -> dict[str, str]:
    """Return the variables that name a server and its keys."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextmanager
def moto_server() -> Iterator[dict[str, str]]:
    """Run moto's server in a thread; yield its variables."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield environment(f"http://{host}:{port}")
    finally:
        server.stop()


@contextmanager
def real_server() -> Iterator[dict[str, str] | None]:
    """Run a real S3 server by the script that TOPNINE_S3_SETUP names; yield its variables, or None where none does."""
    script = os.environ.get("TOPNINE_S3_SETUP")
    if not script or not Path(script).is_file():
        yield None
        return
    # Its servers go on running: they must not hold this process's pipes.
    log = Path(os.environ.get("TMPDIR", "/tmp")) / "topnine-s3-setup.log"
    with log.open("w") as output:
        subprocess.run(["bash", script, "start"], check=True, stdout=output, stderr=output, timeout=500)
    words = dict(word.split("=", 1) for word in log.read_text().split() if "=" in word)
    address = next(word for word in log.read_text().split() if word.startswith("http://"))
    try:
        yield environment(address, words["key"], words["secret"])
    finally:
        subprocess.run(["bash", script, "stop"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_bucket(variables: Mapping[str, str], name: str) -> None:
    """Make an empty bucket, in place of one that there may be."""
    client = _client(variables)
    with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=name)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=name)
    for key in [item["Key"] for page in pages for item in page.get("Contents", [])]:
        client.delete_object(Bucket=name, Key=key)


def put_objects(variables: Mapping[str, str], bucket: str, contents: Mapping[str, bytes]) -> None:
    """Write objects by their keys."""
    client = _client(variables)
    for key, content in contents.items():
        client.put_object(Bucket=bucket, Key=key, Body=content)


def put_folder(variables: Mapping[str, str], bucket: str, folder: Path, name: str) -> None:
    """Write all files of a folder, below a name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    put_objects(variables, bucket, {f"{name}/{path.relative_to(folder)}": path.read_bytes() for path in files})


def copy_object(variables: Mapping[str, str], bucket: str, key: str, copies: Iterable[str]) -> None:
    """Copy an object within its bucket, without sending it again."""
    client = _client(variables)
    for copy in copies:
        client.copy_object(Bucket=bucket, Key=copy, CopySource={"Bucket": bucket, "Key": key})


def _client(variables: Mapping[str, str]):
    return boto3.client(
        "s3", endpoint_url=variables["AWS_ENDPOINT_URL"], region_name="us-east-1",
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"], aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
