"""The keys of a state dict as a module has them: without what trainings and wrappers put before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from ...config.sections import NetworkConfig
from ...errors import InputError
from .finding import list_names

WRAPPERS = ("module", "_orig_mod")  # names that wrappers put into keys anywhere: see modules.preparation
# Names of the attribute under which a training's own module keeps the network: they are taken off without a question.
HOLDERS = ("model", "backbone", "encoder", "net", "network")


def rename(keys: Collection[str], expected: Collection[str], config: NetworkConfig) -> dict[str, str]:
    """Return each key by the name that it has in a module: without names of wrappers, and without a common prefix.

    A prefix of ``HOLDERS`` is taken off where that makes the most keys fit. One of other names is not, because nothing
    says which of several networks it is (``student``, ``teacher``).

    Parameters
    ----------
    keys : collection of str
        Of a state dict.
    expected : collection of str
        The module's.

    Returns
    -------
    dict of key to name
        Without the keys that do not begin with the prefix: they are not the network's.

    Raises
    ------
    InputError
        The keys begin with other names, or with several of which none comes first.
    """
    names = _by_inner_name(expected)
    prefix = _choose_prefix(_count_prefixes(keys, names), len(expected), config)
    renamed = {key: key for key in keys if key in expected}
    taken = set(renamed)
    for key in keys:
        inner = inner_name(key)
        if key not in renamed and inner.startswith(prefix):
            name = names.get(inner[len(prefix) :], inner[len(prefix) :])
            if name not in taken:
                renamed[key] = name
                taken.add(name)
    return renamed


def keys_below(keys: Iterable[str], prefix: str) -> dict[str, str]:
    """Return the keys that begin with a prefix, and what they are without it; names of holders may stand before it.

    >>> keys_below(["module.model.student.fc.bias", "module.model.teacher.fc.bias"], "student")
    {'module.model.student.fc.bias': 'fc.bias'}
    """
    below = {}
    for key in keys:
        inner = inner_name(key)
        while not inner.startswith(f"{prefix}.") and inner.partition(".")[0] in HOLDERS:
            inner = inner.partition(".")[2]
        if inner.startswith(f"{prefix}."):
            below[key] = inner.removeprefix(f"{prefix}.")
    return below


def inner_name(key: str) -> str:
    """Return a key without the names of wrappers.

    >>> inner_name("module._orig_mod.conv.weight")
    'conv.weight'
    """
    return ".".join(name for name in key.split(".") if name not in WRAPPERS)


def _by_inner_name(expected: Collection[str]) -> dict[str, str]:
    """Return a module's keys by what is left of them without the names of wrappers, which a module may have, too."""
    names = {inner_name(key): key for key in expected}
    return names if len(names) == len(expected) else {key: key for key in expected}


def _count_prefixes(keys: Collection[str], names: Collection[str]) -> Counter[str]:
    """Count for every prefix of the keys, with its last dot, how many of a module's names stand behind it."""
    counts: Counter[str] = Counter()
    for key in keys:
        inner = inner_name(key)
        while inner:
            if inner in names:
                counts[inner_name(key).removesuffix(inner)] += 1
            inner = inner.partition(".")[2]
    return counts


def _choose_prefix(counts: Counter[str], expected: int, config: NetworkConfig) -> str:
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    known = [prefix for prefix in best if all(name in HOLDERS for name in prefix.split(".")[:-1])]
    if not best or "" in best:
        return ""
    if len(known) == 1:
        return known[0]
    if not known and 2 * most < expected:  # a few keys look alike by chance: what the file lacks says more
        return ""
    fitting = [prefix.removesuffix(".") for prefix, count in counts.items() if 2 * count >= expected or prefix in known]
    raise _ask(fitting, config)


def _ask(prefixes: list[str], config: NetworkConfig) -> InputError:
    """Return the error that asks which prefix the keys of a network begin with."""
    name, weights, example = config.name, config.weights, f"network.weights_key = {prefixes[0]!r}"
    if len(prefixes) == 1:
        return InputError(
            f"the keys of weights {weights} begin with {prefixes[0]!r}, as those of {name} do not: if they are of "
            f"{name}, say so by {example}."
        )
    return InputError(
        f"weights {weights} hold more than one network: keys that could be of {name} begin with "
        f"{list_names(prefixes)}. Choose one, as in {example}."
    )
