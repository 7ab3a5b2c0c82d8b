"""Where a layer lies in a store: its name as one step of a path, whatever is in it, and back.

A layer is named as its module or as the user names it. Caffe's ``conv1/7x7`` would be two steps of a path. Names
without slashes and the like stand as they are.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f]|%(?=[0-9A-F]{2})")
_RESERVED = re.compile(r"\.+|zarr\.json")  # steps with a meaning of their own for file systems and Zarr


def layer_path(name: str) -> str:
    """Return the path of a layer's group in a store.

    >>> layer_path("features.0"), layer_path("conv1/7x7")
    ('layers/features.0', 'layers/conv1%2F7x7')
    """
    return f"layers/{quote(name)}"


def marker_path(kind: str, name: str) -> str:
    """Return the path of a layer's markers in a store, ``done`` or ``failed``.

    >>> marker_path("done", "conv1/7x7")
    'progress/done/conv1%2F7x7'
    """
    return f"progress/{kind}/{quote(name)}"


def quote(name: str) -> str:
    r"""Return a name as one step of a path, with what would be misread as ``%`` and two hexadecimal digits.

    >>> [quote(name) for name in ("conv1_2", "conv1/7x7", "100%", "a%2Fb", "..")]
    ['conv1_2', 'conv1%2F7x7', '100%', 'a%252Fb', '%2E.']
    """
    step = _UNSAFE.sub(lambda match: _code(match[0]), name)
    return f"{_code(step[0])}{step[1:]}" if _RESERVED.fullmatch(step) else step


def unquote(step: str) -> str:
    """Return the name that a step of a path stands for.

    >>> [unquote(quote(name)) for name in ("conv1_2", "conv1/7x7", "100%", "a%2Fb", "..")]
    ['conv1_2', 'conv1/7x7', '100%', 'a%2Fb', '..']
    """
    return re.sub(r"%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), step)


def _code(character: str) -> str:
    return f"%{ord(character):02X}"
