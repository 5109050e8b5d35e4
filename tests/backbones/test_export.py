"""timm's vision transformers as ONNX files. Needs the extra `torch`, which neither CI nor everyday tests install."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchbank.backbones import Layer, export, load_backbone
from patchbank.errors import BackboneError, CheckpointError

timm = pytest.importorskip("timm", reason="the extra 'torch' is not installed")
torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'torch' is not installed")

DINO2, DINO3, TINY = "vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "vit_tiny_patch16_dinov3_qkvb"


def seeded(name: str) -> Any:
    """timm's network with weights that let every block count: as published they are drawn so small that two blocks
    give nearly the same."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    for key, each in model.named_parameters():
        torch.nn.init.normal_(each, mean=0.5 if "norm" in key or "gamma" in key or ".ls" in key else 0.0, std=0.1)
    return model


def stored(model: Any, folder: Path) -> Path:
    from safetensors.torch import save_file

    path = folder / "model.safetensors"
    save_file({key: each.contiguous() for key, each in model.state_dict().items()}, path)
    return path


def patches(model: Any, image: Any) -> np.ndarray:
    """What DINO's own code calls x_norm_patchtokens, of length 1: (1, C, h, w)."""
    side = model.patch_embed.patch_size[0]
    with torch.no_grad():
        tokens = model.forward_features(image)[:, model.num_prefix_tokens :]  # behind the last norm
    maps = tokens.transpose(1, 2).unflatten(2, (image.shape[2] // side, image.shape[3] // side))
    return np.asarray(torch.nn.functional.normalize(maps, dim=1))


@pytest.mark.parametrize(("name", "side"), [(DINO2, 14), (DINO3, 16)])
def test_dino_is_exported_for_any_size(tmp_path: Path, name: str, side: int) -> None:
    """With weights from a file, as the operator brings them; against timm's own forward pass, at sizes that the
    exporter did not see, the network's own among them. The file needs nobody's word."""
    model = seeded(name)
    path = export.export(name, tmp_path / "net.onnx", weights=stored(model, tmp_path))
    backbone = load_backbone(str(path))
    assert backbone.info.layers == (Layer("blocks.11", 384, side),)
    assert (backbone.info.embedding, backbone.info.patch_size, backbone.info.side_multiple) == ("mean", 1, side)
    assert backbone.info.licence.startswith({14: "apache-2.0", 16: "dinov3"}[side])  # timm's word for it has changed
    assert backbone.info.mean == pytest.approx((123.675, 116.28, 103.53))
    for rows, columns in ((27, 27), (37, 37), (6, 17), (16, 16)):
        image = torch.randn(1, 3, side * rows, side * columns)
        (found,) = backbone.features(image.numpy())
        np.testing.assert_allclose(found, patches(model, image), atol=1e-4)


def test_the_original_checkpoint_is_taken(tmp_path: Path) -> None:
    """Meta's .pth of DINOv2 has a token that is for training only; timm drops it. Our reader runs nothing in it."""
    model = seeded(DINO2)
    state = {**model.state_dict(), "mask_token": torch.zeros(1, 384)}
    torch.save(state, tmp_path / "dinov2_vits14_pretrain.pth")
    path = export.export(DINO2, tmp_path / "net.onnx", weights=tmp_path / "dinov2_vits14_pretrain.pth")
    image = torch.randn(1, 3, 140, 98)
    np.testing.assert_allclose(load_backbone(str(path)).features(image.numpy())[0], patches(model, image), atol=1e-4)


def test_the_original_checkpoint_of_dinov3_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Meta's names: registers, layer scales and biases are called otherwise, and there are more of them."""
    model, state = seeded(TINY), {}
    own = model.state_dict()
    for key, each in own.items():
        if key.endswith("q_bias"):
            v = own[key.replace("q_bias", "v_bias")]
            state[key.replace("q_bias", "qkv.bias")] = torch.cat([each, torch.zeros_like(each), v])
            state[key.replace("q_bias", "qkv.bias_mask")] = torch.full((3 * len(each),), torch.nan)
        elif not key.endswith("v_bias"):
            renamed = key.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma")
            state[renamed.replace("gamma_2", "ls2.gamma")] = each
    state |= {"mask_token": torch.zeros(1, 192), "rope_embed.periods": torch.ones(16)}
    torch.save(state, tmp_path / "dinov3.pth")
    path = export.export(TINY, tmp_path / "net.onnx", weights=tmp_path / "dinov3.pth")
    image = torch.randn(1, 3, 160, 112)
    np.testing.assert_allclose(load_backbone(str(path)).features(image.numpy())[0], patches(model, image), atol=1e-4)
    assert capsys.readouterr().out == ""  # timm prints each bias that it leaves out


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """And what is no checkpoint at all; nothing is written."""
    from safetensors.torch import save_file

    save_file({"blocks.0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(BackboneError, match=TINY):
        export.export(TINY, tmp_path / "net.onnx", weights=tmp_path / "other.safetensors")
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(CheckpointError, match=name):
            export.export(TINY, tmp_path / "net.onnx", weights=tmp_path / name)
    with pytest.raises(CheckpointError, match="missing"):
        export.export(TINY, tmp_path / "net.onnx", weights=tmp_path / "missing.pth")
    assert not (tmp_path / "net.onnx").exists()


def test_a_size_that_was_frozen_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's float() of a free size makes the example's size a constant of the graph: the comparison with PyTorch on
    other sizes must refuse such a file."""
    monkeypatch.setattr(export, "_free_sizes_as_floats", lambda _: contextlib.nullcontext())
    weights = stored(seeded(TINY), tmp_path)
    with pytest.raises(BackboneError, match=r"differs from PyTorch's on an image of 144x112"):
        export.export(TINY, tmp_path / "net.onnx", weights=weights)
    assert list(tmp_path.iterdir()) == [weights]


def test_a_convolutional_network_is_what_it_was(tmp_path: Path) -> None:
    """Stages of several strides: two in the middle, neighbourhoods, lengths as they are."""
    info = load_backbone(str(export.export("resnet10t", tmp_path / "net.onnx", pretrained=False))).info
    assert [(layer.name, layer.stride) for layer in info.layers] == [("layer2", 8), ("layer3", 16)]
    assert (info.licence, info.patch_size, info.side_multiple) == ("apache-2.0", 3, 1)
