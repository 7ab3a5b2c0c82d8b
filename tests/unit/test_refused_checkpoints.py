"""Files that are no weights of a network, or not all of them: a sentence each, and nothing of theirs is run."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.unit.test_checkpoints import load, prefixed, saved, trained
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.loading import load_network

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's older ways to save
WRONG = {}


def wrong(sentence, **settings):
    def register(function):
        WRONG[function.__name__] = (function, sentence, settings)
        return function

    return register


@pytest.fixture(autouse=True)
def _no_network_is_kept():
    yield
    load_network.cache_clear()


def written(path, content):
    path.write_bytes(content)
    return path


# -- files that are something else ------------------------------------------------------------------------------------


@wrong("it is empty. Copy or download it again")
def an_empty_file(folder):
    return written(folder / "w.pth", b"")


@wrong("it is a Git LFS pointer, not the file itself. Run git lfs pull")
def a_pointer(folder):
    return written(folder / "w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@wrong("it is a web page, not weights")
def a_web_page(folder):
    return written(folder / "w.bin", b"\n<!DOCTYPE html><html>404</html>")


@wrong("it is cut off before its end. Copy or download it again")
def half_a_file(folder):
    path = saved(trained().state_dict(), folder / "w.pth")
    return written(path, path.read_bytes()[: path.stat().st_size // 2])


@wrong(r"it ends at byte [\d,]+ of [\d,]+. Copy or download it again")
def half_a_safetensors_file(folder):
    path = folder / "w.safetensors"
    safetensors.torch.save_file(trained().state_dict(), path)
    return written(path, path.read_bytes()[:-100])


@wrong("it does not begin with the header of a safetensors file")
def text_as_safetensors(folder):
    return written(folder / "w.safetensors", b"the weights are in the other folder, Anna")


@wrong("it is a zip archive, but none that torch.save wrote")
def a_zip_archive(folder):
    with zipfile.ZipFile(folder / "w.pth", "w") as archive:
        archive.writestr("weights/readme.txt", "here")
    return folder / "w.pth"


@wrong("it is compressed, which torch.save never does")
def a_compressed_archive(folder):
    path = saved(trained().state_dict(), folder / "plain.pth")
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(folder / "w.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    return folder / "w.pth"


@wrong("it is a TorchScript archive, which is code")
def a_scripted_module(folder):
    torch.jit.trace(trained(), torch.zeros(1, 3, 24, 24)).save(folder / "w.pt")
    return folder / "w.pt"


@wrong("an object of tests.unit.test_checkpoints.Small, which cannot be had without running code: .*state_dict")
def a_whole_module(folder):
    return saved(trained(), folder / "w.pth")


@wrong("an object of tests.unit.test_checkpoints.Small under 'model', which cannot be had without running code")
def a_whole_module_under_a_key(folder):
    return saved({"epoch": 3, "model": trained()}, folder / "w.pth")


@wrong("holds no state dict")
def a_number(folder):
    return saved(3, folder / "w.pth")


@wrong("holds no state dict")
def an_optimiser_alone(folder):
    module = trained()
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(torch.zeros(1, 3, 24, 24)).sum().backward()
    optimizer.step()
    return saved({"optimizer": optimizer.state_dict(), "epoch": 3}, folder / "w.pth")


@wrong("must end in .pth, .pt, .ckpt")
def another_ending(folder):
    return written(folder / "w.h5", b"\x89HDF\r\n")


@wrong("there is no weights file")
def a_folder(folder):
    (folder / "w.pth").mkdir()
    return folder / "w.pth"


# -- weights of something else ----------------------------------------------------------------------------------------


@wrong("begin with 'student', as those of .* do not: if they are of .*, say so by network.weights_key = 'student'")
def of_a_student(folder):
    return saved(prefixed(trained(), "student."), folder / "w.pth")


@wrong("hold more than one network: keys .* begin with .*'encoder_q'.* Choose one, as in network.weights_key = 'enc")
def of_two_encoders(folder):
    return saved(prefixed(trained(), "encoder_q.", "encoder_k."), folder / "w.pth")


@wrong("holds 2 state dicts, under 'student', 'teacher': choose one, as in network.weights_key = 'student'")
def of_student_and_teacher(folder):
    return saved({"student": trained().state_dict(), "teacher": trained(seed=2).state_dict()}, folder / "w.pth")


@wrong("weights_key = 'model.decoder' names nothing in weights .*: its keys under 'model' begin with fc, stage, stem")
def without_the_key_that_is_asked_for(folder):
    return saved({"model": trained().state_dict()}, folder / "w.pth"), {"weights_key": "model.decoder"}


@wrong("the file has beside them 2 of its 11 keys, the first is 'stage.2.bias'")
def of_a_deeper_network(folder):
    state = trained().state_dict()
    state |= {"stage.2.weight": torch.zeros(6, 6, 3, 3), "stage.2.bias": torch.zeros(6)}
    return saved(state, folder / "w.pth")


@wrong(r"stage.0.weight has shape \(8, 4, 3, 3\), expected \(6, 4, 3, 3\)")
def of_a_wider_network(folder):
    state = trained().state_dict()
    return saved(state | {"stage.0.weight": torch.zeros(8, 4, 3, 3)}, folder / "w.pth")


@wrong("the file lacks 1 of its 11 keys, the first is 'stem.0.bias'")
def without_one_bias(folder):
    return saved({key: value for key, value in trained().state_dict().items() if key != "stem.0.bias"}, folder / "w.pt")


@wrong("the file lacks 10 of its 11 keys")
def of_another_network(folder):
    return saved({"a.weight": torch.zeros(3), "b.weight": torch.zeros(3)}, folder / "w.pth")


@wrong("stem.0.bias holds values that are not finite real numbers: give those of another epoch")
def that_are_not_finite(folder):
    state = trained().state_dict()
    state["stem.0.bias"][1] = torch.nan
    return saved(state, folder / "w.pth")


@wrong("stem.0.bias holds values that are not finite real numbers")
def that_are_complex(folder):
    return saved(trained().state_dict() | {"stem.0.bias": torch.ones(4) * 1j}, folder / "w.pth")


@wrong("stem.0.bias holds quantised values, .* as they were before they were quantised")
def that_are_quantised(folder):
    quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    return saved(trained().state_dict() | {"stem.0.bias": quantised}, folder / "w.pth")


# -- shards -----------------------------------------------------------------------------------------------------------


def sharded(folder, places, shards):
    for name, state in shards.items():
        safetensors.torch.save_file(state, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@wrong("shard 'b.safetensors', which the index names, is not beside it")
def without_a_shard(folder):
    state = trained().state_dict()
    return sharded(
        folder, dict.fromkeys(state, "a.safetensors") | {"fc.bias": "b.safetensors"}, {"a.safetensors": state}
    )


@wrong("names the shard '../a.safetensors', which is not in the index's folder")
def shards_elsewhere(folder):
    return sharded(folder, {"fc.bias": "../a.safetensors"}, {})


@wrong("names the shard '/etc/hostname', which is not in the index's folder")
def shards_of_the_system(folder):
    return sharded(folder, {"fc.bias": "/etc/hostname"}, {})


@wrong("shard 'a.safetensors' lacks 'fc.bias', which the index says is there")
def shards_that_lack_a_key(folder):
    state = trained().state_dict()
    places = dict.fromkeys(state, "a.safetensors")
    del state["fc.bias"]
    return sharded(folder, places, {"a.safetensors": state})


@wrong("it is no index of shards: it lacks a weight_map")
def json_that_is_no_index(folder):
    return written(folder / "config.json", b'{"architectures": ["Small"]}')


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_a_networks_weights_is_a_sentence(name, tmp_path):
    function, sentence, settings = WRONG[name]
    path = function(tmp_path)
    path, settings = path if isinstance(path, tuple) else (path, settings)
    with pytest.raises(InputError, match=sentence) as raised:
        load(path, **settings)
    assert "\n" not in str(raised.value)


# -- code -------------------------------------------------------------------------------------------------------------


class Call:
    """Is pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["beside the weights", "instead of them", "among them"])
def test_no_code_of_a_checkpoint_is_run(place, zipped, tmp_path):
    mark = tmp_path / "ran"
    calls = [
        Call(os.system, f"touch {mark}"),
        Call(exec, f"open({str(mark)!r}, 'w')"),
        Call(Path.touch, mark),
        Call(torch.save, 1, str(mark)),
        Call(torch.hub.download_url_to_file, "http://127.0.0.1:9/", str(mark)),
        Call(np.save, str(mark), np.ones(1)),
        Call(getattr, Call(__import__, "os"), "getcwd"),
        Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(mark)))),
    ]
    loaded = refused = 0
    for call in calls:
        state = trained().state_dict()
        content = {
            "beside the weights": {"state_dict": state, "hyper_parameters": call},
            "instead of them": call,
            "among them": {**state, "stem.0.bias": call},
        }[place]
        path = saved(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        try:
            loaded += torch.equal(load(path).module.fc.bias, trained().fc.bias)
        except InputError:
            refused += 1
    assert (loaded, refused) == ((6, 2) if place == "beside the weights" else (0, 8))
    assert not list(tmp_path.glob("ran*"))
