import functools
import http.server
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest

from tests.buckets import make_bucket, moto_server, put_objects
from tests.proxy import running_proxy
from topnine.pipeline import buckets, files
from topnine.pipeline.errors import InputError, StopError

DATA = os.urandom(300_000)


@pytest.fixture(scope="module")
def server():
    with moto_server() as variables:
        yield variables


@pytest.fixture
def proxy(server, monkeypatch):
    """A proxy before a bucket ``shelf`` that holds ``data``."""
    make_bucket(server, "shelf")
    put_objects(server, "shelf", {"data": DATA})
    with running_proxy(server["AWS_ENDPOINT_URL"]) as proxy:
        for name, value in {**server, "AWS_ENDPOINT_URL": proxy.address}.items():
            monkeypatch.setenv(name, value)
        yield proxy


def _fault_of_puts(fault, times):
    """Choose a fault for the first requests that write."""
    left = [fault] * times
    return lambda request: left.pop() if request.method == "PUT" and left else ""


# -- a server that throttles, breaks off and is late ------------------------------------------------------------------


def test_a_bucket_that_throttles_breaks_off_and_is_late_gives_the_right_bytes(proxy):
    spoilt = iter(["503 SlowDown", "", "cut", "", "", "reset", "", "429", "slow", "500"] * 100)
    proxy.choose_fault = lambda request: next(spoilt) if request.is_read else ""
    with files.OpenFile("s3://shelf/data") as file, ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(lambda at: file.read(at, 10_000), range(0, len(DATA), 10_000)))
    assert b"".join(parts) == DATA
    assert proxy.spoilt >= 20
    assert proxy.requests >= 50


def test_every_third_request_may_be_throttled_whatever_it_asks(proxy):
    def throttle(_):
        return "503 SlowDown" if proxy.requests % 3 == 0 else ""

    proxy.choose_fault = throttle
    for number in range(10):
        files.write(f"s3://shelf/f/{number}", b"%d" % number)
    assert [file.size for file in files.list_folder("s3://shelf/f")] == [1] * 10
    assert [files.read(f"s3://shelf/f/{number}") for number in range(10)] == [b"%d" % number for number in range(10)]
    assert files.create("s3://shelf/f/new", b"new")
    assert not files.create("s3://shelf/f/new", b"other")
    files.delete_tree("s3://shelf/f")
    assert files.list_sizes("s3://shelf") == {"data": len(DATA)}
    assert proxy.spoilt > 10


def test_an_object_whose_creation_was_not_answered_is_created_once(proxy, monkeypatch):
    for number in range(5):
        proxy.choose_fault = _fault_of_puts("reset", 2)
        assert files.create(f"s3://shelf/new{number}", b"one")
        assert not files.create(f"s3://shelf/new{number}", b"two")
        assert files.read(f"s3://shelf/new{number}") == b"one"
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.choose_fault = _fault_of_puts("reset", 100)
    with pytest.raises(OSError, match="cannot be reached"):
        files.create("s3://shelf/other", b"one")


def test_requests_of_many_threads_are_in_flight_at_once(proxy):
    proxy.delay_s = 3.0
    with files.OpenFile("s3://shelf/data", len(DATA)) as file, ThreadPoolExecutor(64) as threads:
        parts = list(threads.map(lambda at: file.read(at, 10), range(64)))
    assert parts == [DATA[at : at + 10] for at in range(64)]
    assert proxy.most_at_once == 64


def test_an_answer_that_is_shorter_than_asked_is_an_error(proxy):
    proxy.faults[:] = ["short"]
    with files.OpenFile("s3://shelf/data") as file:
        with pytest.raises(OSError, match="s3://shelf/data gave 5 of 10 bytes at 7, and it has 300,000"):
            file.read(7, 10)
        assert file.read(7, 10) == DATA[7:17]


def test_what_is_gone_or_not_permitted_is_one_line(proxy):
    with files.OpenFile("s3://shelf/data") as file:
        for fault, kind, text in (
            ("404 NoSuchKey", FileNotFoundError, "there is no s3://shelf/data"),
            (
                "403 AccessDenied",
                PermissionError,
                "its server does not permit it (403 Forbidden: AccessDenied: spoilt)",
            ),
            ("400 BadDigest", OSError, "s3://shelf/data cannot be reached: 400 Bad Request: BadDigest: spoilt"),
        ):
            proxy.faults[:] = [fault]
            with pytest.raises(kind) as error:
                file.read(0, 10)
            assert text in str(error.value)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("fault", ["400 ExpiredToken", "403 InvalidAccessKeyId", "401"])
def test_credentials_that_are_not_accepted_any_more_end_the_work_in_one_sentence(proxy, fault):
    proxy.choose_fault = lambda _: fault
    asks = (
        files.list_names, files.read, files.list_sizes, files.delete_tree, lambda url: files.write(url, b""),
        lambda url: files.create(url, b""), lambda url: files.OpenFile(url, 9).read(0, 9),
    )  # fmt: skip
    for ask in asks:
        with pytest.raises(StopError, match=r"^s3://shelf/data cannot be .*refuses the credentials \(40.* goes on\.$"):
            ask("s3://shelf/data")


def test_two_requests_that_create_an_object_at_the_same_time_are_no_error(proxy):
    proxy.choose_fault = lambda request: "409 ConditionalRequestConflict" if request.method == "PUT" else ""
    assert not files.create("s3://shelf/lease", b"x")
    proxy.choose_fault = lambda _: ""
    with ThreadPoolExecutor(16) as threads:
        made = list(threads.map(lambda number: files.create("s3://shelf/lease", b"%d" % number), range(16)))
    assert sorted(made) == [False] * 15 + [True]
    assert files.read("s3://shelf/lease") == b"%d" % made.index(True)


@pytest.mark.parametrize("error", [ValueError("no endpoint"), KeyError("client"), TimeoutError("late"), OSError("416")])
def test_whatever_a_client_raises_is_an_error_of_reading(proxy, monkeypatch, error):
    def fail(*_, **__):
        raise error

    for name in ("get", "head", "list", "list_with_delimiter"):
        monkeypatch.setattr(obstore, name, fail)
    reads = (
        files.list_folder,
        files.exists,
        files.list_sizes,
        files.read,
        lambda url: files.OpenFile(url, 5).read(0, 5),
    )
    for read in (files.OpenFile, *reads):
        with pytest.raises(OSError, match=str(error).strip("'")):
            read("s3://shelf/x")


# -- keys and folders -------------------------------------------------------------------------------------------------


def test_keys_are_taken_as_they_are(proxy, server):
    keys = ["d/a b.txt", "d/a%20b", "d/a#b", "d/ü.png", "d/q?z", "d/{x}", "d/~t", "d/a\\b", "d/a:b", "d/[x]*"]
    put_objects(server, "shelf", {key: key.encode() for key in keys})
    assert sorted(file.path for file in files.list_folder("s3://shelf/d")) == sorted(
        f"s3://shelf/{key}" for key in keys
    )
    assert [files.read(f"s3://shelf/{key}") for key in keys] == [key.encode() for key in keys]
    assert files.list_matching("s3://shelf/d/[[]x[]][*]") == ["s3://shelf/d/[x]*"]


def test_an_object_that_stands_for_a_folder_is_not_in_it(proxy, server):
    put_objects(server, "shelf", {"d/": b"", "d/a": b"a", "d/inner/": b""})
    assert files.list_names("s3://shelf/d") == ["a", "inner"]
    assert set(files.list_sizes("s3://shelf/d")) == {"a", "inner"}
    assert files.describe("s3://shelf/d").is_folder


def test_patterns_match_folders_on_the_way(proxy, server):
    put_objects(server, "shelf", {f"d/{name}": b"" for name in ("1/a.tar", "1/b.txt", "2/a.tar", "2/x/a.tar", "a.tar")})
    assert files.list_matching("s3://shelf/d/*/a.tar") == ["s3://shelf/d/1/a.tar", "s3://shelf/d/2/a.tar"]
    assert files.list_matching("s3://shelf/*/?/*.t??") == [
        f"s3://shelf/d/{name}" for name in ("1/a.tar", "1/b.txt", "2/a.tar")
    ]
    assert files.list_matching("s3://shelf/d/a.tar") == ["s3://shelf/d/a.tar"]
    assert files.list_matching("s3://shelf/none/*") == []


def test_a_bucket_that_is_not_there_is_none(proxy):
    assert files.describe("s3://attic") is None
    assert files.list_names("s3://attic/x") == []
    assert files.describe("s3://shelf").is_folder
    assert files.read("s3://shelf") is None


def test_a_folder_of_many_objects_is_listed_and_deleted_whole(proxy, server):
    proxy.choose_fault = lambda _: ""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: files.write(f"s3://shelf/many/{number:04}", b"x"), range(1100)))
    assert len(files.list_names("s3://shelf/many")) == len(files.list_sizes("s3://shelf/many")) == 1100
    files.delete_tree("s3://shelf/many")
    assert files.list_sizes("s3://shelf") == {"data": len(DATA)}


# -- other servers, and what cannot be opened -------------------------------------------------------------------------


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Answers requests for a range, as web servers do."""

    def do_GET(self):
        with open(self.translate_path(self.path), "rb") as file:
            content = file.read()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path):
    """The address of a web server of a folder that holds ``a b.bin``."""
    (tmp_path / "a b.bin").write_bytes(b"0123456789")
    handler = functools.partial(RangeHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_files_of_a_web_server_are_read(web):
    assert files.describe(f"{web}/a%20b.bin").size == 10
    assert files.describe(f"{web}/nothing") is None
    with files.OpenFile(f"{web}/a%20b.bin") as file:
        assert file.read(3, 4) == b"3456"
    with pytest.raises(InputError, match="a web server lists nothing: name each file"):
        files.list_folder(web)
    for write in (
        files.delete,
        files.delete_tree,
        lambda url: files.write(url, b""),
        lambda url: files.create(url, b""),
    ):
        with pytest.raises(InputError, match="is only read"):
            write(f"{web}/a%20b.bin")
    with pytest.raises(InputError, match="a question mark is not supported"):
        files.describe(f"{web}/a?token=x")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nothing://x", "nothing://x cannot be opened: URLs begin with s3://, s3a://, gs://, "),
        ("s3://", "s3:// cannot be opened: URLs begin with "),
        ("file:///data", "file:///data cannot be opened: give the path, without file://"),
        ("az://container/x", "az://container cannot be opened: .*Account must be specified"),
    ],
)
def test_a_url_that_cannot_be_opened_says_so(url, text, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match=rf"^{text}"):
        files.describe(url)


def test_other_clouds_have_clients(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    for url, key in (
        ("gs://shelf/a/b", "a/b"),
        ("az://shelf/a", "a"),
        ("abfs://shelf@other.dfs.core.windows.net/a", "a"),
    ):
        assert buckets.connect(url)[1] == key
    assert buckets.connect("abfs://shelf@other.dfs.core.windows.net")[0].config["account_name"] == "other"


def test_a_url_without_obstore_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    buckets._client.cache_clear()
    with pytest.raises(InputError, match=r"s3://shelf cannot be opened: .*pip install 'topnine\[s3\]'"):
        buckets.connect("s3://shelf/x")


# -- credentials ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_variables(monkeypatch, tmp_path):
    """No variable names a key, a server or a profile; files of profiles are looked for in ``tmp_path``."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    buckets._client.cache_clear()


def test_a_profile_names_keys_region_and_server(no_variables, server, monkeypatch, tmp_path):
    make_bucket(server, "shelf")
    put_objects(server, "shelf", {"data": b"0123456789"})
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = eu-west-1\nendpoint_url = {server['AWS_ENDPOINT_URL']}\n"
    )
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with running_proxy(server["AWS_ENDPOINT_URL"]) as proxy:
        seen = []
        proxy.choose_fault = lambda request: seen.append(request.headers["authorization"]) or ""
        assert files.read("s3://shelf/data") == b"0123456789"
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        assert files.read("s3://shelf/data") == b"0123456789"
    assert len(seen) == 1
    assert "Credential=key/" in seen[0]
    assert "/eu-west-1/s3/" in seen[0]
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match=r"s3://shelf cannot be opened: .*nobody.* could not be found"):
        files.read("s3://shelf/data")


def test_without_keys_requests_are_not_signed(no_variables, server, monkeypatch):
    make_bucket(server, "shelf")
    put_objects(server, "shelf", {"data": b"0123456789"})
    with running_proxy(server["AWS_ENDPOINT_URL"]) as proxy:
        seen = []
        proxy.choose_fault = lambda request: seen.append("authorization" in request.headers) or ""
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        with pytest.raises(PermissionError):
            files.read("s3://shelf/data")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        assert files.read("s3://shelf/data") == b"0123456789"
    assert seen == [False, True]


def test_a_process_has_one_client_for_a_bucket_and_another_for_other_keys(proxy, monkeypatch):
    client, _ = buckets.connect("s3://shelf/a")
    assert buckets.connect("s3://shelf/b/c") == (client, "b/c")
    assert buckets.connect("s3://shelf/a")[0] is client
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    assert buckets.connect("s3://shelf/a")[0] is not client


def test_a_process_that_was_forked_says_that_it_cannot_read(proxy, server):
    code = (
        "import os; from topnine.pipeline import files; files.exists('s3://shelf/data')\n"
        "if (child := os.fork()) == 0:\n"
        "    try: files.exists('s3://shelf/data')\n"
        "    except OSError as error: print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert finished.stdout == (
        "s3://shelf cannot be reached from a process that was forked from one which has read URLs\n"
    )


def test_the_number_of_attempts_is_a_variable(proxy, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    proxy.choose_fault = lambda _: "503 SlowDown"
    with pytest.raises(OSError, match=r"503 Service Unavailable: SlowDown: spoilt, tried 3 times$"):
        files.read("s3://shelf/data")
    assert proxy.requests == 3
