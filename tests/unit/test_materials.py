"""Materials: electrons, attenuation by table and by rule, stopping power, and mixtures of bone."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import replace

import numpy as np
import pytest

from spinedose import materials
from spinedose._resources import folder
from spinedose.errors import BeamDataError, InvalidInput
from spinedose.materials import bone_mix, list_materials, material

RULE_TOLERANCE = {"air": 0.002, "lung": 0.0005, "muscle": 0.0005, "cortical-bone": 0.002, "cortical-bone-icrp": 0.002}
"""Attenuation by rule against the table of the medium, from 0.2 MeV up. Muscle and lung are nearly water; air and bone
differ by the bond of electrons and by pairs beyond Z^2."""

LOW_TOLERANCE = 0.007
"""The same from 0.05 to 0.2 MeV, where the photoelectric exponent is a fit."""

# NIST, X-Ray Mass Attenuation Coefficients, Z = 26 [MeV, cm2/g], coherent scattering included:
# https://physics.nist.gov/PhysRefData/XrayMassCoef/ElemTab/z26.html
IRON = {
    1.0: 5.995e-2,
    1.25: 5.350e-2,
    1.5: 4.883e-2,
    2.0: 4.265e-2,
    3.0: 3.621e-2,
    4.0: 3.312e-2,
    6.0: 3.057e-2,
    8.0: 2.991e-2,
    10.0: 2.994e-2,
    15.0: 3.092e-2,
    20.0: 3.224e-2,
}
IRON_TOLERANCE = 0.01
"""Coherent scattering is 0.7 % of iron's attenuation at 1 MeV and below 0.3 % from 2 MeV on; the Monte Carlo tables
themselves lie up to 0.25 % below NIST's."""

# ESTAR (ICRU Report 37), collision stopping power at 1 MeV [MeV cm2/g]: water, with I = 75.0 eV.
WATER_STOPPING_POWER = 1.849


class TestList:
    def test_implants_and_tissues_are_there(self) -> None:
        wanted = {"water", "titanium", "ti-6al-4v", "cobalt-chrome", "stainless-steel-316l", "peek", "pmma-cement"}
        assert wanted | {"carbon-fibre", "carbon-peek", "muscle", "cortical-bone"} <= set(list_materials())

    @pytest.mark.parametrize("name", list_materials())
    def test_each_is_whole_and_says_whence(self, name: str) -> None:
        found = material(name)
        assert found.name == name
        assert len(found.provenance) > 10
        assert found.energy_MeV[0] <= 0.05
        assert found.energy_MeV[-1] == 20.0

    @pytest.mark.parametrize("name", ["CoCr", "cobalt chrome", " Cobalt_Chrome ", "COBALT-CHROMIUM"])
    def test_usual_names_are_understood(self, name: str) -> None:
        assert material(name).name == "cobalt-chrome"

    def test_names_are_not_given_twice(self) -> None:
        entries = materials._file()["materials"]
        every = [*entries, *(alias for entry in entries.values() for alias in entry.get("aliases", ()))]
        assert len(every) == len(set(every))

    def test_an_unknown_one_is_refused_with_the_list(self) -> None:
        with pytest.raises(InvalidInput, match=r"no material 'unobtainium' \(there are water, air"):
            material("unobtainium")

    def test_mass_shares_add_up(self) -> None:
        for entry in materials._file()["materials"].values():
            assert sum(entry["mass_share_percent"].values()) == pytest.approx(100, abs=0.01)


class TestElectrons:
    @pytest.mark.parametrize(
        ("name", "by_hand"),
        [
            ("titanium", 22 / 47.867),
            ("peek", (19 * 6 + 12 + 3 * 8) / (19 * 12.011 + 12 * 1.008 + 3 * 15.999)),
            ("pmma", (5 * 6 + 8 + 2 * 8) / (5 * 12.011 + 8 * 1.008 + 2 * 15.999)),
            ("ti-6al-4v", 0.90 * 22 / 47.867 + 0.06 * 13 / 26.982 + 0.04 * 23 / 50.942),
        ],
    )
    def test_follow_from_the_composition(self, name: str, by_hand: float) -> None:
        water = 10 / (2 * 1.008 + 15.999)
        assert material(name).electrons_per_gram == pytest.approx(by_hand / water, rel=2e-4)

    def test_cement_holds_its_barium(self) -> None:
        """11 % barium by weight as barium sulphate in PMMA."""
        shares = materials._file()["materials"]["pmma-cement"]["mass_share_percent"]
        sulphate = 0.11 / (137.33 / (137.33 + 32.06 + 4 * 15.999))
        assert shares["S"] == pytest.approx(100 * 0.11 * 32.06 / 137.33, abs=0.02)
        assert shares["C"] == pytest.approx(59.98 * (1 - sulphate), abs=0.05)
        density = 1 / (sulphate / 4.5 + (1 - sulphate) / 1.19)
        assert material("cement").mass_density_g_cm3 == pytest.approx(density, abs=0.01)


class TestAttenuation:
    def test_is_that_of_the_deposition_kernels_in_water(self) -> None:
        with (folder("beam_data") / "deposition" / "water_attenuation.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        energy = np.array([float(row["energy_MeV"]) for row in rows])
        mu = np.array([float(row["mu_over_rho_nocoherent_cm2_g"]) for row in rows])
        np.testing.assert_allclose(material("water").attenuation(energy), mu, rtol=1e-12)

    def test_is_interpolated_in_logarithms(self) -> None:
        titanium = material("titanium")
        between = titanium.attenuation(np.sqrt(2.0 * 2.5))
        assert between == pytest.approx(np.sqrt(titanium.attenuation(2.0) * titanium.attenuation(2.5)))
        assert titanium.attenuation([[1.0, 6.0]]).shape == (1, 2)

    @pytest.mark.parametrize("energy", [0.009, 21.0, -1.0, np.nan])
    def test_energies_outside_the_table_are_refused(self, energy: float) -> None:
        with pytest.raises(BeamDataError, match="leave the table of 'water'"):
            material("water").attenuation([1.0, energy])

    @pytest.mark.parametrize("name", RULE_TOLERANCE)
    def test_the_rule_gives_back_media_that_have_a_table(self, name: str) -> None:
        energy, by_rule = materials._derived_attenuation(materials._recipe(name))
        error = np.abs(by_rule / material(name).attenuation(energy) - 1)
        assert error[energy >= 0.2].max() < RULE_TOLERANCE[name]
        assert error.max() < LOW_TOLERANCE

    def test_the_rule_gives_water_and_titanium_exactly(self) -> None:
        for name in ("water", "titanium"):
            energy, by_rule = materials._derived_attenuation(materials._recipe(name))
            np.testing.assert_allclose(by_rule, material(name).attenuation(energy), rtol=1e-12)

    @pytest.mark.parametrize("energy", IRON)
    def test_the_rule_reaches_to_iron(self, energy: float) -> None:
        iron = materials._Recipe(np.array([26.0]), np.array([1 / 55.845]), 7.87, 286.0)
        nodes, by_rule = materials._derived_attenuation(iron)
        assert by_rule[nodes == energy][0] == pytest.approx(IRON[energy], rel=IRON_TOLERANCE)
        assert by_rule[nodes == energy][0] < IRON[energy] * 1.002  # coherent scattering only adds

    @pytest.mark.parametrize(("energy", "barn"), [(0.1, 450.2), (0.2, 63.2), (0.5, 5.35)])
    def test_the_rule_reaches_to_barium(self, energy: float, barn: float) -> None:
        """XCOM's photoelectric cross section an atom, plus Compton scattering as in water; the bond of electrons, left
        out here, takes a few percent from the latter."""
        barium = materials._Recipe(np.array([56.0]), np.array([1 / 137.33]), 3.5, 491.0)
        nodes, by_rule = materials._derived_attenuation(barium)
        compton = material("water").attenuation(energy) * barium.electrons / materials._recipe("water").electrons
        assert by_rule[nodes == energy][0] == pytest.approx(compton + barn * 0.602214 / 137.33, rel=0.03)

    def test_heavier_metals_attenuate_more_at_both_ends(self) -> None:
        titanium, cobalt = material("titanium"), material("cobalt-chrome")
        ratio = cobalt.attenuation([0.1, 1.0, 10.0]) / titanium.attenuation([0.1, 1.0, 10.0])
        assert ratio[0] > 1.3
        assert ratio[1] == pytest.approx(cobalt.electrons_per_gram / titanium.electrons_per_gram, rel=5e-3)
        assert ratio[2] > 1.05


class TestStoppingPower:
    def test_of_water_is_that_of_estar(self) -> None:
        water = materials._recipe("water")
        as_in_estar = materials._Recipe(water.number, water.moles, 1.0, 75.0)
        assert materials._collision_stopping_power(as_in_estar) == pytest.approx(WATER_STOPPING_POWER, rel=2e-3)

    @pytest.mark.parametrize(("name", "least", "most"), [("cortical-bone", 0.87, 0.90), ("titanium", 0.71, 0.75)])
    def test_falls_with_the_atomic_number(self, name: str, least: float, most: float) -> None:
        """Bone: water over bone is about 1.11 to 1.14 (Siebers et al. 2000); titanium: below its electrons a gram."""
        found = material(name)
        assert least < found.stopping_power_ratio < most
        assert found.stopping_power_ratio < found.electrons_per_gram

    @pytest.mark.parametrize(
        ("shares", "excitation_eV"),
        [
            ({"Ba": 58.842, "S": 13.7368, "O": 27.4212}, 285.7),  # G4_BARIUM_SULFATE of Geant4, after ICRU Report 37
            ({"H": 4.7234, "C": 14.433, "N": 4.199, "O": 44.6096, "Mg": 0.22, "P": 10.497, "S": 0.315, "Ca": 20.993,
              "Zn": 0.01}, 106.4),  # cortical bone (ICRP), ESTAR
        ],
    )  # fmt: skip
    def test_mean_excitation_energies_add_up_as_in_icru_37(
        self, shares: dict[str, float], excitation_eV: float
    ) -> None:
        elements = [materials._file()["elements"][symbol] for symbol in shares]
        electrons = [mass * e["number"] / e["weight"] for mass, e in zip(shares.values(), elements, strict=True)]
        logarithms = [np.log(materials._excitation_eV(element, is_compound=True)) for element in elements]
        assert np.exp(np.average(logarithms, weights=electrons)) == pytest.approx(excitation_eV, rel=2e-3)


class TestBoneMix:
    def test_ends_are_muscle_and_cortical_bone(self) -> None:
        for fraction, name in ((0.0, "muscle"), (1.0, "cortical-bone")):
            mix, pure = bone_mix(fraction), material(name)
            assert mix.electrons_per_gram == pytest.approx(pure.electrons_per_gram)
            assert mix.mass_density_g_cm3 == pytest.approx(pure.mass_density_g_cm3)
            assert mix.stopping_power_ratio == pytest.approx(pure.stopping_power_ratio)
            np.testing.assert_allclose(mix.mu_over_rho_cm2_g, pure.mu_over_rho_cm2_g)

    def test_the_middle_is_the_mean_by_mass(self) -> None:
        mean = (material("muscle").attenuation(3.0) + material("cortical-bone").attenuation(3.0)) / 2
        assert bone_mix(0.5).attenuation(3.0) == pytest.approx(mean)
        assert bone_mix(0.5).mass_density_g_cm3 == pytest.approx(2 / (1 / 1.05 + 1 / 1.92))

    @pytest.mark.parametrize("fraction", [-0.1, 1.1, np.nan])
    def test_other_shares_are_refused(self, fraction: float) -> None:
        with pytest.raises(InvalidInput, match="bone share"):
            bone_mix(fraction)


class TestWrongMaterials:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"mass_density_g_cm3": 0.0}, "density"),
            ({"mass_density_g_cm3": np.nan}, "density"),
            ({"electrons_per_gram": 0.555}, "electrons"),  # Z/A instead of relative
            ({"energy_MeV": [1.0, 1.0]}, "do not rise"),
            ({"energy_MeV": [1.0]}, "two are needed"),
            ({"energy_MeV": [1.0, 2.0, 3.0]}, "different length"),
            ({"mu_over_rho_cm2_g": [0.1, -0.1]}, "not positive"),
            ({"mu_over_rho_cm2_g": [0.1, np.nan]}, "not positive"),
            ({"stopping_power_ratio": 18.0}, "stopping power"),
            ({"provenance": " "}, "provenance"),
        ],
    )
    def test_cannot_be_made(self, change: dict[str, object], words: str) -> None:
        sound = replace(material("water"), energy_MeV=np.array([1.0, 2.0]), mu_over_rho_cm2_g=np.array([0.07, 0.05]))
        with pytest.raises(BeamDataError, match=words):
            replace(sound, **change)  # type: ignore[arg-type]

    def test_the_data_say_where_they_come_from(self) -> None:
        path = folder("beam_data") / "materials" / "materials.toml"
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        assert {"atomic_weights", "excitation_eV", "licence"} <= set(content["provenance"])
        assert all(entry["source"] for entry in content["materials"].values())
