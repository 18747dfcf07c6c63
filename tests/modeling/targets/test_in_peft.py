"""Several adapters in one PEFT model: loaded, switched, deleted, and what PEFT does not combine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from modeling.targets.lora import WEIGHTS_FILE, AdaptedTranslator, Adapter, from_bytes, to_files
from tests.modeling.targets.test_lora import make_base

TEXT = torch.randn(5, 6, generator=torch.Generator().manual_seed(5)).double()
VISIBLE = torch.ones(5, dtype=torch.bool)


def picture() -> Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()


def an_adapter(translator: AdaptedTranslator, seed: int) -> Adapter:
    rng = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(shape, generator=rng) * 0.3 + ("lora" not in k)
        for k, shape in translator.shapes.items()
    }


def saved(translator: AdaptedTranslator, adapter: Adapter, folder: Path) -> str:
    folder.mkdir()
    for name, data in to_files(adapter, translator.lora_config, {}).items():
        (folder / name).write_bytes(data)
    return str(folder)


@pytest.fixture
def two(tmp_path: Path) -> tuple[PeftModel, dict[str, Tensor]]:
    """A PEFT model with the adapters `one` and `two`, and what we make of the picture by each."""
    translator = AdaptedTranslator(make_base(), rank=2, ranks={"head": 1})
    adapters = {name: an_adapter(translator, i) for i, name in enumerate(("one", "two"))}
    folders = {k: saved(translator, a, tmp_path / k) for k, a in adapters.items()}
    translator.network.double()  # two orders of one sum: tests/rounding.py
    ours = {}
    for name, folder in folders.items():
        adapter = from_bytes(Path(folder, WEIGHTS_FILE).read_bytes(), folder)
        double = {k: v.double() for k, v in adapter.items()}
        ours[name] = translator(double, picture(), TEXT, VISIBLE)
    model = PeftModel.from_pretrained(make_base(), folders["one"], adapter_name="one")
    model.load_adapter(folders["two"], adapter_name="two")
    return model.double().eval(), ours


def made(model: PeftModel) -> Tensor:
    with torch.no_grad():
        return model(picture(), TEXT[None], VISIBLE[None])


def test_adapters_are_loaded_switched_and_deleted(
    two: tuple[PeftModel, dict[str, Tensor]],
) -> None:
    model, ours = two
    assert (ours["one"] - ours["two"]).abs().max() > 1e-2
    for name in ("one", "two", "one"):
        model.set_adapter(name)
        torch.testing.assert_close(made(model), ours[name])
    model.set_adapter("two")
    model.delete_adapter("one")
    assert set(model.peft_config) == {"two"}
    torch.testing.assert_close(made(model), ours["two"])
    with model.disable_adapter():
        plain = made(model)
    torch.testing.assert_close(plain, made_by_base())


def made_by_base() -> Tensor:
    with torch.no_grad():
        return make_base().double()(picture(), TEXT[None], VISIBLE[None])


@pytest.mark.parametrize("way", ["linear", "cat", "svd"])
def test_peft_refuses_to_combine_ours(two: tuple[PeftModel, dict[str, Tensor]], way: str) -> None:
    """The norms' affines are saved whole, and PEFT combines none that two adapters have.

    docs/using.md says so, and what to do instead; where this fails, PEFT has learned it.
    """
    model, ours = two
    with pytest.raises(ValueError, match="target the same module with modules_to_save"):
        model.add_weighted_adapter(["one", "two"], [0.5, 0.5], "both", combination_type=way)
    model.set_adapter("one")
    torch.testing.assert_close(made(model), ours["one"])


def test_the_low_rank_part_alone_is_combined(tmp_path: Path) -> None:
    """What of an adapter PEFT does combine, by concatenation: B·A of both, exactly."""
    translator = AdaptedTranslator(make_base(), rank=2)
    config = translator.lora_config
    config.modules_to_save = None
    folders = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        adapter = {k: v for k, v in an_adapter(translator, seed).items() if "lora_" in k}
        for name, data in to_files(adapter, config, {}).items():
            (folder / name).write_bytes(data)
        folders.append(str(folder))
    model = PeftModel.from_pretrained(make_base(), folders[0], adapter_name="0")
    model.load_adapter(folders[1], adapter_name="1")
    model.add_weighted_adapter(["0", "1"], [1.0, 0.5], "both", combination_type="cat")
    model.double()
    for layer in model.base_model.model.modules():
        if hasattr(layer, "lora_A"):
            parts = [layer.get_delta_weight(k) for k in ("0", "1", "both")]
            torch.testing.assert_close(parts[0] + 0.5 * parts[1], parts[2])
