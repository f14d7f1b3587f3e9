import pytest
import torch

from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import build_lma
from glass_gym.model.gma import InpaintNet, PlateInpaintNet
from glass_gym.model.quantise import CosineQuantiser, PlainQuantiser
from glass_gym.model.shift import CorrelationShift, translate
from glass_gym.tensors.geometry import blend_windows, crop_windows, densest_point


def dot(x, y, height=20, width=30):
    image = torch.zeros(1, 1, height, width)
    image[0, 0, y, x] = 1.0
    return image


def test_a_shift_of_seven_pixels_moves_the_content_seven_pixels_right():
    assert torch.allclose(translate(dot(5, 4), torch.tensor([[7.0, 0.0]])), dot(12, 4), atol=1e-5)


def test_a_negative_vertical_shift_moves_the_content_up():
    assert torch.allclose(translate(dot(5, 4), torch.tensor([[0.0, -3.0]])), dot(5, 1), atol=1e-5)


def test_foregrounds_lose_what_leaves_and_backgrounds_repeat_the_border():
    ones = torch.ones(1, 1, 4, 6)
    shift = torch.tensor([[2.0, 0.0]])
    assert translate(ones, shift)[0, 0, 0].round(decimals=4).tolist() == [0, 0, 1, 1, 1, 1]
    assert translate(ones, shift, "border").min() > 0.9999


def test_the_correlation_finds_the_shift_of_a_small_foreground():
    torch.manual_seed(0)
    layer = torch.zeros(1, 4, 40, 60)
    layer[:, :3, 10:20, 20:28] = torch.rand(3, 10, 8) * 2 - 1
    layer[:, 3, 10:20, 20:28] = 1
    moved = translate(layer, torch.tensor([[6.0, -4.0]]))
    frames = torch.stack([layer[:, :3], moved[:, :3]], 1)
    masks = torch.stack([layer[:, 3:], moved[:, 3:]], 1)
    found = CorrelationShift(12, True, 60.0)(frames, masks)
    assert (found - torch.tensor([[6.0, -4.0]])).abs().max() < 0.05


def test_the_correlation_of_backgrounds_ignores_the_hole():
    torch.manual_seed(0)
    wide = torch.rand(1, 3, 40, 70) * 2 - 1
    a, b = wide[..., 5:65].clone(), wide[..., 3:63].clone()
    hole = torch.ones(1, 1, 40, 60)
    hole[..., 10:20, 20:30] = 0
    a[..., 10:20, 20:30] = 1.0
    b[..., 10:20, 20:30] = -1.0
    found = CorrelationShift(4, False, 200.0)(torch.stack([a, b], 1), torch.stack([hole, hole], 1))
    assert (found - torch.tensor([[2.0, 0.0]])).abs().max() < 0.05


def test_the_densest_point_is_the_agent_and_not_the_mean_of_agent_and_ball():
    mask = torch.zeros(1, 1, 60, 80)
    mask[0, 0, 10:20, 60:70] = 1
    mask[0, 0, 50:52, 5:7] = 1
    assert torch.allclose(densest_point(mask, 8), torch.tensor([[64.5, 14.5]]), atol=0.01)


def test_an_empty_mask_puts_the_agent_in_the_middle():
    assert densest_point(torch.zeros(1, 1, 60, 80), 8).tolist() == [[39.5, 29.5]]


def test_a_window_cut_and_blended_at_a_whole_position_is_where_it_was():
    torch.manual_seed(0)
    frame = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    mask = torch.zeros(2, 1, 40, 50)
    mask[:, :, 12:20, 18:30] = 1
    corner = torch.tensor([[14, 6], [16, 8]])
    layer = torch.cat([(frame / 127.5 - 1) * mask, mask], 1)
    grey = torch.full_like(frame, 100)
    drawn = blend_windows(crop_windows(layer, corner, 24), grey, corner.float() + 12)
    assert torch.equal(drawn, torch.where(mask.bool(), frame, grey))


def test_a_window_blended_between_pixels_is_bilinear():
    layer = torch.zeros(1, 4, 4, 4)
    layer[0, :, 1, 1] = 1  # one white pixel, window pixel (1, 1)
    black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    drawn = blend_windows(layer, black, torch.tensor([[4.25, 4.0]]))[0, 0]
    assert drawn[3].tolist() == [0, 0, 0, 191, 64, 0, 0, 0] and int(drawn.sum()) == 255


def test_what_a_window_holds_outside_the_frame_is_lost():
    layer = torch.ones(1, 4, 4, 4)
    black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    drawn = blend_windows(layer, black, torch.tensor([[0.0, 8.0]]))[0, 0] // 255
    assert drawn.sum() == 4 and drawn[6:, :2].all()


def test_a_window_over_the_edge_is_zero_outside_the_frame():
    windows = crop_windows(torch.ones(1, 1, 10, 10), torch.tensor([[-2, 7]]), 8)
    assert windows[0, 0, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert windows[0, 0, 3:].sum() == 0


@pytest.mark.parametrize("revive", [True, False])
def test_a_dead_code_is_revived_from_the_data(revive):
    quantiser = CosineQuantiser(GlassConfig.pose(codes=2), decay=0.5, dead=0.04 * revive)
    quantiser.codebook.copy_(quantiser.normalise(torch.stack([torch.ones(16), -torch.ones(16)])))
    vectors = torch.ones(64, 16) + 0.3 * torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    for _ in range(12):
        quantiser.update(vectors, torch.Generator().manual_seed(1))
    used = quantiser(vectors).index.unique()
    assert len(used) == 1 + revive


def test_k_means_finds_two_directions():
    quantiser = CosineQuantiser(GlassConfig.pose(codes=2))
    a, b = torch.zeros(16), torch.zeros(16)
    a[0] = b[1] = 1.0
    vectors = torch.cat([a.expand(30, -1), b.expand(10, -1)]) + 0.05 * torch.randn(40, 16)
    quantiser.begin(vectors, torch.Generator().manual_seed(0))
    index = quantiser(vectors).index
    assert len(index[:30].unique()) == 1 and len(index[30:].unique()) == 1 and index[0] != index[-1]


@pytest.mark.parametrize("kind", ["pose", "paper"])
def test_each_architecture_rolls_out_and_learns_from_what_it_drew(kind):
    config = GlassConfig.pose(32, 48, window=16, codes=3) if kind == "pose" else GlassConfig.paper(32, 48, codes=3)
    lma = build_lma(config)
    side = (16, 16) if kind == "pose" else (32, 48)
    assert lma.view.size == side
    layers = torch.rand(2, 4, 4, *side)
    shifts = torch.ones(2, 3, 2)
    codes = lma.quantiser.normalise(lma.directions(layers, shifts))
    drawn = lma.rollout(layers, shifts, codes)
    assert len(drawn) == 3 and drawn[-1].layer.shape == (2, 4, *side)
    sum(d.layer.sum() + sum(c.sum() for c in d.coarse) for d in drawn).backward()
    # the pose model chooses a pose: gradients of its drawings reach E and D
    parts = [lma.encoder, lma.decoder] if kind == "pose" else lma.modules_of("lma")
    silent = [n for part in parts for n, p in part.named_parameters() if p.grad is None]
    assert [n for n in silent if "codebook" not in n] == []


def test_vq_terms_move_one_side_each():
    quantiser = PlainQuantiser(GlassConfig.pose(codes=2, code_channels=2))
    for term, moved in (("commitment", "z"), ("codebook", "codebook")):
        z = torch.ones(1, 2, requires_grad=True)
        quantiser.zero_grad()
        quantiser.auxiliary_losses(z, quantiser(z), 0.25)[term].backward()
        assert (z.grad is not None) == (moved == "z")
        assert (quantiser.codebook.grad is not None) == (moved == "codebook")


@pytest.mark.parametrize("kind", [CosineQuantiser, PlainQuantiser])
def test_codes_are_left_out_and_ordered(kind):
    quantiser = kind(GlassConfig.pose(codes=4))
    before = quantiser.codebook.detach().clone()
    quantiser.keep([3, 1])
    assert torch.equal(quantiser.codebook, before[[3, 1]])
    assert isinstance(quantiser.codebook, torch.nn.Parameter) == (kind is PlainQuantiser)


def test_the_background_plate_fills_the_hole_where_its_place_is_recognised():
    net = torch.nn.Conv2d(3, 3, 3, padding=1)
    plain, with_plate = InpaintNet(net), PlateInpaintNet(net, 64, 96)
    rng = torch.Generator().manual_seed(0)
    plate = torch.rand(3, 8, 12, generator=rng).repeat_interleave(8, 1).repeat_interleave(8, 2) * 2 - 1
    known = torch.ones(1, 64, 96)
    known[:, :, 60:] = 0
    with_plate.set_plate(plate, known)
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., 4:60, 20:80] = 1  # larger than the neighbourhood that is compared
    pictures = torch.stack([plate, plate.flip(0, 1), plate + 0.02])
    pictures = pictures * (1 - mask) + mask
    with torch.no_grad():
        copied, painted = (n(pictures, mask.expand(3, -1, -1, -1)) for n in (with_plate, plain))
    assert (copied[0] - plate)[:, :, :60].abs().max() < 0.05 and (copied[2] - plate)[:, :, :60].abs().max() < 0.05
    assert torch.allclose(copied[1], painted[1], atol=0.02)  # another place
    assert torch.equal(copied[0][:, :, 60:], painted[0][:, :, 60:])  # where the plate is not known
