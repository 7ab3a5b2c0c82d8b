"""Images where memory runs out: real decoders in processes whose address space is limited."""

import io
import subprocess
import sys
import threading

import pytest
from PIL import Image

from tests.conftest import REPOSITORY, encode, noise
from tests.conftest import decode_at as decode
from topnine.pipeline.data.decoding import decode as module
from topnine.pipeline.errors import DecodeError

# Limits the address space to what is taken and some MiB more, decodes, and says what came of it.
SCRIPT = """
import io, resource, sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from tests.conftest import decode_at as decode
from topnine.pipeline.errors import DecodeError
spare, form, side, threads, cut = sys.argv[1:]
buffer = io.BytesIO()
Image.new("RGB", (int(side),) * 2, (90, 20, 30)).save(buffer, form)
data = buffer.getvalue()[: -int(cut) or None]
small = io.BytesIO()
Image.new("RGB", (64, 64)).save(small, form)
decode(small.getvalue(), 64, 64)
with ThreadPoolExecutor(int(threads)) as pool:
    list(pool.map(lambda _: decode(small.getvalue(), 64, 64), range(50)))
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = taken + int(spare) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def attempt(_):
        try:
            return f"decoded {decode(data, 64, 64).pixels.shape}"
        except DecodeError:
            return "damaged"
        except MemoryError:
            return "memory"

    outcomes = list(pool.map(attempt, range(int(threads))))
print(*outcomes, sep="\\n")
"""


def outcomes(spare_mib, form, side, threads=1, cut=0):
    command = [sys.executable, "-c", SCRIPT, *map(str, (spare_mib, form, side, threads, cut))]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return finished.stdout.splitlines()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("spare_mib", [8, 40, 90])
def test_an_image_for_which_there_is_no_memory_is_not_damaged(form, spare_mib):
    """The image takes 75 MiB and more."""
    (outcome,) = outcomes(spare_mib, form, 5000)
    assert outcome == "memory" or spare_mib > 75
    assert outcome != "damaged"


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_images_for_which_there_is_memory_one_by_one_are_decoded(form):
    assert outcomes(500, form, 5000, threads=4) == ["decoded (64, 64, 3)"] * 4


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damage_is_damage_where_there_is_memory_and_unknown_where_there_is_none(form):
    assert outcomes(1000, form, 5000, cut=60) == ["damaged"]
    assert outcomes(40, form, 5000, cut=60) == ["memory"]


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}, {"exif": b"Exif\0\0" + bytes(20)}])
def test_the_size_of_a_webp_is_read_without_its_decoder(options):
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 30, 50)).save(buffer, "WEBP", **options)
    assert module._webp_size(buffer.getvalue()) == (50, 30)
    pixels = 1500 * module.BYTES_A_PIXEL
    assert module._count_bytes(buffer.getvalue(), 1500) == module.SPARE_BYTES + pixels
    assert module._count_bytes(buffer.getvalue(), 1499) == module.SPARE_BYTES


def test_an_error_that_does_not_come_again_is_none(monkeypatch):
    errors = []
    convert = module._rgb

    def fail(image):
        if errors:
            raise errors.pop()
        return convert(image)

    monkeypatch.setattr(module, "_rgb", fail)
    for error in (OSError("broken data stream when reading image file"), MemoryError()):
        errors.append(error)
        assert decode(encode(noise(1)), 96, 96).pixels.shape == (96, 96, 3)
        assert errors == []


def test_a_second_try_is_made_alone(monkeypatch):
    """While one thread tries again, no other decodes."""
    running, most, lock = [0], {}, threading.Lock()
    original, seen = module._decode, set()

    def counted(data, *arguments):
        with lock:
            running[0] += 1
            again = threading.get_ident() in seen
            seen.add(threading.get_ident())
            most[again] = max(most.get(again, 0), running[0])
        try:
            return original(data, *arguments)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(module, "_decode", counted)

    def attempt():
        with pytest.raises(DecodeError):
            decode(encode(noise(1, 400, 400))[:-100], 96, 96)

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[True] == 1
