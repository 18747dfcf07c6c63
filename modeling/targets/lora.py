"""LoRA adapters of a target network, in PEFT's form and file format.

LoRA on every convolution and linear layer (A = convolution with the base kernel to rank r,
B = 1×1) and, as `modules_to_save`, the norms' affines. The files load with plain
`PeftModel.from_pretrained`. What PEFT lacks is a *concept axis*: many adapters in one batch, each
an argument of the call. That is done here with `torch.func`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.func import functional_call, vmap

from modeling import compiling
from modeling.targets.conv_norm import ChannelAffine
from modeling.targets.layers import LayerGroup
from modeling.targets.network import TargetNetwork
from modeling.targets.side_by_side import DOWN, UP, SideBySide

if TYPE_CHECKING:
    from peft import LoraConfig

Adapter = dict[str, Tensor]
PREFIX = "base_model.model."
WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
MERGED, VMAP, SHARED = WAYS = ("merged", "vmap", "shared")
"""How several adapters go through the network: each merged, one after another; merged, in grouped
operations; or side by side over one base (side_by_side.py)."""


class AdapterError(ValueError):
    """An adapter that does not fit the network it is meant for."""


def _lora_layers(network: nn.Module) -> list[str]:
    return [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def _norm_layers(network: nn.Module) -> list[str]:
    return [n for n, m in network.named_modules() if isinstance(m, ChannelAffine | nn.LayerNorm)]


def check_adaptable(network: TargetNetwork, ranks: Mapping[str, int]) -> None:
    """AdapterError if LoRA cannot be all that changes in the network, or a rank is of no layer."""
    if any(isinstance(m, nn.BatchNorm2d) for m in network.modules()):
        raise AdapterError(
            "the base still has running statistics: call freeze_statistics() before attaching LoRA"
        )
    adapted = {*_lora_layers(network), *_norm_layers(network)}
    for name, module in network.named_modules():
        if name not in adapted and list(module.parameters(recurse=False)):
            raise AdapterError(
                f"{name}: a {type(module).__name__} can take no LoRA: build the base of"
                " convolutions, linear layers, ChannelAffine and LayerNorm"
            )
    unknown = sorted(set(ranks) - set(_lora_layers(network)))
    if unknown:
        raise AdapterError(f"no layer named {unknown[0]!r} to set a rank for")


def lora_config(
    network: TargetNetwork, rank: int, ranks: Mapping[str, int] | None = None
) -> LoraConfig:
    """PEFT's config for this network: LoRA everywhere, norm affines saved whole.

    `ranks` overrides the rank of single layers by full name. alpha = rank, so that the scale of
    B·A is 1 whatever the rank. Raises AdapterError as `check_adaptable` does.
    """
    # takes seconds, which every process that only reads adapters would pay
    from peft import LoraConfig

    ranks = dict(ranks or {})
    check_adaptable(network, ranks)
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=_lora_layers(network),
        modules_to_save=_norm_layers(network),
        # PEFT reads the patterns' keys as regular expressions matched at a name's end
        rank_pattern={f"^{name}$": r for name, r in ranks.items()},
        alpha_pattern={f"^{name}$": r for name, r in ranks.items()},
    )


class AdaptedTranslator:
    """A frozen base as a function of an adapter: (adapter, image, prompt) → image.

    The adapter's weights are never stored in the network, they are arguments of the call: that
    lets a batch of adapters, or one that a weight generator has just predicted, go through it with
    gradients. W + B·A is formed per call (PEFT's `merge`), which on a CPU trains faster
    than a separate low-rank path and is the same function (tests/modeling/targets/test_lora.py
    compares).
    """

    def __init__(
        self, base: TargetNetwork, rank: int, ranks: Mapping[str, int] | None = None, seed: int = 0
    ):
        ranks = dict(ranks or {})
        check_adaptable(base, ranks)
        self._rank, self._ranks = rank, ranks
        self.base_config = base.config
        self.multiple = base.multiple
        self.groups = _layer_groups(base)
        self.network = base.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        rng = torch.Generator().manual_seed(seed)
        self._initial: Adapter = {}
        self._layers = _lora_layers(base)
        self._affines = [f"{n}.{p}" for n in _norm_layers(base) for p in ("weight", "bias")]
        base_weights = dict(base.named_parameters())
        for name in self._layers:
            weight = base_weights[f"{name}.weight"]
            r = ranks.get(name, rank)
            down = torch.empty(r, *weight.shape[1:])
            # PEFT's start: Kaiming-uniform A, zero B
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=rng)
            up = torch.zeros(weight.shape[0], r, *[1] * (weight.dim() - 2))
            self._initial[f"{PREFIX}{name}.lora_A.weight"] = down
            self._initial[f"{PREFIX}{name}.lora_B.weight"] = up
        for name in self._affines:
            self._initial[PREFIX + name] = base_weights[name].detach().clone()

    @cached_property
    def lora_config(self) -> LoraConfig:
        """PEFT's description of the adapters."""
        return lora_config(self.network, self._rank, self._ranks)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of an adapter, by PEFT key."""
        return {k: tuple(v.shape) for k, v in self._initial.items()}

    @property
    def n_weights(self) -> int:
        return sum(v.numel() for v in self._initial.values())

    def to(self, device: torch.device | str) -> AdaptedTranslator:
        self.network.to(device)
        self._initial = {k: v.to(device) for k, v in self._initial.items()}
        return self

    def zero_adapter(self) -> Adapter:
        """The start of every training: A from the LoRA seed, B = 0, affines of the base."""
        return {k: v.clone() for k, v in self._initial.items()}

    def check(self, adapter: Mapping[str, Tensor]) -> None:
        """Raise AdapterError unless the keys and shapes are this base's and all is finite."""
        missing, extra = set(self.shapes) - set(adapter), set(adapter) - set(self.shapes)
        if missing or extra:
            raise AdapterError(
                f"not an adapter of this base: {len(missing)} tensors missing"
                f" ({min(missing, default='-')}), {len(extra)} unknown ({min(extra, default='-')})"
            )
        for key, shape in self.shapes.items():
            if tuple(adapter[key].shape) != shape:
                raise AdapterError(
                    f"{key}: shape {tuple(adapter[key].shape)}, this base has {shape}"
                )
            if not torch.isfinite(adapter[key]).all():
                raise AdapterError(f"{key}: not finite")

    def merge(self, adapter: Mapping[str, Tensor]) -> Adapter:
        """The base's state with W + B·A for every layer and the adapter's affines.

        Tensors with a leading concept axis give merged tensors with that axis.
        """
        merged = {name: adapter[PREFIX + name] for name in self._affines}
        base = dict(self.network.named_parameters())
        for name in self._layers:
            weight = base[f"{name}.weight"]
            rest = 1 - weight.dim()  # all dimensions of a factor but its first
            down = adapter[f"{PREFIX}{name}.lora_A.weight"].flatten(rest)
            up = adapter[f"{PREFIX}{name}.lora_B.weight"].flatten(rest)
            merged[f"{name}.weight"] = weight + (up @ down).unflatten(-1, weight.shape[1:])
        return merged

    def __call__(
        self, adapter: Mapping[str, Tensor], x: Tensor, tokens: Tensor, mask: Tensor
    ) -> Tensor:
        """One adapter: x [B, 3, H, W], tokens [L, D], mask [L] → [B, 3, H, W]."""
        return self.apply(self.merge(adapter), x, tokens, mask)

    def apply(
        self, merged: Mapping[str, Tensor], x: Tensor, tokens: Tensor, mask: Tensor
    ) -> Tensor:
        """The same with what `merge` returned, for an adapter that is used again and again."""
        return self._run(dict(merged), x, tokens[None], mask[None])

    def translate(
        self,
        adapters: Mapping[str, Tensor],
        x: Tensor,
        tokens: Tensor,
        mask: Tensor,
        way: str | None = None,
    ) -> Tensor:
        """G adapters at once: tensors [G, …], x [G, B, 3, H, W], tokens [G, L, D], mask [G, L].

        way: one of WAYS, the same function by other operations; by default VMAP for
        several on a GPU, where none has been compared, else MERGED, the fastest on a CPU up to
        width 32 (tests/bench/results/together_cpu.json). All concepts have the same dropout draw.
        """
        way = way or self._usual(x)
        if way == VMAP:
            return vmap(self.__call__, randomness="same")(dict(adapters), x, tokens, mask)
        if way == SHARED:
            return self._side_by_side(self._own(adapters), x, tokens, mask)
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
        state = torch.get_rng_state()
        run = self._compiled if compiling.is_on() and self.network.training else self._run
        outputs = []
        for i, merged in enumerate(unstack(self.merge(adapters))):
            torch.set_rng_state(state)
            prompt = (tokens[i : i + 1], mask[i : i + 1])
            outputs.append(run(merged, x[i], *prompt))
        return torch.stack(outputs)

    def _run(self, merged: Adapter, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        return functional_call(self.network, merged, (x, tokens, mask))

    @cached_property
    def _compiled(self) -> Callable[..., Tensor]:
        return compiling.compiled(self._run)

    def _usual(self, x: Tensor) -> str:
        """The way that nobody chose, for pictures [G, B, 3, H, W]."""
        if x.is_cuda and x.shape[0] > 1 and not compiling.is_on():  # of it only MERGED is compiled
            return VMAP
        return MERGED

    @cached_property
    def _side_by_side(self) -> SideBySide:
        return SideBySide(self.network)

    def _own(self, adapters: Mapping[str, Tensor]) -> Adapter:
        """An adapter's tensors by their names in the network."""
        own = {name: adapters[PREFIX + name] for name in self._affines}
        for name in self._layers:
            for factor in (DOWN, UP):
                own[f"{name}.{factor}"] = adapters[f"{PREFIX}{name}.{factor}.weight"]
        return own


def _layer_groups(network: TargetNetwork) -> list[LayerGroup]:
    """Layers in order, each with the norms after it and before the next layer (paper Sec. 4.2)."""
    layers, norms = set(_lora_layers(network)), set(_norm_layers(network))
    groups: list[LayerGroup] = []
    for name, _ in network.named_modules():
        key = PREFIX + name
        if name in layers:
            groups.append(LayerGroup(name, f"{key}.lora_A.weight", f"{key}.lora_B.weight", ()))
        elif name in norms:
            affine = (f"{key}.weight", f"{key}.bias")
            if not groups:
                groups.append(LayerGroup(name, "", "", affine))
                continue
            last = groups[-1]
            groups[-1] = LayerGroup(last.name, last.a, last.b, (*last.norm, *affine))
    return groups


def stack(adapters: Sequence[Mapping[str, Tensor]]) -> Adapter:
    """Adapters of one base → one dict with a leading concept axis."""
    return {k: torch.stack([a[k] for a in adapters]) for k in adapters[0]}


def unstack(adapters: Mapping[str, Tensor]) -> list[Adapter]:
    # unbind: the gradient of an index is as large as the whole axis
    parts = {k: v.unbind(0) for k, v in adapters.items()}
    count = len(next(iter(parts.values())))
    return [{k: v[i] for k, v in parts.items()} for i in range(count)]


def to_files(
    adapter: Mapping[str, Tensor], config: LoraConfig, metadata: Mapping[str, str]
) -> dict[str, bytes]:
    """The two files of a PEFT adapter folder, loadable with `PeftModel.from_pretrained`.

    Equal arguments give equal bytes.
    """
    tensors = {k: v.detach().to("cpu", torch.float32).contiguous() for k, v in adapter.items()}
    described = config.to_dict()
    for key, value in described.items():
        if isinstance(value, set):
            described[key] = sorted(value)
    described["inference_mode"] = True
    return {
        WEIGHTS_FILE: canonical(save(tensors, {"format": "pt", **metadata})),
        CONFIG_FILE: json.dumps(described, indent=2, sort_keys=True).encode(),
    }


def canonical(data: bytes) -> bytes:
    """A safetensors file with the keys of its header sorted.

    The library writes metadata in random order: equal adapters would not be equal bytes.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def from_bytes(data: bytes, origin: str | Path) -> Adapter:
    """Read adapter_model.safetensors; AdapterError names the origin if it is damaged."""
    try:
        return load(data)
    except Exception as error:
        raise AdapterError(f"{origin}: not a readable safetensors file ({error})") from error
