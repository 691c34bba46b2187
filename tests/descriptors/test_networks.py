"""Networks of descriptors: pooling, removal of tones, sizes, invariance to the batch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
from torch.nn import functional as F

from imgfp.descriptors import networks


def test_the_full_isc21_net_ends_in_512_maps():
    with torch.device("meta"):
        state = networks.IscNet().state_dict()
    assert tuple(state["fc.weight"].shape) == (256, 512)
    assert "backbone.blocks.6.4.conv_pwl.weight" in state


def test_gem_goes_from_the_mean_to_the_maximum():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert networks.GeM(1.0, trained=False)(maps).item() == pytest.approx(2.5)
    assert networks.GeM(60.0)(maps).item() == pytest.approx(4, abs=0.1)


def test_tones_and_colours_are_removed():
    generator = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.rand(2, 1, 12, 12, generator=generator), 64, mode="bicubic")
    images = images.repeat(1, 3, 1, 1)
    front = networks.ToneFree()
    toneless = front(images)
    assert toneless.shape == (2, 3, 64, 64)
    brighter, negative = front(3 * images + 0.4), front(1 - images)
    assert (brighter - toneless).abs().mean() < 0.05
    assert (negative[:, :2] + toneless[:, :2]).abs().mean() < 0.05  # reversed, and
    assert (negative[:, 2] - toneless[:, 2]).abs().mean() < 0.05  # as strong as before
    alone = front(images[1:])
    assert torch.equal(alone[0], toneless[1]), "an image depends on its batch"
    assert front(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_copynet_gives_unit_vectors_of_its_size_for_any_grid():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    for grid in (0, 2):
        network = networks.CopyNet("regnetx_002", dim=24, levels=2, grid=grid).eval()
        with torch.inference_mode():
            vectors = network(images)
        assert vectors.shape == (2, 24)
        assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)
