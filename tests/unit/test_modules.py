"""Networks of users: what is done to their modules, and their weights files; each function here is one such network."""

import os
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.loading import load_network
from topnine.pipeline.network.modules.preparation import count_channels, unwrap
from topnine.pipeline.network.modules.tensors import constants, convert, convert_to_float32, named_constants
from topnine.pipeline.network.registry import ARCHITECTURES
from topnine.pipeline.network.weights import weights_digest

PIXELS = torch.linspace(-1, 1, 3 * 12 * 12).view(1, 3, 12, 12)
Pair = namedtuple("Pair", "first second")


@pytest.fixture(autouse=True)
def _no_network_is_kept():
    yield
    load_network.cache_clear()


def load(function, weights="random", digest=""):
    return load_network(NetworkConfig(name=f"{__name__}:{function.__name__}", weights=str(weights)), digest)


def refusal(function, weights="random"):
    with pytest.raises(InputError) as caught:
        load(function, weights)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


# -- networks ---------------------------------------------------------------------------------------------------------


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())


def of_fixed_values(module):
    for tensor in constants(module):
        if tensor.is_floating_point():
            tensor.data = torch.linspace(-1, 1, tensor.numel()).view(tensor.shape)
    return module


class Holder(nn.Module):
    """A network with constants wherever they can be."""

    of_class = torch.ones(1)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("unkept", torch.full((1,), 2.0), persistent=False)
        self.attribute = torch.full((1,), 3.0)
        self.nested = [torch.full((1,), 5.0), {"key": (torch.full((1,), 7.0),)}]
        self.pair = Pair(torch.full((1,), 11.0), 1)
        self.unlisted = [nn.Conv2d(4, 4, 1)]

    def forward(self, pixels):
        scale = self.unkept * self.attribute * self.nested[0] * self.nested[1]["key"][0] * self.pair.first
        return self.unlisted[0](self.conv(pixels)) * (scale * self.of_class)


def holder():
    return Holder()


class Extra(nn.Sequential):
    version = 1

    def get_extra_state(self):
        return {"version": self.version}

    def set_extra_state(self, state):
        self.version = state["version"]


def extra():
    return Extra(*plain())


class Head(nn.Module):
    """A network whose head has an assertion, with modules without shapes."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(5)

    def forward(self, pixels):
        assert pixels.shape[-1] == 12, "made for 12 pixels"
        return self.linear(self.norm(self.conv(pixels)).flatten(1))


def asserting():
    return Head()


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())


def unreached():
    module = plain()
    module.register_module("aside", nn.LazyLinear(3))
    module.forward = module[0].forward
    return module


def in_bfloat16():
    return of_fixed_values(plain()).bfloat16()


def in_half():
    module = of_fixed_values(plain()).half()
    module.mean = [torch.zeros(1).half()]
    return module


def in_double():
    return of_fixed_values(plain()).double()


def with_a_double():
    module = plain()
    module.register_buffer("scale", torch.ones((), dtype=torch.float64))
    return module


def in_inference():
    with torch.inference_mode():
        return plain()


def setting_defaults():
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    return plain()


def video():
    return nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU())


def odd_types():
    module = plain()
    module.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    module.steps = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    module.mask = torch.eye(2).to_sparse()
    module.derived = module[0].weight * 2  # with a history
    return module


def tied():
    module = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    module[1].weight = module[0].weight
    module.listed = [module[0].weight]
    return module


def parallel():
    return nn.DataParallel(plain())


def averaged():
    return AveragedModel(plain())


def compiled():
    return torch.compile(plain(), backend="eager")


def compiled_in_parallel():
    return nn.DataParallel(compiled())


def compiled_in_place():
    module = plain()
    module.compile(backend="eager")
    return module


def parts_wrapped():
    return nn.Sequential(nn.DataParallel(nn.Sequential(nn.Conv2d(3, 3, 3))), torch.compile(plain(), backend="eager"))


def named_module():
    module = nn.Module()
    module.module = plain()
    return module


def scripted():
    return torch.jit.script(plain())


def scripted_part():
    return nn.Sequential(torch.jit.script(plain()).half(), nn.Conv2d(5, 2, 1).half())


def quantised():
    module = plain()
    module[2] = torch.ao.nn.quantized.Conv2d(4, 5, 3)
    return module


def quantised_tensor():
    module = plain()
    module.codes = [torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)]
    return module


def on_meta():
    with torch.device("meta"):
        return plain()


def partly_on_meta():
    module = plain()
    module.mean = torch.zeros(1, device="meta")
    return module


def not_a_number():
    module = plain()
    nn.init.constant_(module[2].weight, float("nan"))
    return module


def unseeded():
    module = plain()
    nn.init.constant_(module[0].weight, float(np.random.default_rng().random()))
    return module


def nothing():
    return None


def a_tuple():
    return plain(), 1


def a_class():
    return nn.ReLU


def needing(size):
    return plain()


def raising():
    raise KeyError("no such file\nmore")


def leaving():
    raise SystemExit(2)


instance = plain()


# -- constants --------------------------------------------------------------------------------------------------------


def test_constants_are_found_wherever_a_module_holds_them():
    module = Holder()
    names = {
        "conv.weight", "conv.bias", "kept", "unkept", "attribute", "nested.0", "nested.1.key.0", "pair.0", "of_class",
        "unlisted.0.weight", "unlisted.0.bias",
    }  # fmt: skip
    assert {name for name, _ in named_constants(module)} == names
    assert len(list(constants(module))) == len(names)


def test_a_constant_that_is_shared_is_listed_once_and_stays_shared():
    module = tied()
    assert [name for name, _ in named_constants(module)] == ["0.weight", "0.bias", "1.bias"]
    convert(module, lambda tensor: tensor.detach().double())
    assert module[0].weight is module[1].weight is module.listed[0]
    assert module[0].weight.dtype == torch.float64
    assert isinstance(module[0].weight, nn.Parameter)


def test_what_holds_itself_ends():
    module = plain()
    module.itself = [module]
    module.itself.append(module.itself)
    convert_to_float32(module.half())
    assert {tensor.dtype for tensor in constants(module)} == {torch.float32}


def test_conversion_reaches_every_constant_and_leaves_the_class_alone():
    module = Holder()
    expected = module(PIXELS)
    convert(module, lambda tensor: tensor.detach().to(torch.float64))
    assert {tensor.dtype for tensor in constants(module)} == {torch.float64}
    assert isinstance(module.pair, Pair)
    assert Holder.of_class.dtype == torch.float32
    torch.testing.assert_close(module(PIXELS.double()).float(), expected, atol=0.01, rtol=1e-3)


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "precision"), [(in_bfloat16, "bfloat16"), (in_half, "float16"), (in_double, "float64")]
)
def test_other_precisions_become_float32(function, precision):
    network = load(function)
    assert {tensor.dtype for tensor in constants(network.module)} == {torch.float32}
    assert precision in network.notes[0]
    expected = of_fixed_values(plain())(PIXELS)
    torch.testing.assert_close(network.module(PIXELS), expected, atol=0.05, rtol=0.05)


def test_a_single_constant_in_double_precision_is_meant():
    network = load(with_a_double)
    assert network.module.scale.dtype == torch.float64
    assert network.notes == ()


@pytest.mark.parametrize("function", [plain, in_inference, odd_types, holder, tied, video, extra])
def test_a_network_has_no_gradients_and_can_be_derived_by_its_input(function):
    module = load(function).module
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in constants(module))
    assert not module.training
    if function is not video:
        pixels = PIXELS.clone().requires_grad_()
        module(pixels).sum().backward()
        assert pixels.grad.abs().sum() > 0


def test_what_a_function_sets_for_all_of_torch_is_undone():
    module = load(setting_defaults).module
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert module[0].weight.dtype == torch.float32


# -- digest -----------------------------------------------------------------------------------------------------------


def test_the_digest_is_what_it_was_where_the_state_dict_holds_everything():
    assert weights_digest(of_fixed_values(plain())) == "195671403ca8fde9"
    assert load_network(NetworkConfig(name="tiny_zfnet", weights="bundled")).digest == "6f12e5a63b84e3a7"


def change_unkept(module):
    module.unkept.fill_(0)


def change_attribute(module):
    module.attribute.fill_(0)


def change_nested(module):
    module.nested[1]["key"][0].fill_(0)


def change_pair(module):
    module.pair.first.fill_(0)


def change_unlisted(module):
    nn.init.zeros_(module.unlisted[0].weight)


def change_class(module):
    type(module).of_class.fill_(2)


@pytest.mark.parametrize(
    "change", [change_unkept, change_attribute, change_nested, change_pair, change_unlisted, change_class]
)
def test_another_constant_is_another_network(change, monkeypatch):
    monkeypatch.setattr(Holder, "of_class", torch.ones(1))
    module = Holder()
    before = weights_digest(module)
    assert weights_digest(module) == before
    change(module)
    assert weights_digest(module) != before


@pytest.mark.parametrize("function", [extra, odd_types, in_bfloat16, scripted_part, lazy])
@pytest.mark.filterwarnings("ignore")
def test_every_network_has_a_digest_that_stays(function):
    first = load(function).digest
    load_network.cache_clear()
    assert load(function, digest=first).digest == first


def test_weights_that_are_drawn_anew_are_refused_where_the_digest_is_another():
    planned = load(unseeded).digest
    assert load(unseeded, digest=planned).digest == planned  # the process keeps the network
    load_network.cache_clear()
    with pytest.raises(InputError, match=f"gives other weights each time it is called .*{planned}.*: seed whatever"):
        load(unseeded, digest=planned)


@pytest.mark.parametrize(("weights", "remedy"), [("bundled", "the same file"), ("random", "the same version of torch")])
def test_other_weights_of_a_registered_network_are_refused(weights, remedy):
    with pytest.raises(InputError, match=f"digest is .* and was 0123 .*{remedy}"):
        load_network(NetworkConfig(name="tiny_zfnet", weights=weights), "0123")


# -- wrappers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "prefix"),
    [
        (plain, ""),
        (parallel, "module."),
        (averaged, "module."),
        (compiled, "_orig_mod."),
        (compiled_in_parallel, "module._orig_mod."),
        (compiled_in_place, ""),
        (named_module, ""),
    ],
)
def test_wrappers_are_taken_off(function, prefix):
    network = load(function)
    if function is not named_module:
        assert type(network.module) is nn.Sequential
        assert network.unwrapped(f"{prefix}2") == network.unwrapped("2") == "2"
    assert network.digest == (load(function).digest)


def test_wrappers_of_parts_are_taken_off():
    module, wrappers = unwrap(parts_wrapped())
    assert wrappers == ("0.module", "1._orig_mod")
    assert [name for name, _ in module.named_parameters()][::2] == ["0.0.weight", "1.0.weight", "1.2.weight"]
    assert load(parts_wrapped).unwrapped("1._orig_mod.2") == "1.2"


def test_layers_of_a_configuration_are_reached_through_wrappers():
    config = NetworkConfig(name=f"{__name__}:parallel", layers={"deep": "module.2"})
    assert load_network(config).architecture.layers == {"deep": "2"}


class Counting(torch.overrides.TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("function", [compiled, compiled_in_place])
def test_compiled_networks_run_as_they_are_written(function):
    module = load(function).module
    with Counting() as counting:
        module(PIXELS)
    assert counting.names.count("conv2d") == 2


# -- lazy modules -----------------------------------------------------------------------------------------------------


def test_lazy_modules_get_their_shapes_and_seeded_weights():
    network = load(lazy)
    assert type(network.module[0]) is nn.Conv2d
    assert network.module[0].in_channels == 3
    assert network.module(PIXELS).shape == (1, 4, 10, 10)
    assert "lazy modules" in network.notes[0]


def test_lazy_modules_take_the_shapes_of_a_weights_file(tmp_path):
    module = Head()
    module(PIXELS)
    network = load(asserting, saved(module.state_dict(), tmp_path))
    assert torch.equal(network.module.conv.weight, module.conv.weight)
    assert (type(network.module.conv), network.module.conv.in_channels) == (nn.Conv2d, 3)
    torch.testing.assert_close(network.module(PIXELS), module.eval()(PIXELS))
    assert network.notes == ()


def test_lazy_modules_that_nothing_gives_a_shape_are_refused():
    assert "224×224 pixels raises AssertionError: made for 12 pixels: run it once" in refusal(asserting)
    assert "'aside.weight', and a forward pass of 224×224 pixels does not come by them" in refusal(unreached)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (scripted, "gives a scripted network (RecursiveScriptModule)"),
        (quantised, "gives a quantised network ('2' is torch.ao.nn.quantized"),
        (quantised_tensor, "gives a quantised network ('codes.0' is torch.qint8)"),
        (on_meta, "'0.weight' has no values: build it on the CPU"),
        (partly_on_meta, "'mean' has no values"),
        (not_a_number, "'2.weight' holds values that are not finite"),
        (nothing, "gives a NoneType, not a torch.nn.Module"),
        (a_tuple, "gives a tuple, not"),
        (a_class, "gives the class ReLU, not"),
        (needing, "fails when it is called without arguments: TypeError: needing() missing 1 required"),
        (raising, "called without arguments: KeyError: 'no such file"),
        (leaving, "called without arguments: SystemExit: 2"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_mined_is_one_sentence(function, sentence):
    assert sentence in refusal(function)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import no_such_library", "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("def build(:", "cannot be imported: SyntaxError: "),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
        ("from torch import nn; build = nn.ReLU()", "is a network: name a function without arguments that returns it"),
        ("build = 3", "has no function 'build'"),
        ("", "has no function 'build'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_sentence(source, sentence, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"broken_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    with pytest.raises(InputError) as caught:
        load_network(NetworkConfig(name=f"{name}:build"))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_part_is_left_to_the_trace():
    module = load(scripted_part).module
    assert isinstance(module[0], torch.jit.ScriptModule)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert module(PIXELS).shape == (1, 2, 8, 8)


def test_a_video_network_is_loaded():
    assert load(video).module(torch.zeros(1, 3, 4, 8, 8)).shape == (1, 4, 2, 6, 6)


# -- weights files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function", [plain, holder, extra, in_bfloat16, parallel, averaged, compiled_in_parallel, parts_wrapped, tied]
)
def test_a_weights_file_gives_what_the_network_had(function, tmp_path):
    torch.manual_seed(7)
    module = function()
    network = load(function, saved(module.state_dict(), tmp_path))
    given = {name.replace("module.", "").replace("_orig_mod.", ""): t for name, t in module.state_dict().items()}
    loaded = network.module.state_dict()
    for name in [name for name in loaded if "_extra_state" not in name]:
        assert torch.equal(loaded[name], given[name].float()), name
    assert not any(tensor.is_meta for tensor in constants(network.module))


def test_constants_that_no_file_has_keep_their_values(tmp_path):
    module = Holder()
    loaded = load(holder, saved(module.state_dict(), tmp_path)).module
    loaded.unlisted[0].load_state_dict(module.unlisted[0].state_dict())  # which no state dict has either
    torch.testing.assert_close(loaded(PIXELS), module(PIXELS), atol=0.01, rtol=1e-3)


def test_a_parameter_in_a_list_follows_the_file(tmp_path):
    state = {name: tensor + 1 for name, tensor in tied().state_dict().items()}
    module = load(tied, saved(state, tmp_path)).module
    assert module.listed[0] is module[0].weight is module[1].weight
    del state["1.weight"]
    load_network.cache_clear()
    assert torch.equal(load(tied, saved(state, tmp_path)).module[1].weight, state["0.weight"])


def test_a_network_without_values_takes_those_of_a_file(tmp_path):
    state = plain().state_dict()
    assert torch.equal(load(on_meta, saved(state, tmp_path)).module[2].weight, state["2.weight"])
    module = plain()
    assert "'mean' has no values" in refusal(partly_on_meta, saved(module.state_dict(), tmp_path))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("function", [plain, parallel, compiled, averaged])
def test_the_names_of_wrappers_in_files_do_not_matter(function, prefix, tmp_path):
    state = plain().state_dict()
    wrapped = {f"{prefix}{name}": tensor for name, tensor in state.items()} | {"n_averaged": torch.tensor(3)}
    assert torch.equal(load(function, saved(wrapped, tmp_path)).module[2].weight, state["2.weight"])


def test_a_module_that_is_called_module_keeps_its_name(tmp_path):
    state = named_module().state_dict()
    loaded = load(named_module, saved(state, tmp_path)).module.state_dict()
    assert list(loaded) == list(state)
    assert torch.equal(loaded["module.0.weight"], state["module.0.weight"])


@pytest.mark.parametrize("function", [plain, extra])
def test_extra_state_in_a_file_may_be_missing_or_another(function, tmp_path):
    state = plain().state_dict()
    for more in ({}, {"_extra_state": {"version": 9}}):
        load_network.cache_clear()
        module = load(function, saved({**state, **more}, tmp_path)).module
        assert torch.equal(module[0].weight, state["0.weight"])
        assert getattr(module, "version", 9) == (9 if more or function is plain else 1)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_extra_state_is_not_run(tmp_path):
    path = str(tmp_path / "ran")
    assert "cannot be read" in refusal(extra, saved({**plain().state_dict(), "_extra_state": Evil(path)}, tmp_path))
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda tensor: tensor * float("nan"), "0.weight holds values that are not finite"),
        (lambda tensor: tensor.to(torch.complex64), "0.weight holds values that are not finite real numbers"),
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "0.weight holds quantised values"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_values_that_are_no_weights_are_one_sentence(make, sentence, tmp_path):
    state = plain().state_dict()
    assert sentence in refusal(plain, saved({**state, "0.weight": make(state["0.weight"])}, tmp_path))


@pytest.mark.parametrize(
    "make", [torch.Tensor.double, torch.Tensor.bfloat16, torch.Tensor.to_sparse, lambda t: t.to(torch.float8_e4m3fn)]
)
@pytest.mark.filterwarnings("ignore")
def test_values_of_any_type_are_taken(make, tmp_path):
    state = plain().state_dict()
    module = load(plain, saved({**state, "0.weight": make(state["0.weight"])}, tmp_path)).module
    torch.testing.assert_close(module[0].weight, state["0.weight"], atol=0.05, rtol=0.1)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_registered_networks_have_no_constants_but_those_of_their_state_dict(name):
    with torch.device("meta"):
        try:
            module = ARCHITECTURES[name].build()
        except RuntimeError:  # RegNet computes its widths with tensors, and is built with values
            return
    assert {path for path, _ in named_constants(module)} <= module.state_dict().keys()


@pytest.mark.parametrize(
    ("first", "channels"),
    [
        (nn.Conv2d(3, 4, 3), 3),
        (nn.Conv2d(1, 4, 3), 1),
        (nn.Conv2d(5, 4, 3), 5),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)), 3),
        (nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (224, 224)), nn.BatchNorm2d(7), nn.Conv2d(7, 4, 3)), 7),
    ],
)
def test_channels_are_three_where_a_network_runs_on_three(first, channels):
    network = nn.Sequential(first, nn.ReLU()).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert count_channels(network) == channels
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
