"""How electrons spread their energy around the place where a photon set them moving, in water and in heavier matter.

    python validation/electron_scatter.py [--electrons 200000]

A plain Monte Carlo of single electrons in unbounded matter: Compton electrons (Klein-Nishina) slow down continuously
(collision stopping power, `spinedose.materials`) and are turned at every step by a von Mises-Fisher deflection whose
mean cosine is that of the screened Rutherford cross-section with the McKinley-Feshbach factor. It knows no photon but
the first, no dose and no kernel. Writes beam_data/materials/electrons.csv: the Legendre moments of the direction in
which the energy lies, seen from the start, and its mean distance, each relative to water; and the share of the energy
of electrons that cross from water into the matter, through a plane across the beam, which ends in the water again
(docs/theory/heterogeneity.md, section 3).

References: G. Moliere, Z. Naturforsch. 2a (1947) 133 (screening); W. A. McKinley, H. Feshbach, Phys. Rev. 74 (1948)
1759, doi 10.1103/PhysRev.74.1759.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numba import njit, prange

from spinedose.materials import _collision_stopping_power as stopping_power
from spinedose.materials import _recipe as recipe_of
from spinedose.materials import material

TARGET = Path(__file__).resolve().parents[1] / "beam_data" / "materials" / "electrons.csv"

CLASSICAL_RADIUS_CM, AVOGADRO, ALPHA, REST_MEV = 2.8179403e-13, 6.02214076e23, 1 / 137.036, 0.510999
"""CODATA 2018."""

ENERGIES_MEV = (0.5, 1.0, 2.0, 4.0, 8.0)
MEDIA = ("water", "peek", "cortical-bone", "titanium", "cobalt-chrome")
ORDER = 12
LOSS, LEAST_MEV = 0.04, 0.02
"""Share of its energy that an electron loses in a step; below the least it stops on the spot."""


def transport_cross_section(number: float, tau: float) -> float:
    """First transport cross-section of an atom [cm^2]; tau is the kinetic energy in rest energies."""
    beta2 = tau * (tau + 2) / (tau + 1) ** 2
    screen = (
        (ALPHA * number ** (1 / 3) / 0.885) ** 2 / (tau * (tau + 2)) * (1.13 + 3.76 * (ALPHA * number) ** 2 / beta2)
    )
    half = np.logspace(-9, 0, 4000)  # (1 - cos) / 2
    sine = np.sqrt(half)
    mott = 1 - beta2 * half + np.pi * ALPHA * number * np.sqrt(beta2) * sine * (1 - sine)
    integrand = 2 * half / (2 * half + 0.5 * screen) ** 2 * mott * 2
    rutherford = 2 * np.pi * number * (number + 1) * CLASSICAL_RADIUS_CM**2 * (1 - beta2) / beta2**2
    return float(rutherford * np.trapezoid(integrand, half))


@njit
def deflect(direction, cosine):
    """Turn a direction by an angle, about a random azimuth."""
    sine, phi = np.sqrt(max(0.0, 1 - cosine * cosine)), 2 * np.pi * np.random.random()
    x, y, z = direction[0], direction[1], direction[2]
    if abs(z) > 0.99999:
        direction[0], direction[1], direction[2] = sine * np.cos(phi), sine * np.sin(phi), cosine * np.sign(z)
        return
    flat = np.sqrt(1 - z * z)
    direction[0] = x * cosine + sine * (x * z * np.cos(phi) - y * np.sin(phi)) / flat
    direction[1] = y * cosine + sine * (y * z * np.cos(phi) + x * np.sin(phi)) / flat
    direction[2] = z * cosine - sine * flat * np.cos(phi)


@njit
def random_cosine(mean):
    """Cosine from the von Mises-Fisher distribution of a given mean."""
    k = 1 / (1 - mean) if mean > 0.8 else 3 * mean + 1.8 * mean**3 + 1e-6
    for _ in range(20):
        slope = 1 / k**2 - 1 / np.sinh(min(k, 300.0)) ** 2
        if slope < 1e-14:
            break
        k = max(k - (1 / np.tanh(k) - 1 / k - mean) / slope, 1e-6)
    u = np.random.random()
    return 1 + np.log(u + (1 - u) * np.exp(-2 * k)) / k


@njit
def compton_electron(energy, rest):
    """Kinetic energy, and cosine to the photon, of a recoil electron."""
    a = energy / rest
    while True:
        cosine = 2 * np.random.random() - 1
        share = 1 / (1 + a * (1 - cosine))
        if np.random.random() < 0.5 * share * share * (share + 1 / share - (1 - cosine * cosine)):
            half = np.tan(0.5 * np.arccos(cosine))
            angle = np.arctan(1 / ((1 + a) * half)) if half > 1e-9 else 0.5 * np.pi
            return energy * (1 - share), np.cos(angle)


@njit
def next_step(T, log_T, stopping, turning):
    """Energy that an electron of energy T loses in its next step, stopping power and loss of direction half way."""
    dT = T if T < LEAST_MEV else max(LOSS * T, 0.001)
    at = (np.log(T - 0.5 * dT) - log_T[0]) / (log_T[1] - log_T[0])
    at = min(max(at, 0.0), len(log_T) - 1.001)
    k = int(at)
    f = at - k
    return dT, stopping[k] + f * (stopping[k + 1] - stopping[k]), turning[k] + f * (turning[k + 1] - turning[k])


@njit(parallel=True)
def follow(n, seed, energy, log_T, stopping, turning, moments, distance):
    """Add the energy of n electrons, as Legendre moments of its direction from the start, and times its distance."""
    threads, order = moments.shape[0], moments.shape[1] - 1
    for thread in prange(threads):
        np.random.seed(seed + thread)
        direction, place = np.zeros(3), np.zeros(3)
        for _ in range(n // threads):
            T, cosine = compton_electron(energy, 0.510999)
            direction[0], direction[1], direction[2] = 0.0, 0.0, 1.0
            deflect(direction, cosine)
            place[0] = place[1] = place[2] = 0.0
            while T > 0:
                dT, power, turn = next_step(T, log_T, stopping, turning)
                step = dT / power
                part = np.random.random() * step
                x, y, z = (
                    place[0] + part * direction[0],
                    place[1] + part * direction[1],
                    place[2] + part * direction[2],
                )
                r = np.sqrt(x * x + y * y + z * z)
                if r > 0:
                    mu, before, now = z / r, 1.0, z / r
                    moments[thread, 0] += dT
                    moments[thread, 1] += dT * mu
                    for l in range(2, order + 1):  # noqa: E741 - the degree l has no other name
                        before, now = now, ((2 * l - 1) * mu * now - (l - 1) * before) / l
                        moments[thread, l] += dT * now
                    distance[thread] += dT * r
                for a in range(3):
                    place[a] += 0.5 * step * direction[a]
                deflect(direction, random_cosine(np.exp(-turn * step)))
                for a in range(3):
                    place[a] += 0.5 * step * direction[a]
                T -= dT


@njit(parallel=True)
def send_back(n, seed, energy, tilt, reach, log_T, stopping, turning, entered, returned):
    """Add energy that enters matter behind the plane z = 0 from water, and what of it ends in the water again.

    Electrons start anywhere within `reach` [g/cm^2] before the plane, set moving by photons whose direction makes the
    cosine `tilt` with its normal. `stopping` and `turning` (2, t): water, then the matter behind.
    """
    threads = len(entered)
    for thread in prange(threads):
        np.random.seed(seed + thread)
        direction = np.zeros(3)
        for _ in range(n // threads):
            T, cosine = compton_electron(energy, 0.510999)
            direction[0], direction[1], direction[2] = np.sqrt(1 - tilt * tilt), 0.0, tilt
            deflect(direction, cosine)
            z, has_entered = -reach * np.random.random(), False
            while T > 0:
                side = 1 if z > 0 or (z == 0 and direction[2] > 0) else 0
                dT, power, turn = next_step(T, log_T, stopping[side], turning[side])
                step, crosses = dT / power, False
                if z * (z + step * direction[2]) < 0:
                    step, crosses = -z / direction[2], True
                    dT = min(step * power, T)
                if has_entered and side == 0:
                    returned[thread] += dT
                z = 0.0 if crosses else z + step * direction[2]
                T -= dT
                if crosses and side == 0 and not has_entered:
                    has_entered = True
                    entered[thread] += T
                deflect(direction, random_cosine(np.exp(-turn * step)))


def tables_of(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kinetic energies [MeV], stopping power [MeV cm^2/g], and how fast direction is lost [cm^2/g]."""
    recipe = recipe_of(name)
    T = np.logspace(-2, 1.31, 200)
    per_gram = recipe.moles * AVOGADRO
    turning = [
        sum(m * transport_cross_section(z, t / REST_MEV) for z, m in zip(recipe.number, per_gram, strict=True))
        for t in T
    ]
    return T, np.array([stopping_power(recipe, float(t)) for t in T]), np.array(turning)


def share_returned(name: str, energy: float, electrons: int, tilt: float = 1.0) -> float:
    """Share of the energy that electrons carry from water into matter which they bring back to the water."""
    T, *water = tables_of("water")
    _, *matter = tables_of(name)
    stopping, turning = (np.stack(pair) for pair in zip(water, matter, strict=True))
    entered, returned = np.zeros(2), np.zeros(2)
    send_back(electrons, 7, energy, tilt, 0.6 * energy + 0.1, np.log(T), stopping, turning, entered, returned)
    return float(returned.sum() / entered.sum())


def spread(name: str, energy: float, electrons: int) -> tuple[np.ndarray, float]:
    """Legendre moments 0..ORDER, and mean distance [cm of water's electrons]."""
    T, stopping, turning = tables_of(name)
    moments, distance = np.zeros((2, ORDER + 1)), np.zeros(2)
    follow(electrons, 1, energy, np.log(T), stopping, turning, moments, distance)
    total = moments[:, 0].sum()
    return moments.sum(axis=0) / total, float(distance.sum() / total * material(name).electrons_per_gram)


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--electrons", type=int, default=200_000)
    electrons = parser.parse_args().electrons
    names = [f"direction_{degree}" for degree in range(1, ORDER + 1)]
    rows = [",".join(["photon_energy_MeV", "material", "mean_number_plus_1", "returned", "distance", *names])]
    for energy in ENERGIES_MEV:
        reference = None
        for name in MEDIA:
            moments, distance = spread(name, energy, electrons)
            reference = (moments, distance) if reference is None else reference
            # beyond noise, moments of higher degree are not known
            ratio = np.where(reference[0] > 0.005, moments / np.maximum(reference[0], 1e-9), np.nan)
            for l in range(1, ORDER + 1):  # noqa: E741
                if np.isnan(ratio[l]):
                    ratio[l] = ratio[l - 1]
            returned = share_returned(name, energy, electrons)  # across the beam; at 45 degrees a fifth more returns
            numbers = [f"{v:.4f}" for v in (returned, distance / reference[1], *ratio[1:])]
            rows.append(",".join([f"{energy:g}", name, f"{material(name).scattering_number:.4f}", *numbers]))
            print(rows[-1], flush=True)
    TARGET.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
