"""Checkpoints as the usual tools write them: each gives the activations of the module that was saved."""

import argparse
import collections
import datetime
import pathlib
import random
import re
from dataclasses import dataclass, field

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.checkpoints.finding import AVERAGED_KEYS, TRAINED_KEYS
from topnine.pipeline.network.layers import find_layers
from topnine.pipeline.network.loading import load_network, trace_network
from topnine.pipeline.network.unloaded import check_layers

pytestmark = pytest.mark.filterwarnings("ignore")  # of the tools that write the checkpoints
PIXELS = torch.linspace(-2, 2, 3 * 24 * 24).view(1, 3, 24, 24)
LAYER = "stage.0"  # the last convolution


class Small(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
        self.fc = nn.Linear(6, classes)

    def forward(self, pixels):
        return self.fc(self.stage(self.stem(pixels)).mean((2, 3)))


def small():
    return Small()


def trained(classes=5, seed=1):
    """A module with weights and running statistics of its own."""
    torch.manual_seed(seed)
    module = Small(classes)
    for _ in range(3):
        module(torch.randn(4, 3, 24, 24))
    return module.eval()


def activations(module, layer=LAYER):
    """What a hook sees."""
    seen = []
    handle = module.get_submodule(layer).register_forward_hook(lambda _, __, result: seen.append(result.clone()))
    with torch.no_grad():
        module(PIXELS)
    handle.remove()
    return seen[0]


def load(path, **settings):
    load_network.cache_clear()
    return load_network(NetworkConfig(name=f"{__name__}:small", weights=str(path), **settings))


@pytest.fixture(autouse=True)
def _no_network_is_kept():
    yield
    load_network.cache_clear()


@dataclass
class Saved:
    """A checkpoint, the module whose activations it must give, and what has to be said of it."""

    path: pathlib.Path
    module: nn.Module
    settings: dict = field(default_factory=dict)
    remark: str = ""


FORMS = {}


def form(function):
    FORMS[function.__name__] = function
    return function


def saved(content, path, **options):
    torch.save(content, path, **options)
    return path


def prefixed(module, *prefixes):
    return {f"{prefix}{key}": value for prefix in prefixes for key, value in module.state_dict().items()}


# -- endings and containers -------------------------------------------------------------------------------------------

for ending in (".pth", ".pt", ".ckpt", ".bin", ".pth.tar"):
    FORMS[f"ending {ending}"] = lambda folder, module, ending=ending: Saved(
        saved(module.state_dict(), folder / f"w{ending}"), module
    )


@form
def legacy_torch_save(folder, module):
    content = {"state_dict": module.state_dict(), "args": argparse.Namespace(lr=0.1)}
    return Saved(saved(content, folder / "w.pth", _use_new_zipfile_serialization=False), module)


@form
def safetensors_file(folder, module):
    safetensors.torch.save_file(module.state_dict(), folder / "w.safetensors")
    return Saved(folder / "w.safetensors", module)


@form
def npz(folder, module):
    np.savez(folder / "w.npz", **{f"model.{key}": value.numpy() for key, value in module.state_dict().items()})
    return Saved(folder / "w.npz", module)


@form
def sharded_safetensors(folder, module):
    huggingface_hub.save_torch_state_dict(module.state_dict(), folder, max_shard_size=300)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return Saved(folder / "model.safetensors.index.json", module)


@form
def sharded_bins(folder, module):
    huggingface_hub.save_torch_state_dict(module.state_dict(), folder, max_shard_size=300, safe_serialization=False)
    assert len(list(folder.glob("pytorch_model-*.bin"))) > 1
    return Saved(folder / "pytorch_model.bin.index.json", module)


@form
def half_precision(folder, module):
    path = saved(module.half().state_dict(), folder / "w.pth")
    return Saved(path, module.float())


# -- what trainings write ---------------------------------------------------------------------------------------------


@form
def data_parallel(folder, module):
    return Saved(saved(nn.DataParallel(module).state_dict(), folder / "w.pth"), module)


@form
def compiled(folder, module):
    return Saved(saved({"model": torch.compile(module).state_dict()}, folder / "w.pth"), module)


@form
def averaged_model(folder, module):
    return Saved(saved(AveragedModel(module).state_dict(), folder / "w.pth"), module)


@form
def timm_training(folder, module):
    saver = CheckpointSaver(
        module,
        torch.optim.AdamW(module.parameters()),
        args=argparse.Namespace(model="small", data_dir=pathlib.Path("imagenet"), lr=np.float64(0.1)),
        model_ema=ModelEmaV3(trained(seed=2)),
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(epoch=3, metric=0.5)
    return Saved(folder / "model_best.pth.tar", module, remark="under 'state_dict' are taken; .*'state_dict_ema'")


@form
def timm_training_ema(folder, module):
    ema = trained(seed=2)
    return Saved(timm_training(folder, module).path, ema, {"weights_key": "state_dict_ema"})


@form
def torchvision_reference(folder, module):
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)
    content = {
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(data_path="imagenet", started=datetime.datetime(2026, 1, 1)),
        "model_ema": AveragedModel(trained(seed=2)).state_dict(),
    }
    return Saved(saved(content, folder / "checkpoint.pth"), module, remark="others under 'model_ema'")


@form
def lightning(folder, module):
    import pytorch_lightning

    class Task(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"folder": pathlib.Path("images")})
            self.model, self.criterion = module, nn.CrossEntropyLoss(weight=torch.ones(5))

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

        def training_step(self, batch, _):
            return self.criterion(self.model(batch[0]), batch[1])

    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pytorch_lightning.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, **quiet)
    images = torch.utils.data.TensorDataset(torch.randn(4, 3, 24, 24), torch.arange(4))
    trainer.fit(Task(), torch.utils.data.DataLoader(images, batch_size=2))
    trainer.save_checkpoint(folder / "last.ckpt")
    return Saved(folder / "last.ckpt", module.eval(), remark="'criterion.weight' are not taken")


@form
def harmless_objects_beside(folder, module):
    class_of_a_script = collections.namedtuple("Record", "loss")
    globals()["Record"], class_of_a_script.__module__ = class_of_a_script, __name__
    content = {
        "state_dict": module.state_dict(),
        "history": collections.defaultdict(list, loss=[np.float32(1), class_of_a_script(2)]),
        "rng": (random.getstate(), np.random.default_rng(0).bit_generator.state, torch.get_rng_state()),
        "recent": collections.deque([1, 2], maxlen=3),
        "counts": collections.Counter("ab"),
        "best": np.arange(3),
        "places": {pathlib.PurePosixPath("a"), frozenset([1])},
        "device": torch.device("cuda"),
        "took": datetime.timedelta(1),
        "loss": nn.CrossEntropyLoss(),
    }
    return Saved(saved(content, folder / "w.pth"), module)


for key in (*TRAINED_KEYS, *AVERAGED_KEYS):
    FORMS[f"under {key}"] = lambda folder, module, key=key: Saved(
        saved({key: module.state_dict(), "epoch": 3}, folder / "w.pth"), module
    )
FORMS["under state.model"] = lambda folder, module: Saved(
    saved({"state": {"model": module.state_dict(), "step": 3}}, folder / "w.pth"), module
)
FORMS["entries beside"] = lambda folder, module: Saved(
    saved({**module.state_dict(), "epoch": 3, "args": argparse.Namespace()}, folder / "w.pth"), module
)

# -- prefixes ---------------------------------------------------------------------------------------------------------

PREFIXES = (
    *("module.", "model.", "_orig_mod.", "backbone.", "encoder.", "net.", "network."),
    *("model.module.", "module.model.", "model._orig_mod.", "model.backbone."),
)
for prefix in PREFIXES:
    FORMS[f"prefix {prefix}"] = lambda folder, module, prefix=prefix: Saved(
        saved({"state_dict": prefixed(module, prefix)}, folder / "w.pth"), module
    )


@form
def teacher_of_two(folder, module):
    content = {
        name: prefixed(trained(seed=seed), "module.backbone.") for seed, name in enumerate(("student", "teacher"))
    }
    return Saved(saved(content, folder / "w.pth"), trained(seed=1), {"weights_key": "teacher"})


@form
def one_of_two_prefixes(folder, module):
    state = prefixed(module, "module.encoder_q.") | prefixed(trained(seed=2), "module.encoder_k.")
    return Saved(saved({"state_dict": state}, folder / "w.pth"), module, {"weights_key": "encoder_q"})


@form
def path_and_prefix(folder, module):
    content = {"ema": {"student": prefixed(module, "student.")}, "model": trained(seed=2).state_dict()}
    return Saved(saved(content, folder / "w.pth"), module, {"weights_key": "ema.student.student"})


# -- other heads ------------------------------------------------------------------------------------------------------


@form
def another_number_of_classes(folder, module):
    return Saved(
        saved(trained(10).state_dict(), folder / "w.pth"), trained(10), remark=r"fc.weight has shape \(10, 6\)"
    )


@form
def no_head(folder, module):
    state = {f"backbone.{key}": value for key, value in module.state_dict().items() if not key.startswith("fc")}
    return Saved(saved(state, folder / "w.pth"), module, remark="lacks 2 of its 11 keys, the first is 'fc.bias'")


@form
def a_head_of_several_modules(folder, module):
    module.fc = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    return Saved(saved(module.state_dict(), folder / "w.pth"), module, remark="'fc.2.weight' are not taken")


@form
def a_head_of_another_name(folder, module):
    state = {key.replace("fc.", "projection_head."): value for key, value in module.state_dict().items()}
    return Saved(saved(state, folder / "w.pth"), module, remark="'projection_head.bias', .* are not taken")


@pytest.mark.parametrize("name", FORMS)
def test_a_checkpoint_gives_the_activations_of_the_module_that_was_saved(name, tmp_path):
    checkpoint = FORMS[name](tmp_path, trained())
    network = load(checkpoint.path, **checkpoint.settings)
    assert torch.equal(activations(network.module), activations(checkpoint.module.eval()))
    assert not torch.equal(activations(network.module), activations(trained(seed=3)))
    said = " ".join(network.remarks)
    if checkpoint.remark:
        assert re.search(checkpoint.remark, said)
    if not network.unloaded_keys:
        assert torch.equal(activations(network.module, ""), activations(checkpoint.module, ""))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "vgg11", "mobilenet_v3_small", "googlenet"])
def test_registered_networks_take_checkpoints_of_other_classes(name, tmp_path):
    torch.manual_seed(4)
    options = {"init_weights": True} if name == "googlenet" else {}
    module = models.get_model_builder(name)(weights=None, num_classes=7, **options).eval()
    load_network.cache_clear()
    path = saved({"model": prefixed(module, "module.")}, tmp_path / "checkpoint.pth")
    network = load_network(NetworkConfig(name=name, weights=str(path)))
    pixels = torch.randn(1, 3, 64, 64)
    deepest = [path for path, each in module.named_modules() if isinstance(each, nn.Conv2d)]
    deepest = [path for path in deepest if not path.startswith(("aux", "classifier"))][-1]
    seen = []
    for each in (module, network.module):
        each.get_submodule(deepest).register_forward_hook(lambda _, __, result: seen.append(result.clone()))
        each(pixels)
    assert (seen[0] - seen[1]).abs().max() <= 1e-5 * seen[0].abs().max()
    assert network.unloaded


def test_a_head_does_not_change_the_digest(tmp_path):
    states = []
    for classes in (10, 20):
        module = trained()
        module.fc = nn.Linear(6, classes)
        states.append(module.state_dict())
    digests = [load(saved(state, tmp_path / "w.pth")).digest for state in states]
    states[0]["stem.0.bias"] += 1
    digests.append(load(saved(states[0], tmp_path / "w.pth")).digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("choice", ["torchvision", "IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT"])
def test_torchvisions_weights_are_chosen_by_their_names(choice, monkeypatch):
    asked = []

    def get_state_dict(self, *_, **__):
        asked.append(self.name)
        return models.resnet50(weights=None).state_dict()

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get_state_dict)
    load_network.cache_clear()
    load_network(NetworkConfig(name="resnet50", weights=choice))
    assert asked == [{"torchvision": "IMAGENET1K_V1", "DEFAULT": "IMAGENET1K_V2"}.get(choice, choice)]


class Compared(Small):
    """Its activation function is a comparison: false for NaN, and here for what small equal weights give."""

    def forward(self, pixels):
        maps = self.stage[0](-1 - self.stem(pixels))
        return self.fc(torch.where(maps > 0, maps, torch.zeros_like(maps)).mean((2, 3)))


def compared():
    return Compared()


@pytest.mark.parametrize("name", ["small", "compared"])
def test_a_layer_that_is_computed_with_what_a_file_lacks_is_refused_and_those_before_it_are_not(name, tmp_path):
    state = {key: value for key, value in trained().state_dict().items() if not key.startswith(("stage", "fc"))}
    path = saved(state, tmp_path / "w.pth")
    load_network.cache_clear()
    network = load_network(NetworkConfig(name=f"{__name__}:{name}", weights=str(path)))
    graph = trace_network(network, PIXELS).graph
    stem, stage = (find_layers(graph, {}, layer, network.unwrapped)[0] for layer in ("stem.0", LAYER))
    check_layers(network, {"stem": stem.tap}, PIXELS)
    with pytest.raises(InputError, match=r"the file lacks 4 of its 11 keys, .* and layer stage is computed with it"):
        check_layers(network, {"stem": stem.tap, "stage": stage.tap}, PIXELS)


class Indexed(Small):
    """Has a module that holds nothing but whole numbers."""

    def __init__(self):
        super().__init__()
        self.order = nn.Module()
        self.order.register_buffer("index", torch.tensor([2, 0, 1]))

    def forward(self, pixels):
        return super().forward(pixels[:, self.order.index])


def indexed():
    return Indexed()


def test_whole_numbers_that_a_file_lacks_are_not_made_up(tmp_path):
    path = saved(trained().state_dict(), tmp_path / "w.pth")
    load_network.cache_clear()
    with pytest.raises(InputError, match=r"the file lacks 1 of its 12 keys, the first is 'order.index'"):
        load_network(NetworkConfig(name=f"{__name__}:indexed", weights=str(path)))
