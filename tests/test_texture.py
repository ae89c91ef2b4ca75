"""Texture, the local SD of fine detail, against the definition and what it is for."""

import numpy as np
import pytest
import torch

from medvae.normative.texture import AROUND, DETAIL, FLOOR, log_local_sd


@pytest.mark.parametrize("shape", [(9, 10), (7, 8, 9)])
def test_is_the_local_sd_of_what_departs_from_the_local_mean(shape):
    rng = np.random.default_rng(0)
    image, brain = rng.random(shape), rng.random(shape) < 0.7
    image *= brain

    def mean(values, place, edge):
        window = tuple(slice(max(0, i - edge // 2), i + edge // 2 + 1) for i in place)
        return values[window][brain[window]].mean()

    detail = np.zeros(shape)
    for place in np.argwhere(brain):
        detail[tuple(place)] = image[tuple(place)] - mean(image, place, DETAIL)
    found = log_local_sd(torch.from_numpy(image)[None, None])[0, 0].numpy()
    assert not found[~brain].any()
    for place in np.argwhere(brain):
        expected = np.log(np.sqrt(mean(detail**2, place, AROUND)) + FLOOR)
        assert found[tuple(place)] == pytest.approx(expected)


def test_ignores_brightness_and_ramps_and_feels_lost_and_added_detail():
    rng = np.random.default_rng(1)
    place = np.indices((24, 24, 24)) / 24
    flat = 0.6 + 0.03 * rng.standard_normal((24, 24, 24))
    scans = {"flat": flat, "brighter": flat + 0.3, "ramp": flat + 0.3 * place[0], "less": 0.6 + 0.3 * (flat - 0.6),
             "more": 0.6 + 3 * (flat - 0.6)}  # fmt: skip
    inner = (slice(4, -4),) * 3
    found = {k: log_local_sd(torch.from_numpy(v)[None, None])[0, 0].numpy()[inner].mean() for k, v in scans.items()}
    assert found["brighter"] == pytest.approx(found["flat"])
    assert found["ramp"] == pytest.approx(found["flat"], abs=0.02)
    assert found["less"] < found["flat"] - 0.5
    assert found["more"] > found["flat"] + 0.8


def test_a_constant_is_as_smooth_as_can_be_and_nothing_is_nothing():
    scan = torch.zeros(1, 2, 8, 8, 8)
    assert not log_local_sd(scan).any()
    scan[..., 2:6] = 0.5
    found = log_local_sd(scan)
    assert torch.allclose(found[..., 2:6], torch.tensor(FLOOR).log(), atol=1e-3)
    assert not found[..., :2].any()
