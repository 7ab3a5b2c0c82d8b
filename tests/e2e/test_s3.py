"""Data and store on S3: moto in this process for the quick ones, a real server in ``make test-all``."""

import os
from pathlib import Path

import numpy as np
import pytest
import xarray

from tests.buckets import environment, make_bucket, moto_server, put_folder, real_server
from tests.conftest import encode, noise, plan_run, run_stages
from tests.e2e.test_commands import topnine
from tests.forms import FORMS, Picture, class_folders, hugging_face, webdataset
from tests.proxy import FAULTS, running_proxy
from topnine import open_run
from topnine.pipeline import files
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.reader import list_images, open_reader
from topnine.pipeline.errors import BusyError, InputError, WorkError
from topnine.pipeline.store.lease import hold_lease
from topnine.pipeline.store.schema import OK
from topnine.pipeline.store.store import Store, check_writable
from topnine.stages.mine import find_todo


@pytest.fixture(scope="module")
def moto():
    with moto_server() as variables:
        yield variables


@pytest.fixture(scope="module")
def ceph():
    """A real S3 server (Ceph's RADOS gateway, in memory), from the script that TOPNINE_S3_SETUP names."""
    with real_server() as variables:
        if variables is None:
            pytest.skip("TOPNINE_S3_SETUP names no script that starts an S3 server")
        yield variables


@pytest.fixture(params=["moto", pytest.param("ceph", marks=pytest.mark.slow)])
def bucket(request, monkeypatch):
    """An empty bucket's URL; the environment says where its server is."""
    variables = request.getfixturevalue(request.param)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    make_bucket(variables, "shelf")
    return "s3://shelf"


PICTURES = [Picture(f"p{i}", f"n{i % 3}", i % 3, encode(noise(i))) for i in range(14)]


def upload(folder: Path, bucket: str) -> None:
    put_folder(os.environ, bucket.removeprefix("s3://"), folder, folder.name)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_is_read_from_a_bucket_as_from_a_disk(bucket, tmp_path, form):
    found = form(PICTURES, tmp_path / "data")
    upload(tmp_path / "data", bucket)
    there = bucket + str(found["path"]).removeprefix(str(tmp_path))
    local, remote = find_dataset(str(found["path"])), find_dataset(there)
    assert [(s.name, s.form, s.size) for s in remote.shards] == [(s.name, s.form, s.size) for s in local.shards]
    with open_reader(remote) as reader:
        data = {
            entry.key: reader.read(number, entry.offset, entry.size, entry.key)
            for number, shard in enumerate(remote.shards)
            for entry in list_images(shard)
        }
    assert data == {picture.key: picture.data for picture in PICTURES}
    for one, other in zip(local.shards, remote.shards, strict=True):
        assert list(list_images(one)) == list(list_images(other))


def test_a_tars_images_are_not_read_to_index_it(bucket, tmp_path, monkeypatch):
    big = [picture._replace(data=picture.data * 20) for picture in PICTURES]
    path = FORMS[0](big, tmp_path / "data")["path"]
    upload(tmp_path / "data", bucket)
    dataset = find_dataset(bucket + str(path).removeprefix(str(tmp_path)))
    fetched = []
    read = files.OpenFile.read
    monkeypatch.setattr(files.OpenFile, "read", lambda *a: fetched.append(read(*a)) or fetched[-1])
    entries = [entry for shard in dataset.shards for entry in list_images(shard)]
    assert len(entries) == 14
    assert 0 < sum(map(len, fetched)) < sum(shard.size for shard in dataset.shards) / 20


def test_a_store_in_a_bucket_is_the_store_on_a_disk(bucket, tmp_path):
    path = FORMS[0](PICTURES, tmp_path / "data")["path"]
    upload(tmp_path / "data", bucket)
    settings = {"mine__layers": "1", "mine__block": 4}
    local = plan_run(tmp_path, data__path=path, **settings)
    there = bucket + str(path).removeprefix(str(tmp_path))
    remote = plan_run(tmp_path, data__path=there, store=f"{bucket}/run.zarr", **settings)
    for plan in (local, remote):
        run_stages(plan, "index", "mine", "rank", "deconvolve")
    assert find_todo(Store.open(remote.config.store), remote.layers) == {}
    for group in ("images", "layers/conv1"):
        one, other = (
            xarray.open_zarr(Store.open(plan.config.store).storage, group=group, consolidated=False).load()
            for plan in (local, remote)
        )
        assert one.identical(other) or one.equals(other)
        assert set(one) == set(other)
    assert np.isfinite(other.top_activation).any()
    one, other = (open_run(plan.config.store).layer(1) for plan in (local, remote))
    live = int(np.argmax(other.dataset().active_fraction.values))
    assert np.array_equal(one.rank(k=5).image, other.rank(k=5).image)
    assert np.array_equal(one.activation(live), other.activation(live))
    assert [hit.key for hit in one.top(live)] == [hit.key for hit in other.top(live)] != []
    assert np.array_equal(one.top(live)[0].patch, other.top(live)[0].patch)
    assert open_run(remote.config.store).dataset().key.values.tolist() == [picture.key for picture in PICTURES]


@pytest.fixture
def proxy(bucket, monkeypatch):
    """A proxy before the bucket's server that spoils answers."""
    with running_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        yield proxy


def test_a_run_that_is_mined_asks_for_each_chunk_of_a_block_once(proxy, bucket, tmp_path):
    """A block has a marker, and a chunk of the images' status and reason; that a block did not fail is listed."""
    path = FORMS[0](PICTURES, tmp_path / "data")["path"]
    asked = {}
    for block in (7, 1):
        settings = {"store": f"{bucket}/{block}.zarr", "mine__layers": "1", "mine__block": block}
        plan = plan_run(tmp_path, data__path=path, **settings)
        run_stages(plan, "index", "mine")
        before = proxy.requests
        run_stages(plan, "mine")
        asked[block] = proxy.requests - before
    assert asked[1] - asked[7] <= 3 * 12 + 2  # of 12 blocks more, and what a heartbeat may add


@pytest.mark.parametrize("form", [webdataset, class_folders, hugging_face], ids=lambda form: form.__name__)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_bucket_answers_is_no_damage_of_an_image(proxy, bucket, tmp_path, form, fault):
    path = form(PICTURES, tmp_path / "data")["path"]
    upload(tmp_path / "data", bucket)
    there = bucket + str(path).removeprefix(str(tmp_path))
    plan = plan_run(tmp_path, data__path=there, mine__layers="1", mine__block=4)
    proxy.faults[:] = [fault]
    run_stages(plan, "index")
    proxy.faults[:] = [fault, fault]
    run_stages(plan, "mine")
    assert proxy.faults == []
    assert proxy.spoilt >= 2
    store = Store.open(plan.config.store)
    status, reason = store.images.columns(("status", "reason"))
    assert (set(status.tolist()), set(reason.tolist())) == ({OK}, {""})


def test_a_bucket_that_answers_no_more_fails_the_blocks_with_the_reason(proxy, bucket, tmp_path):
    path = class_folders(PICTURES, tmp_path / "data")["path"]
    upload(tmp_path / "data", bucket)
    plan = plan_run(tmp_path, data__path=f"{bucket}/data/{path.name}", mine__layers="1", mine__block=8)
    run_stages(plan, "index")
    proxy.faults[:] = ["404"] * 1000
    with pytest.raises(WorkError, match=r"shard n\d: image p\d+ cannot be read: "):
        run_stages(plan, "mine")
    proxy.faults.clear()
    run_stages(plan, "mine")
    (status,) = Store.open(plan.config.store).images.columns(["status"])
    assert set(status.tolist()) == {OK}


class Expiring:
    """Refuses the credentials from the first activations on, until they are renewed."""

    def __init__(self):
        self.is_over = False

    def __call__(self, request):
        if self.is_over:
            return "400 ExpiredToken"
        self.is_over = request.method == "PUT" and "/conv1/activation/c/" in request.path
        return ""


@pytest.mark.slow
def test_a_command_whose_credentials_expire_ends_with_one_sentence_and_goes_on_with_new_ones(proxy, bucket, tmp_path):
    path = webdataset(PICTURES, tmp_path / "data")["path"]
    upload(tmp_path / "data", bucket)
    there = bucket + str(path).removeprefix(str(tmp_path))
    (tmp_path / "configs").symlink_to(Path("configs").resolve())
    command = ("run", "--data", there, "--store", f"{bucket}/x.zarr", "--layer", "1", "--set", "mine.block=4")
    proxy.choose_fault = Expiring()
    stopped = topnine(*command, cwd=tmp_path)
    assert stopped.returncode == 1, stopped.stderr
    assert "refuses the credentials (400 Bad Request: ExpiredToken: spoilt)" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "panic" not in stopped.stderr
    proxy.choose_fault = lambda _: ""
    finished = topnine(*command, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "conv1: 4 of 4 blocks mined" in topnine("status", f"{bucket}/x.zarr", cwd=tmp_path).stdout


@pytest.mark.slow
def test_a_run_from_the_command_line_draws_beside_the_working_folder(bucket, tmp_path):
    path = FORMS[5](PICTURES, tmp_path / "data")["path"]
    upload(tmp_path / "data", bucket)
    there = bucket + str(path).removeprefix(str(tmp_path))
    (tmp_path / "configs").symlink_to(Path("configs").resolve())
    finished = topnine("run", "--data", there, "--store", f"{bucket}/x.zarr", "--layer", "1", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "runs/x/figures/layer1.png").is_file()
    state = topnine("status", f"{bucket}/x.zarr", cwd=tmp_path)
    assert "conv1: 1 of 1 blocks mined" in state.stdout


def test_of_two_runs_that_create_a_lease_in_a_bucket_one_does(bucket):
    path = f"{bucket}/run.zarr/progress/lease-1/zarr.json"
    assert [files.create(path, document) for document in (b"one", b"two")] == [True, False]
    assert files.read(path) == b"one"
    files.write(path, b"renewed")
    assert files.list_sizes(f"{bucket}/run.zarr") == {"progress/lease-1/zarr.json": 7}
    files.delete(path)
    assert files.read(path) is None
    with hold_lease(f"{bucket}/run.zarr") as lease:
        lease.renew()
        lease.check()
        with pytest.raises(BusyError), hold_lease(f"{bucket}/run.zarr"):
            pytest.fail("two hold it")
    assert files.list_sizes(f"{bucket}/run.zarr") == {}


def test_what_is_not_there_is_one_sentence(bucket):
    with pytest.raises(InputError, match="there is no data at s3://shelf/nothing"):
        find_dataset(f"{bucket}/nothing")
    with pytest.raises((InputError, OSError), match=r"cannot be written: there is no s3://attic|cannot be reached"):
        check_writable("s3://attic/run.zarr")
    with pytest.raises(InputError, match="there is no store at"):
        Store.open(f"{bucket}/run.zarr")


def test_a_server_that_does_not_answer_is_one_sentence(monkeypatch):
    for name, value in {**environment("http://127.0.0.1:9"), "AWS_MAX_ATTEMPTS": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match=r"^s3://shelf/data cannot be reached: .*\(Connection refused\), tried 2 times$"):
        find_dataset("s3://shelf/data")
