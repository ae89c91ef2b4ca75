"""A GPU that is not there: tensors on the CPU that refuse what a GPU's refuse.

Values are computed on the CPU, but `Elsewhere` says ``cuda:0`` of its device, and refuses to meet a tensor of the CPU,
to become an array, to draw from a generator of the CPU, and to hold float64, which Apple's GPUs cannot.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda", 0)
ACROSS = ("copy_", "__get__", "__set__", "__repr__", "__len__", "dim", "numel", "size")
"""May see tensors of both devices, or compute nothing."""


class OtherGenerator(torch._C.Generator):
    """A generator of the device; in truth one of the CPU."""

    def __new__(cls, device=None):
        return super().__new__(
            cls if device is not None and torch.device(device).type == "cuda" else torch._C.Generator
        )


class Elsewhere(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.__name__
        if function == torch.Tensor.device.__get__:
            return DEVICE
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if name == "cpu":
            return plain(args[0])
        if name == "to" and isinstance(args[0], cls):
            return moved(args, kwargs)
        if name == "__iter__":
            return iter(args[0].unbind(0))
        if name not in ACROSS:
            require_one_place(name, args, kwargs)
        if torch.device(kwargs.get("device") or DEVICE) != DEVICE:
            return plain(super().__torch_function__(function, types, args, kwargs))
        found = super().__torch_function__(
            function, types, args, kwargs | {"device": "cpu"} if "device" in kwargs else kwargs
        )
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                raise TypeError(f"{name}: the device has no float64.")
        return found


class OtherDevice(TorchFunctionMode):
    """What is made for the device, or moved there, becomes `Elsewhere`."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.__name__ == "to" and not isinstance(args[0], Elsewhere):
            return moved(args, kwargs)
        if any(isinstance(leaf, Elsewhere) for leaf in tree_leaves((args, kwargs))):
            return function(*args, **kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            require_own_generator(function.__name__, kwargs)
            made = function(*args, **kwargs | {"device": "cpu"})
            if made.dtype == torch.float64:
                raise TypeError(f"{function.__name__}: the device has no float64.")
            return made.as_subclass(Elsewhere)
        return function(*args, **kwargs)


def plain(tensor):
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(torch.Tensor)


def moved(args, kwargs):
    """``tensor.to(...)``."""
    tensor, *rest = args
    wanted, others = None, []
    for one in (*rest, kwargs.get("device")):
        if isinstance(one, torch.Tensor):
            wanted, others = one.device, [*others, one.dtype]
        elif isinstance(one, torch.device | str):
            wanted = torch.device(one)
        elif isinstance(one, torch.dtype):
            others.append(one)
    here = isinstance(tensor, Elsewhere)
    stays = wanted is None
    with torch._C.DisableTorchFunction():
        changed = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking")}
        made = tensor.to(*others, **changed) if others or changed else tensor
        there = here if stays else wanted.type == "cuda"
        if there and made.dtype == torch.float64:
            raise TypeError("to: the device has no float64.")
        return made.as_subclass(Elsewhere if there else torch.Tensor)


def require_one_place(name, args, kwargs):
    looked_at = args
    if name in ("__getitem__", "__setitem__") and isinstance(args[0], Elsewhere):
        looked_at = (args[0], *args[2:])  # indices may lie on the CPU
    tensors = [leaf for leaf in tree_leaves((looked_at, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_cpu = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim()]
    if on_cpu and len(on_cpu) < len(tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu.")
    require_own_generator(name, kwargs)


def require_own_generator(name, kwargs):
    if kwargs.get("generator") is not None and not isinstance(kwargs["generator"], OtherGenerator):
        raise RuntimeError(f"{name}: expected a 'cuda' device type for generator but found 'cpu'.")


def placed(network):
    """A network with its weights on the device."""
    for module in network.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    store[name] = tensor.detach().as_subclass(Elsewhere).requires_grad_(tensor.requires_grad)
    return network


@contextlib.contextmanager
def other_device(monkeypatch):
    """While the block lasts, there is such a device."""
    monkeypatch.setattr(torch, "Generator", OtherGenerator)
    with OtherDevice():
        yield DEVICE
