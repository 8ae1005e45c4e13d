"""Made sounds under water: calls like those of orcas, and the noise that they are heard in.

Nothing is recorded: pulsed calls with harmonics, whistles and sweeps; ships, rain, surf, clicks, hum and chains. All
are mono at 20 kHz. Shapes and frequencies are about those of killer whales: pulsed calls of 0.5 to 1.5 s whose pulse
rate, 0.5 to 2 kHz, glides and jumps, a second voice and whistles at 4 to 9 kHz (Ford, Acoustic behaviour of resident
killer whales off Vancouver Island, 1989).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Wave = npt.NDArray[np.float64]
RATE = 20_000
TOP_HZ = 9500.0


def contour(random: np.random.Generator, count: int, low: float, high: float, depth: float = 1.5) -> Wave:
    """A frequency that glides between a few points, in Hz; shape (count,)."""
    points = int(random.integers(2, 6))
    start = random.uniform(low, high)
    values = np.clip(start * depth ** random.uniform(-1, 1, points), low / depth, high * depth)
    values[0] = start
    return np.interp(np.linspace(0, points - 1, count), np.arange(points), values)


def envelope(random: np.random.Generator, count: int) -> Wave:
    """Rises in 20 to 80 ms, falls in 30 to 150 ms, and swells between; shape (count,)."""
    rise, fall = (max(1, int(RATE * random.uniform(*each))) for each in ((0.02, 0.08), (0.03, 0.15)))
    shape = np.ones(count)
    rise, fall = min(rise, count // 2), min(fall, count // 2)
    shape[:rise] = np.sin(np.linspace(0, np.pi / 2, rise))
    shape[-fall:] *= np.cos(np.linspace(0, np.pi / 2, fall))
    swell = np.interp(np.linspace(0, 4, count), np.arange(5), random.uniform(0.5, 1, 5))
    return shape * swell


def pulsed_call(random: np.random.Generator) -> Wave:
    """Harmonics of a gliding pulse rate, sometimes with a second voice."""
    count = int(RATE * random.uniform(0.45, 1.5))
    pitch = contour(random, count, 400, 1600, 1.3)
    if random.random() < 0.5:
        # The pulse rate of many calls jumps.
        pitch[int(count * random.uniform(0.3, 0.7)) :] *= random.uniform(1.2, 1.8)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    tilt, best = random.uniform(0.2, 1.0), random.uniform(1500, 5000)
    wave = np.zeros(count)
    for number in range(1, 20):
        frequency = pitch * number
        weight = np.exp(-tilt * np.abs(np.log2(np.maximum(frequency, 1) / best))) * (frequency < TOP_HZ)
        wave += weight * np.sin(number * phase + random.uniform(0, 2 * np.pi))
    if random.random() < 0.5:
        wave += random.uniform(0.5, 2) * np.sin(2 * np.pi * np.cumsum(contour(random, count, 4500, 8000, 1.15)) / RATE)
    return wave * envelope(random, count)


def whistle(random: np.random.Generator) -> Wave:
    """One gliding and trembling tone."""
    count = int(RATE * random.uniform(0.4, 2.0))
    pitch = contour(random, count, 3000, 7500, 1.25)
    pitch *= 1 + random.uniform(0, 0.04) * np.sin(2 * np.pi * random.uniform(3, 12) * np.arange(count) / RATE)
    return np.sin(2 * np.pi * np.cumsum(np.minimum(pitch, TOP_HZ)) / RATE) * envelope(random, count)


def call(random: np.random.Generator) -> Wave:
    """A call with the echo of the surface and the bottom, its root mean square 1."""
    wave = pulsed_call(random) if random.random() < 0.75 else whistle(random)
    echo = np.zeros(len(wave) + RATE // 4)
    echo[: len(wave)] = wave
    for _ in range(int(random.integers(0, 4))):
        late = int(RATE * random.uniform(0.005, 0.2))
        echo[late : late + len(wave)] += random.uniform(-0.5, 0.5) * wave
    return echo / np.sqrt(np.mean(wave**2))


def shaped(random: np.random.Generator, count: int, slope: float) -> Wave:
    """Noise whose amplitude falls with frequency ** slope, its root mean square 1."""
    spectrum = np.fft.rfft(random.normal(0, 1, count))
    spectrum *= np.maximum(np.fft.rfftfreq(count, 1 / RATE), 20.0) ** -slope
    wave = np.fft.irfft(spectrum, count)
    return wave / np.sqrt(np.mean(wave**2))


def ship(random: np.random.Generator, count: int) -> Wave:
    """Lines of the shaft and the engine, and cavitation that beats with the blades."""
    times = np.arange(count) / RATE
    blade = random.uniform(3, 15)
    wave = random.uniform(0.3, 1.5) * shaped(random, count, random.uniform(0.2, 0.8))
    wave *= 1 + random.uniform(0, 0.9) * np.sin(2 * np.pi * blade * times)
    base = random.uniform(25, 180)
    for number in range(1, int(random.integers(3, 14))):
        level = random.uniform(0, 0.7) / np.sqrt(number)
        wave += level * np.sin(2 * np.pi * base * number * times + random.uniform(0, 6))
    if random.random() < 0.3:
        # A singing propeller or a turbine: a steady tone where calls are.
        wave += random.uniform(0.05, 0.6) * np.sin(2 * np.pi * random.uniform(300, 6000) * times)
    return wave


def clicks(random: np.random.Generator, count: int) -> Wave:
    """Clicks, in trains or single, and the rattle of a chain."""
    wave = np.zeros(count)
    place, gap = random.uniform(0, 0.5), random.uniform(0.02, 0.6)
    ringing = random.uniform(0.0005, 0.02)
    while place < count / RATE:
        first, length = int(place * RATE), int(RATE * random.uniform(0.002, 0.05))
        each = np.exp(-np.arange(length) / (RATE * ringing)) * random.normal(0, 1, length)
        if random.random() < 0.3:
            each *= np.sin(2 * np.pi * random.uniform(500, 8000) * np.arange(length) / RATE)
        wave[first : first + length] += random.uniform(1, 8) * each[: count - first]
        place += gap * random.uniform(0.6, 1.6)
        gap = float(np.clip(gap * random.uniform(0.85, 1.15), 0.015, 0.8))
    return wave


def noise(random: np.random.Generator, count: int) -> Wave:
    """What is always heard, and a few of the things that are heard at times; its root mean square 1."""
    wave = shaped(random, count, random.uniform(0.3, 1.2))
    if random.random() < 0.5:
        wave += random.uniform(0.2, 3) * ship(random, count)
    if random.random() < 0.25:
        rain = shaped(random, count, random.uniform(-0.3, 0.1))
        drops = random.random(count) < random.uniform(0.0005, 0.01)
        wave += random.uniform(0.1, 1) * rain + 5 * rain * drops
    if random.random() < 0.3:
        wave += random.uniform(0.3, 2) * clicks(random, count)
    if random.random() < 0.2:
        times, mains = np.arange(count) / RATE, float(random.choice([50.0, 60.0]))
        wave += sum(random.uniform(0, 0.5) * np.sin(2 * np.pi * mains * k * times) for k in range(1, 12))
    if random.random() < 0.2:
        # Surf and flow swell in seconds.
        swell = np.interp(np.linspace(0, 8, count), np.arange(9), random.uniform(0.2, 2, 9))
        wave = wave * swell
    return wave / np.sqrt(np.mean(wave**2))


def ratio_in_band(calling: Wave, background: Wave) -> float:
    """Power of a call over that of the noise from 500 to 9000 Hz, in dB: low noise hides no call."""

    def power(wave: Wave) -> float:
        spectrum = np.abs(np.fft.rfft(wave)) ** 2
        hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
        return float(spectrum[(hertz > 500) & (hertz < 9000)].sum() / len(wave) ** 2) + 1e-20

    return 10 * np.log10(power(calling) / power(background))


def clip(
    random: np.random.Generator, seconds: float, calls: int, ratio: tuple[float, float] = (0, 20)
) -> tuple[Wave, list[tuple[float, float]]]:
    """A clip and the start and end of each call in it, in seconds; `ratio`: of a call to the noise, in dB."""
    count = int(RATE * seconds)
    wave, found = noise(random, count), []
    for _ in range(calls):
        each = call(random)[:count]
        first = int(random.integers(0, max(1, count - len(each))))
        part = wave[first : first + len(each)]
        wanted = random.uniform(*ratio)
        part += each * 10 ** ((wanted - ratio_in_band(each, part)) / 20)
        found.append((first / RATE, (first + len(each)) / RATE))
    return wave, sorted(found)
