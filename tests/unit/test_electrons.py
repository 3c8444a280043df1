"""Electrons in matter that scatters them more than water."""

from __future__ import annotations

import numpy as np
import pytest

from spinedose.cones import cone_table
from spinedose.electrons import ElectronSpread, electron_spread
from spinedose.errors import BeamDataError
from spinedose.machine import read_machine
from spinedose.materials import bone_mix, material

SIX = read_machine("varian-truebeam-m120").beam("6X").spectrum

MONTE_CARLO = 0.02
"""Statistics of the table, and its interpolation in energy."""


def test_water_is_water_and_no_energy_is_lost() -> None:
    spread = electron_spread([material("titanium"), bone_mix(0.5)], 2.0)
    assert spread.lost.shape == (3, 13)
    assert not spread.lost[0].any() and not spread.lost[:, 0].any()
    assert spread.density_factor[0] == 1 and spread.returned[0] == 0


def test_titanium_takes_direction_and_reach() -> None:
    """At 2 MeV electrons in titanium keep 0.79, 0.57 and 0.44 of the first moments, and get 0.88 times as far."""
    spread = electron_spread([material("titanium")], 2.0)
    np.testing.assert_allclose(spread.lost[1, 1:4], 1 - np.array([0.789, 0.571, 0.443]), atol=MONTE_CARLO)
    assert spread.density_factor[1] == pytest.approx(1 / 0.877, abs=MONTE_CARLO)
    assert spread.returned[1] == pytest.approx(0.083, abs=0.01), "11 % come back, from water 3 %"


def test_more_bone_scatters_more_and_faster_electrons_scatter_less() -> None:
    media = [bone_mix(share) for share in (0.125, 0.5, 1.0)] + [material("titanium"), material("cobalt-chrome")]
    lost = electron_spread(media, 2.0).lost[1:, 1:4]
    assert np.all(np.diff(lost, axis=0) > 0)
    assert np.all(lost[0] < 0.06), "an eighth of bone is nearly water"
    for slow, fast in ((0.5, 2.0), (2.0, 6.0)):
        assert np.all(electron_spread(media, slow).lost[2:, 1] > electron_spread(media, fast).lost[2:, 1])


def test_beyond_the_table_its_ends_count() -> None:
    media = [material("cobalt-chrome")]
    np.testing.assert_array_equal(electron_spread(media, 8.0).lost, electron_spread(media, 19.0).lost)
    np.testing.assert_array_equal(electron_spread(media, 0.5).lost, electron_spread(media, 0.1).lost)


@pytest.mark.parametrize(
    ("lost", "factor", "message"),
    [
        (np.zeros((2, 3)), np.ones(3), "shape"),
        (np.array([[0, 0.1], [0, 0.2]]), np.ones(2), "not that of water"),
        (np.array([[0, 0.0], [0.1, 0.2]]), np.ones(2), "energy is lost"),
        (np.array([[0, 0.0], [0, 1.2]]), np.ones(2), "no sense"),
        (np.array([[0, 0.0], [0, 0.2]]), np.array([1, -1.0]), "no sense"),
    ],
)
def test_senseless_spreads_cannot_be_made(lost: np.ndarray, factor: np.ndarray, message: str) -> None:
    with pytest.raises(BeamDataError, match=message):
        ElectronSpread(lost.astype(np.float32), factor.astype(np.float32), np.zeros(len(factor), np.float32))


def test_a_spreading_cone_table_has_the_electrons_once_more() -> None:
    """The added part is minus the charged particles' energy: some 0.5 to 0.8 of what 6 MV photons release."""
    cones = cone_table(SIX)
    spread = electron_spread([material("titanium")], 2.0)
    more = cones.spreading(spread)
    assert len(more.energy) == len(cones.energy) + 1
    np.testing.assert_array_equal(more.energy[:2], cones.energy)
    assert not more.energy[-1, : cones.photon_functions].any()
    assert -0.8 < more.energy[-1].sum() < -0.5
    np.testing.assert_array_equal(more.density_factor, spread.density_factor)
    np.testing.assert_array_equal(more.returned, spread.returned)
