"""Which material a voxel is of: bone by electrons per gram, the rest by majority."""

from __future__ import annotations

import numpy as np
import pytest

from spinedose.composition import BONE_STEPS, Composition, bone_share, named_parts
from spinedose.grid import Grid
from spinedose.hu_curve import read_curve
from spinedose.materials import bone_mix, material

GRID = Grid((0.0, 0.0, 0.0), (0.25, 0.25, 0.25), (2, 3, 4))
EVERYWHERE = (slice(0, 2), slice(0, 3), slice(0, 4))


class TestBoneShare:
    def test_muscle_has_none_and_cortical_bone_is_all_bone(self) -> None:
        mass = np.array([1.06, 1.92, 1.92, 1.04])
        soft, bone = material("muscle").electrons_per_gram, material("cortical-bone").electrons_per_gram
        ratio = np.array([soft, bone, (soft + bone) / 2, bone])
        np.testing.assert_allclose(bone_share(mass, mass * ratio), [0, 1, 0.5, 0], atol=1e-4)

    def test_stays_between_0_and_1(self) -> None:
        np.testing.assert_allclose(bone_share([1.2, 4.5], [1.2, 3.73]), [0, 1])

    def test_grows_along_the_generic_curve(self) -> None:
        curve = read_curve()
        share = bone_share(curve.mass_density, curve.electron_density)
        assert np.all(share[curve.hu <= 0] == 0)
        assert np.all(np.diff(share[(curve.hu > 0) & (curve.hu <= 1600)]) > 0)
        assert share[curve.hu == 1600][0] == pytest.approx(1.0, abs=0.02)  # 1.96 g/cm3: cortical bone

    def test_a_step_is_fine_enough(self) -> None:
        """Half a step of bone changes attenuation per electron by less than 0.05 % from 0.5 to 2 MeV."""
        energy = np.array([0.5, 1.0, 2.0])
        one, next_one = (bone_mix(k / BONE_STEPS) for k in (3, 4))
        per_electron = [m.attenuation(energy) / m.electrons_per_gram for m in (one, next_one)]
        assert np.abs(per_electron[1] / per_electron[0] - 1).max() / 2 < 5e-4


class TestMajority:
    @staticmethod
    def _materials(**share: float) -> tuple[str, ...]:
        """Names of the materials of a grid whose voxels hold these electrons, and that of voxel (0, 0, 0) first."""
        electron = np.ones(GRID.shape, dtype=np.float32) * 3
        parts = {name.replace("_", "-"): EVERYWHERE for name in share if name != "bone"}
        found = Composition(GRID, parts)
        planes = {name: np.full(GRID.shape[1:], share[name.replace("-", "_")], np.float32) for name in parts}
        bone = np.full(GRID.shape[1:], share.get("bone", 0.0), np.float32)
        for target in range(GRID.shape[0]):  # in two halves, as two CT slices
            for _ in range(2):
                found.add(target, 0.5, bone, planes)
        number, materials = found.materials(electron)
        assert number.dtype == np.uint8
        assert materials[0].name == "water"
        return (materials[number[0, 0, 0]].name, *(m.name for m in materials))

    def test_water_alone(self) -> None:
        assert self._materials() == ("water", "water")

    def test_the_metal_wins_with_more_than_half(self) -> None:
        assert self._materials(titanium=1.6) == ("titanium", "water", "titanium")

    def test_tissue_wins_with_more_than_half_and_unused_materials_go(self) -> None:
        assert self._materials(titanium=1.4) == ("water", "water")

    def test_of_three_the_greatest_wins(self) -> None:
        assert self._materials(titanium=1.2, cobalt_chrome=1.3)[0] == "cobalt-chrome"
        assert self._materials(titanium=1.2, cobalt_chrome=1.1)[0] == "titanium"

    def test_bone_and_soft_tissue_mix_in_eighths(self) -> None:
        assert self._materials(bone=1.5) == ("bone-50%", "water", "bone-50%")
        assert self._materials(bone=1.5 + 0.15)[0] == "bone-50%"
        assert self._materials(bone=1.5 + 0.22)[0] == "bone-62.5%"
        assert self._materials(bone=3 / 16 - 0.02)[0] == "water"

    def test_bone_beside_metal_is_a_share_of_the_tissue_alone(self) -> None:
        assert self._materials(titanium=1.4, bone=0.8) == ("bone-50%", "water", "bone-50%")

    def test_vacuum_is_water(self) -> None:
        number, materials = Composition(GRID, {"titanium": EVERYWHERE}).materials(np.zeros(GRID.shape, np.float32))
        assert not number.any()
        assert [m.name for m in materials] == ["water"]

    def test_a_material_counts_in_its_box_only(self) -> None:
        found = Composition(GRID, {"titanium": (slice(1, 2), slice(0, 1), slice(2, 4))})
        plane = np.full(GRID.shape[1:], 3.0, np.float32)
        for target in range(GRID.shape[0]):
            found.add(target, 1.0, np.zeros_like(plane), {"titanium": plane})
        number, _ = found.materials(np.full(GRID.shape, 3.0, np.float32))
        assert number.sum() == 2
        assert number[1, 0, 2:].all()


class TestParts:
    def test_a_curve_into_metal_gives_metal_anywhere(self) -> None:
        assert named_parts([], GRID, GRID, 4.6) == {"titanium": EVERYWHERE, "cobalt-chrome": EVERYWHERE}
        assert named_parts([], GRID, GRID, 2.8) == {}
